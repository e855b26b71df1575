"""Clusters of Ray on this machine, for tests."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock


def keep_others_out() -> None:
    """Variables of Ray's, which reads them when it is imported: clusters that this process starts
    want a token that nobody else knows, and report nothing.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "RAY_AUTH_TOKEN" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class TwoNodes:
    """A cluster of two nodes of one core each on this machine, found at `address`."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._settings = {
            "num_cpus": 1,
            "object_store_memory": 80 << 20,
            "include_dashboard": False,
        }
        quick = {"health_check_period_ms": 1000}  # five of them without an answer are a death
        head = {**self._settings, "_system_config": quick}
        self._cluster = patient(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._second = self._added()
        self.address: str = self._cluster.address

    def replace_node(self) -> None:
        """Kill the second node, and add another."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._added()

    def _added(self) -> Any:
        return patient(lambda: self._cluster.add_node(**self._settings))

    def workers(self, name: str) -> list[psutil.Process]:
        """The processes of both nodes that run what is called `name`."""
        found = []
        for node in self._cluster.list_all_nodes():
            for info in node.all_processes.get("raylet", ()):
                with suppress(psutil.Error):
                    found += psutil.Process(info.process.pid).children(recursive=True)
        return [process for process in found if title(process).startswith(name)]

    def close(self) -> None:
        self._cluster.shutdown()


def patient(start: Callable[[], Any]) -> Any:
    """What `start` gives. Ray gives a node 30 s, which a machine with much to do may exceed."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def title(process: psutil.Process) -> str:
    try:
        return str((process.cmdline() or [""])[0])
    except psutil.Error:
        return ""


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """A cluster of two nodes, beside which no other test has one at the same time."""
    keep_others_out()
    lock = FileLock(Path(tempfile.gettempdir()) / "gpt2rt-tests-of-clusters.lock")
    with lock:
        cluster = TwoNodes()
        try:
            yield cluster
        finally:
            cluster.close()
