"""The nodes of a cluster: the same gpt2rt and the same bundle on each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gpt2rt import __version__
from gpt2rt.bundles import catalog, fetching, library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadBundle, ClusterFailure, Gpt2rtError, InvalidSetting


def place(model: str | None, bundle: Bundle) -> str:
    """How other nodes find a bundle that was opened as `model` here (None: as the default).

    That is a URL, a name in each node's home directory, or a path.
    """
    named = model or os.environ.get("GPT2RT_MODEL", "")
    if fetching.is_url(named):
        return named
    if library.is_embedded(bundle):
        return catalog.DEMO
    if bundle.directory.parent == catalog.bundles_directory():
        return bundle.directory.name
    return str(Path(bundle.directory).absolute())


def opened(place: str, digest: str) -> Bundle:
    """The bundle at `place` of this node, with the digest that it has where the job began.

    Raises as `library.find`; `BadBundle` for another bundle.
    """
    if fetching.is_url(place):
        return fetching.fetched(place, digest)
    bundle = library.find(place)
    if place == catalog.DEMO and bundle.digest != digest:  # an exported one goes before it
        bundle = Bundle.open(catalog.demo_bundle())
    if bundle.digest != digest:
        raise BadBundle(
            f"{place}: another bundle than where the job began (digest {bundle.digest[:12]}…, not "
            f"{digest[:12]}…); copy that one here, or name a packed bundle by its URL"
        )
    return bundle


def check(place: str, digest: str, *, gpu: bool) -> None:
    """Have every node that may work look for gpt2rt and the bundle, and fetch it from a URL.

    Raises `ClusterFailure` naming the nodes where something is wrong.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    look = ray.remote(num_cpus=0, max_retries=0)(_look(__version__, place, digest))
    kind = "GPU" if gpu else "CPU"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(kind)]
    if not nodes:
        raise InvalidSetting(f"the cluster has no node with a {kind}")
    asked = [
        (node, look.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote())
        for node in nodes
    ]
    told = {node["NodeManagerAddress"]: fault for node, ref in asked if (fault := _answer(ref))}
    if told:
        faults = "; ".join(f"node {address}: {fault}" for address, fault in told.items())
        raise ClusterFailure(faults)


def _look(version: str, place: str, digest: str) -> Callable[[], str | None]:
    """A function that Ray sends as it is, so that it runs beside any version of gpt2rt, or none."""

    def look() -> str | None:
        try:
            import gpt2rt
        except ImportError as error:
            return f"cannot import gpt2rt ({error}); install gpt2rt {version} there"
        if gpt2rt.__version__ != version:
            return f"has gpt2rt {gpt2rt.__version__}, not {version} as here; install the same"
        from gpt2rt.corpus.nodes import fault

        return fault(place, digest)

    return look


def fault(place: str, digest: str) -> str | None:
    """What is wrong with the bundle at `place` of this node."""
    try:
        opened(place, digest)
    except Gpt2rtError as error:
        return str(error)
    return None


def _answer(ref: object) -> str | None:
    import ray

    try:
        return ray.get(ref)  # type: ignore[no-any-return,unused-ignore]
    except ray.exceptions.RayTaskError as error:
        return " ".join(str(error.cause or error).split())[-300:]
    except ray.exceptions.RayError:  # the node left meanwhile; who comes later is looked at then
        return None
