"""Opens a bundle's portable graph on any provider of the table, or says why it cannot be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import home
from gpt2rt.bundles.manifest import GRAPH, PORTABLE_GRAPH
from gpt2rt.engine.chosen import chosen
from gpt2rt.engine.placement import placement
from gpt2rt.engine.plugins import Place, built_in, place_of, provider_named, reason_of
from gpt2rt.engine.provider_table import Provider, Wish
from gpt2rt.engine.providers import (
    AUTO,
    CPU,
    CUDA,
    PROVIDERS,
    NativePath,
    Threads,
    provider_for,
    session_options,
)
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing

if TYPE_CHECKING:
    from gpt2rt.engine.cuda.memory import Memory
    from gpt2rt.engine.forks import ForkAwareSession

COMPILED = "compiled"  # the folder of the home directory for what providers compile


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle's graph in a session.

    `provider` is as users write it, `kind` one of `INTERFACES`, `kv` the dtype of keys and values,
    `few_shapes` as in `Provider`; `notes` say what does not run where it was asked to. On CUDA
    `memory` is that of the device.
    """

    session: ForkAwareSession
    provider: str
    graph: Path
    kind: str
    kv: str
    few_shapes: bool = False
    notes: tuple[str, ...] = ()
    memory: Memory | None = None


def resolve(bundle: Bundle, text: str = AUTO) -> str:
    """What runs a bundle: `cpu`, `cuda`, or another provider with its device (`openvino:gpu`).

    `auto` is the provider that was measured to be the fastest (`gpt2rt.engine.chosen`); else CUDA
    if it is usable, else the CPU. Raises `InvalidSetting`, `BadBundle` or `ProviderMissing`.
    """
    if text == AUTO and (choice := chosen(bundle)) is not None:
        try:
            return resolve(bundle, choice.provider)
        except (ProviderMissing, InvalidSetting):
            pass  # it is no longer there, so nothing was chosen
    if text in (AUTO, CPU, CUDA):
        return provider_for(bundle, text)
    provider, _ = provider_named(text)
    portable_graph(bundle, provider)
    return str(place_of(text))


def open_on(bundle: Bundle, text: str, threads: Threads) -> Opened:
    """Open a bundle on the provider and device that `text` names, such as `openvino:gpu`.

    Raises `InvalidSetting`, `BadBundle` or `ProviderMissing`; the last also if more of the graph
    would run on the CPU than the provider's row allows.
    """
    provider, _ = provider_named(text)
    graph = portable_graph(bundle, provider)
    place = place_of(text)
    session = _session(graph, place, threads, bundle.manifest.precision)
    found = placement(session, provider.runtime_name)
    if found.share > provider.most_elsewhere:
        raise ProviderMissing(
            f"{graph}: {place} would run too little of it: {found}, "
            f"{provider.most_elsewhere:.0%} may be"
        )
    notes = (f"{place}: {found}",) if found.elsewhere else ()
    kind = "portable" if bundle.manifest.graph == "fused" else "standard"
    return Opened(session, str(place), graph, kind, "float32", provider.few_shapes, notes)


def portable_graph(bundle: Bundle, provider: Provider) -> Path:
    """The file of a bundle's graph for a provider other than `cpu` and `cuda`.

    Raises `ProviderMissing` for a precision that the provider does not take, `BadBundle` for a
    bundle of before.
    """
    manifest = bundle.manifest
    if manifest.precision not in provider.precisions:
        takes = ", ".join(provider.precisions)
        raise ProviderMissing(
            f"{provider.name} takes bundles in {takes}; {bundle.name} is {manifest.precision}"
        )
    if manifest.graph == "standard":
        return bundle.directory / GRAPH
    if PORTABLE_GRAPH not in manifest.files:
        raise BadBundle(
            f"{bundle.directory}: made before bundles ran on {provider.name}; {bundle.remedy}"
        )
    return bundle.directory / PORTABLE_GRAPH


def _session(graph: Path, place: Place, threads: Threads, precision: str) -> ForkAwareSession:
    from gpt2rt.engine.forks import ForkAwareSession

    # ONNX Runtime's own threads would wait in a loop, on the cores that the provider computes on.
    options = session_options(replace(threads, spinning=False), prepack=True)
    device = place.device
    wish = Wish(
        device=device.name,
        number=device.number,
        built_in=built_in(place.provider),
        threads=options.intra_op_num_threads,
        precision=precision,
        cache=compiled(place.provider),
    )
    wanted = dict(place.provider.options(wish))
    chosen: dict[str, Any] = {}
    if device.handle is not None:
        options.add_provider_for_devices([device.handle], wanted)
    else:
        own = place.provider.runtime_name
        chosen = {"providers": [(own, wanted), PROVIDERS[CPU]], "enable_fallback": 0}
    try:
        session = ForkAwareSession(NativePath(graph), options, foreign=True, **chosen)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ProviderMissing(f"{graph}: {place} cannot run it ({reason_of(error)})") from error
    if place.provider.runtime_name not in session.get_providers():
        raise ProviderMissing(
            f"{graph}: ONNX Runtime could not start {place} and would have run on the CPU; "
            "`gpt2rt doctor` says what is missing"
        )
    return session


def compiled(provider: Provider) -> Path:
    """The directory of what a provider compiles, which is made if the provider uses it.

    Its name has the provider's version, since what one compiles another may not read.
    """
    place = home() / COMPILED / f"{provider.name}-{version_of(provider)}"
    if provider.caches:
        place.mkdir(parents=True, exist_ok=True)
    return place


def version_of(provider: Provider) -> str:
    """The version of the package that has the provider; that of ONNX Runtime if it is built in."""
    import onnxruntime as ort

    if built_in(provider):
        return str(ort.__version__)
    try:
        return metadata.version(provider.package)
    except metadata.PackageNotFoundError:
        return "0"
