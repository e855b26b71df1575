"""The cluster of Ray that a command works on: one that runs, or one of this machine alone."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from gpt2rt.errors import InvalidSetting, missing_extra

LOCAL = "local"  # the address of a cluster of this machine, which ends with the program
ADDRESS = re.compile(r"(?P<host>\[[\da-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")
PATIENCE = 5.0  # seconds in which a cluster has to answer
# What a client of HTTP/2, and so of gRPC, sends first: a fixed line and its settings, here none.
# The server sends its own at once (RFC 9113, 3.4); in a frame's head the fourth byte is its type.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4


@contextmanager
def joined(address: str, *, cpus: int | None = None) -> Iterator[None]:
    """A context in which `ray` works on the cluster at `address`, HOST:PORT.

    With `LOCAL` that is a new cluster of this machine with `cpus` (None: all) of its cores. Where
    the program has joined a cluster before, it stays there. Ray's usage statistics and its
    dashboard are off, and so are its messages.

    Raises `MissingExtra` without Ray, `InvalidSetting` where no cluster answers, where its Ray or
    Python is of another version, and where this machine is no node of it.
    """
    if find_spec("ray") is None:
        raise missing_extra("ray", "--ray needs Ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if address != LOCAL:
        _check_answers(address)
    own = {"include_dashboard": False, "num_cpus": cpus} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except (Exception, SystemExit) as error:  # it exits where it waited in vain
        raise InvalidSetting(f"cannot join {_named(address)}: {_reason(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def resources(name: str) -> tuple[float, float]:
    """How many of `CPU` or `GPU` the joined cluster has, and how many of them one node, at most."""
    import ray

    nodes = [node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]]
    return sum(nodes), max(nodes, default=0.0)


def check_address(address: str) -> None:
    """Raises `InvalidSetting` unless `address` can be one."""
    found = ADDRESS.fullmatch(address)
    if address != LOCAL and (found is None or not 0 < int(found["port"]) < 1 << 16):
        raise InvalidSetting(
            f"the address of a cluster is HOST:PORT, as `ray start --head` prints it, "
            f"not {address!r:.100}"
        )


def _check_answers(address: str) -> None:
    """Raises `InvalidSetting` unless there is gRPC at `address`; Ray itself waits 81 seconds."""
    check_address(address)
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return
            connection.sendall(PREFACE)
            head = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, UnicodeError):
        head = b""
    if len(head) < 9 or head[3] != SETTINGS:
        raise InvalidSetting(f"no cluster of Ray answers at {address}")


def _named(address: str) -> str:
    return "a cluster of this machine" if address == LOCAL else f"the cluster at {address}"


def _reason(error: BaseException) -> str:
    """What Ray says in one line."""
    if isinstance(error, SystemExit):
        return "it does not answer"
    said = " ".join(str(error).split())[:300]
    if said.startswith("Failed to connect"):
        said += "; where it asks for tokens set RAY_AUTH_MODE=token"
    return said
