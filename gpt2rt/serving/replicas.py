"""How `gpt2rt serve --ray` spreads a server over a cluster: its replicas, and what each has.

Nothing here needs Ray: `gpt2rt.serving.ray_serve` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gpt2rt.checks import check_kind, check_whole
from gpt2rt.engine.providers import physical_cores
from gpt2rt.errors import InvalidSetting
from gpt2rt.serving.guard import GRACE
from gpt2rt.serving.server import listen
from gpt2rt.serving.settings import ServeSettings, keys_in

APPLICATION = DEPLOYMENT = "gpt2rt"  # their names on the cluster
BUILDER = "gpt2rt.serving.ray_serve:build_app"
SPARE = 16  # requests of a replica beyond its texts: the page, /ready and alike
FULL = 0.75  # share of a replica's slots in use beyond which more replicas start
AGAIN = 1  # seconds after which a client may try again where no replica takes its request
ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
COUNTS = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?")
# Fields of `ServeSettings` that a file for `serve deploy` has elsewhere, or should not have.
ELSEWHERE = ("port", "keys")


@dataclass(frozen=True, slots=True)
class Replicas:
    """How a server is spread over a cluster.

    Raises `InvalidSetting` for values that mean nothing.

    Attributes:
        settings: what each replica is told; `host` and `port` are where every node with a replica
            listens, `threads` are the cores that a replica takes.
        least: replicas that there always are.
        most: replicas under load.
        gpus: devices of each replica; less than 1: replicas share one.
        sessions: whether requests with the same `X-Session-Id` go to the same replica.
        access_log: whether replicas print a line for each request.
        api_key_file: a file on the nodes with a key a line, beside those of `settings`.
    """

    settings: ServeSettings
    least: int = 1
    most: int = 1
    gpus: float = 0
    sessions: bool = False
    access_log: bool = True
    api_key_file: str | None = None

    def __post_init__(self) -> None:
        check_whole("replicas", self.least, 1)
        check_whole("replicas", self.most, self.least)
        check_kind("gpus", self.gpus, (int, float))
        if not 0 <= self.gpus < math.inf:
            raise InvalidSetting(f"gpus must be 0 or more, not {self.gpus}")
        for name in ("sessions", "access_log"):
            check_kind(name, getattr(self, name), bool)
        check_kind("api_key_file", self.api_key_file, str, optional=True)
        check_whole("threads", self.settings.threads, 1)

    @property
    def count(self) -> str:
        """How many, as the option has it: `2`, or `1..4`."""
        return str(self.least) if self.least == self.most else f"{self.least}..{self.most}"

    def opened(self) -> ServeSettings:
        """The settings with all keys. Raises `InvalidSetting` if their file cannot be read."""
        if self.api_key_file is None:
            return self.settings
        return replace(self.settings, keys=(*self.settings.keys, *keys_in(self.api_key_file)))

    def options(self) -> dict[str, Any]:
        """The options of the deployment, as `ray.serve.deployment` has them."""
        s = self.settings
        options: dict[str, Any] = {
            "name": DEPLOYMENT,
            "ray_actor_options": {"num_cpus": s.threads, "num_gpus": self.gpus},
            # A replica's own queue is full before this, and tells so by a 429.
            "max_ongoing_requests": s.slots + s.queue + SPARE,
            "max_queued_requests": s.slots + s.queue,
            "backpressure_config": {"status_code": 429, "retry_after_s": AGAIN},
            "graceful_shutdown_timeout_s": s.drain,
            "graceful_shutdown_wait_loop_s": 0.2,
            "health_check_period_s": 2,
            "max_constructor_retry_count": 3,
        }
        if self.least == self.most:
            options["num_replicas"] = self.least
        else:
            options["autoscaling_config"] = {
                "min_replicas": self.least,
                "max_replicas": self.most,
                "target_ongoing_requests": max(1, int(FULL * s.slots)),
            }
        if self.sessions:
            options["request_router_config"] = {"request_router_class": ROUTER}
        return options

    def http_options(self) -> dict[str, Any]:
        """Where and how the nodes listen, as Serve has it."""
        s = self.settings
        return {"host": s.host, "port": s.port, "request_timeout_s": s.timeout + 2 * GRACE}

    def config(self) -> dict[str, Any]:
        """What a file for `serve deploy` says.

        Raises `InvalidSetting` for keys: a file names the file that has them.
        """
        if self.settings.keys:
            raise InvalidSetting("keys are not written; name a file on the nodes: --api-key-file")
        return {
            "proxy_location": "EveryNode",
            "http_options": self.http_options(),
            "applications": [
                {
                    "name": APPLICATION,
                    "route_prefix": "/",
                    "import_path": BUILDER,
                    "args": self.arguments(),
                }
            ],
        }

    def arguments(self) -> dict[str, Any]:
        """What `of_arguments` makes this of again, in the types of YAML; defaults are left out."""
        given, usual = asdict(self.settings), asdict(ServeSettings())
        found = {
            name: value
            for name, value in given.items()
            if name not in ELSEWHERE and (value != usual[name] or name in ("models", "host"))
        }
        found["models"] = list(self.settings.models)
        found["replicas"] = self.count
        usual_here = {field.name: field.default for field in fields(self)}
        for name in ("gpus", "sessions", "access_log", "api_key_file"):
            if (value := getattr(self, name)) != usual_here[name]:
                found[name] = value
        return found

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Replicas:
        """What a file for `serve deploy` has as the application's `args`.

        Raises `InvalidSetting` for arguments that there are not, and for their values.
        """
        own = {"gpus", "sessions", "access_log", "api_key_file"}
        known = {field.name for field in fields(ServeSettings)} - {*ELSEWHERE}
        if wrong := [str(name) for name in arguments if name not in {*known, *own, "replicas"}]:
            raise InvalidSetting(
                f"args has no {', '.join(wrong):.100}: there are "
                f"{', '.join(sorted({*known, *own, 'replicas'}))}"
            )
        given = {name: arguments[name] for name in known & set(arguments)}
        models = given.pop("models", ())
        check_kind("models", models, (list, tuple))
        for name in models:
            check_kind("a model", name, str)
        settings = ServeSettings(**{"threads": 1, **given}, models=tuple(models))
        least, most = counts(str(arguments.get("replicas", 1)))
        rest = {name: arguments[name] for name in own & set(arguments)}
        return cls(settings, least, most, **rest)


def counts(text: str) -> tuple[int, int]:
    """The least and the most replicas of `2` or `1..4`. Raises `InvalidSetting`."""
    found = COUNTS.fullmatch(text)
    if found is None or not 0 < int(found[1]) <= int(found[2] or found[1]):
        raise InvalidSetting(f"replicas are a number, or LEAST..MOST, not {text!r:.60}")
    return int(found[1]), int(found[2] or found[1])


def fitted(
    settings: ServeSettings, most: int, cores: tuple[float, float], gpus: tuple[float, float]
) -> tuple[ServeSettings, int]:
    """The settings and the devices of each of `most` replicas on a cluster.

    `cores` and `gpus` are those of the cluster and of its largest node. Without `threads` a replica
    takes its share of the cores. It has a device with the provider `cuda`, and with `auto` where
    there are enough. Raises `InvalidSetting` for a replica that no node has room for.
    """
    if settings.threads is None:
        share = max(1, int(min(cores[0] / most, cores[1])))
        settings = replace(settings, threads=share)
    elif settings.threads > cores[1]:
        raise InvalidSetting(f"no node has {settings.threads} cores; the largest has {cores[1]:g}")
    wanted = {"cpu": 0.0, "cuda": 1.0, "auto": float(most)}.get(settings.provider, 1.0)
    if settings.provider == "cuda" and gpus[0] < 1:
        raise InvalidSetting("the cluster has no GPU; --provider cpu does without")
    return settings, int(0 < wanted <= gpus[0])


def local_cores(settings: ServeSettings, most: int) -> int:
    """The cores of a cluster of this machine: what it has, or what `most` replicas are to take."""
    return max(physical_cores(), most * (settings.threads or 1))


def listening(settings: ServeSettings) -> ServeSettings:
    """The same with a port that is free here. Raises `InvalidSetting` if it cannot be had."""
    with listen(settings.host, settings.port) as free:
        return replace(settings, port=free.getsockname()[1])
