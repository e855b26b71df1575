"""`gpt2rt serve --ray`: the application as a deployment of Ray Serve.

A replica is the whole server of `gpt2rt serve`, guard included, without its sockets: Serve's
proxies listen, choose a replica and pass the answer on as it comes.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from functools import partial
from types import FrameType
from typing import Any
from urllib.request import urlopen

from prometheus_client.metrics_core import Metric
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2rt.cluster import resources
from gpt2rt.errors import ClusterFailure, InvalidSetting, StepFailed, reason
from gpt2rt.serving.app import application
from gpt2rt.serving.replica_metrics import exposition
from gpt2rt.serving.replicas import APPLICATION, DEPLOYMENT, Replicas
from gpt2rt.serving.server import warn_if_open
from gpt2rt.serving.service import Service

ID = b"x-request-id"
MOST_ID = 64  # characters of a client's own id that stand in the log
PATIENCE = 5.0  # seconds for what all replicas are asked
LAST = 20.0  # seconds that Ray has to end, beside those that requests have
SLOW = 30.0  # seconds that a start may take until somebody who waits wants to know why
LOOK = 1.0  # seconds between looks whether the application is still there
RAISED = re.compile(r"^(?:ray\.\S+: )?gpt2rt\.errors\.\w+: (.+)$", re.MULTILINE)


class Replica:
    """A replica: models, their batches, and the application. Serve calls its methods."""

    def __init__(self, replicas: Replicas) -> None:
        log = sys.stdout if replicas.access_log else None
        # As `gpt2rt serve` does: what is there at the start is no garbage to look for.
        self._service = Service(replicas.opened(), log, gc.freeze)
        self._service.counts = self._all_counts
        self._name = serve.get_replica_context().replica_tag

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return BehindServe(application(self._service))

    async def check_health(self) -> None:
        """Serve sends requests when this returns first, and replaces the replica if it raises."""
        await self._service.started()
        if self._service.state == "failing":
            raise StepFailed("the last steps of a model failed")

    async def families(self) -> tuple[str, list[Metric]]:
        """The replica's name and what it counts."""
        return self._name, list(self._service.metrics.collect())

    async def drain(self) -> None:
        """Take no new requests: they are told so, as by `gpt2rt serve`."""
        self._service.draining = True

    async def in_flight(self) -> int:
        """Requests that run."""
        return self._service.in_flight

    async def cut(self) -> None:
        """End the requests that run, as if they had taken too long."""
        self._service.cut()

    async def _all_counts(self) -> bytes:
        """The counts of all replicas that answer."""
        handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        asked = handle.broadcast("families")
        answers = await asked.results_async(timeout_s=PATIENCE, return_exceptions=True)
        return exposition(dict(each for each in answers if not isinstance(each, Exception)))


