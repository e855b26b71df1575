"""Clusters of Ray on this machine, for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from ray_variables import keep_others_out

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
# A node is dead after ten looks without an answer, which a killed one gives at once.
DEATH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 10}


class TwoNodes:
    """A cluster of two nodes of one core each on this machine, found at `address`."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        head = {**NODE, "_system_config": DEATH}
        self._cluster = patient(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._second = self._added()
        self.address: str = self._cluster.address

    def repair(self) -> None:
        """Replace what has died by itself, as nodes do on a machine with too much to do."""
        if not is_alive(self._cluster.head_node):
            self.close()
            self._start()
        elif not is_alive(self._second):
            self.replace_node()

    def replace_node(self) -> None:
        """Kill the second node, and add another."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._added()

    def _added(self) -> Any:
        return patient(lambda: self._cluster.add_node(**NODE))

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


def is_alive(node: Any) -> bool:
    processes = [info.process for info in node.all_processes.get("raylet", ())]
    return bool(processes) and all(process.poll() is None for process in processes)


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