class BehindServe:
    """The application `app` behind Serve's proxy, which gives each request its id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            ids = [value for name, value in scope["headers"] if name.lower() == ID]
            if ids:
                name = ids[-1].decode("latin-1")[:MOST_ID]
                scope = {**scope, "state": {**scope.get("state", {}), "id": name}}
            send = partial(_without_id, send)
        await self._app(scope, receive, send)


async def _without_id(send: Send, message: Message) -> None:
    """Pass an answer on without its id: the proxy adds it."""
    if message["type"] == "http.response.start":
        headers = [(name, value) for name, value in message["headers"] if name.lower() != ID]
        message = {**message, "headers": headers}
    await send(message)


def deployed(replicas: Replicas) -> serve.Application:
    """The application for Serve."""
    made = serve.deployment(serve.ingress()(Replica), **replicas.options())
    return made.bind(replicas)


def build_app(arguments: Mapping[str, Any]) -> serve.Application:
    """The application that a file for `serve deploy` names; see `Replicas.of_arguments`."""
    return deployed(Replicas.of_arguments(arguments))


def run(replicas: Replicas, tell: Callable[[str], None]) -> None:
    """Serve on the cluster that the program has joined, until SIGTERM or Ctrl-C.

    Running requests finish then, as by `gpt2rt serve`. Raises `InvalidSetting` where Serve listens
    elsewhere or the cluster serves already, and `ClusterFailure` for what keeps replicas from
    starting, or ends them.
    """
    host, port = replicas.settings.host, replicas.settings.port
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with redirect_stdout(sys.stderr), _Ending() as ending:  # where Ray tells of workers that died
        warn_if_open(replicas.settings, tell)
        _start_serve(replicas)
        try:
            handle = _started(replicas, url, tell)
            names = ", ".join(replicas.settings.models) or "the default model"
            tell(f"serving {names} at {url}; replicas: {replicas.count}; Ctrl-C ends it")
            ending.wait(_check_there)
            _end_at_last(replicas.settings.drain + LAST)
            _drain(handle, replicas.settings.drain)
        finally:
            with suppress(Exception):  # the cluster may be gone
                serve.delete(APPLICATION)


def _start_serve(replicas: Replicas) -> None:
    """Start Serve on the cluster, where it does not run."""
    try:
        serve.start(proxy_location="EveryNode", http_options=replicas.http_options())
        applications = serve.status().applications
    except Exception as error:
        why = _reason(str(error))
        raise ClusterFailure(f"Serve does not start on the cluster: {why}") from error
    if APPLICATION in applications:
        raise InvalidSetting("the cluster serves already; `serve shutdown` ends that")


def _end_at_last(seconds: float) -> None:
    """End the program after so long, whatever Ray waits for."""
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()


def _started(replicas: Replicas, url: str, tell: Callable[[str], None]) -> DeploymentHandle[Any]:
    """A handle to the replicas, which answer at `url`; `tell` if that takes long."""
    slow = threading.Timer(SLOW, tell, [_why_slow(replicas)])
    slow.start()
    try:
        handle: DeploymentHandle[Any] = serve.run(deployed(replicas), name=APPLICATION)
    except (RuntimeError, RayServeException) as error:
        why = _reason(_told_of_replicas() or str(error))
        raise ClusterFailure(f"no replica could start: {why}") from error
    finally:
        slow.cancel()
    try:
        with urlopen(f"{url}/-/healthz", timeout=SLOW):
            return handle
    except OSError as error:
        raise InvalidSetting(
            f"Serve does not listen at {url} ({reason(error)}): it may run on this cluster with "
            "another address already; take that, or end it by `serve shutdown`"
        ) from error


def _why_slow(replicas: Replicas) -> str:
    each = f"{replicas.settings.threads} cores" + f" and {replicas.gpus} GPU" * bool(replicas.gpus)
    (cores, _), (gpus, _) = resources("CPU"), resources("GPU")
    return (
        f"waiting for {replicas.least} replicas, each with {each}; "
        f"the cluster has {cores:g} cores and {gpus:g} GPUs"
    )


def _told_of_replicas() -> str:
    """What Serve tells of the deployment, with the traceback of a replica that could not start."""
    found = serve.status().applications.get(APPLICATION)
    deployment = found and found.deployments.get(DEPLOYMENT)
    return deployment.message if deployment else ""


def _reason(said: str) -> str:
    """What Serve says, in a line: of an error of ours, in a traceback, its message."""
    found = RAISED.findall(said)
    return found[-1] if found else " ".join(said.split())[:300]


def _check_there() -> None:
    """Raises `ClusterFailure` unless the application is still on the cluster."""
    try:
        applications = serve.status().applications
    except Exception as error:
        raise ClusterFailure(f"the cluster is gone: {reason(error).splitlines()[0]}") from error
    if APPLICATION not in applications:
        raise ClusterFailure("somebody ended the application on the cluster")


def _drain(handle: DeploymentHandle[Any], seconds: float) -> None:
    """Let requests that run finish for as long; new ones are told that the server is ending."""
    end = time.monotonic() + seconds
    _ask(handle, "drain")
    while any(_ask(handle, "in_flight")) and time.monotonic() < end:
        time.sleep(0.1)
    _ask(handle, "cut")


def _ask(handle: DeploymentHandle[Any], method: str) -> list[Any]:
    """What the replicas that answer answer."""
    try:
        answers = handle.broadcast(method).results(timeout_s=PATIENCE, return_exceptions=True)
    except TimeoutError:
        return []
    return [answer for answer in answers if not isinstance(answer, Exception)]


class _Ending:
    """A context in which the first signal ends `wait`, and any other the program."""

    def __init__(self) -> None:
        self._waiting = False
        self._told = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Ending:
        for which in (signal.SIGTERM, signal.SIGINT):
            self._before[which] = signal.signal(which, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _handle(self, which: int, frame: FrameType | None) -> None:
        if not self._waiting or self._told.is_set():
            raise SystemExit(0)
        self._told.set()

    def wait(self, look: Callable[[], None]) -> None:
        """Wait for a signal; meanwhile `look` now and then, which may raise."""
        self._waiting = True
        while not self._told.wait(LOOK):
            look()
