"""Where the nodes of a session run: on its provider, or on the CPU in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort

MOST_NAMED = 6  # kinds of nodes in a sentence


@dataclass(frozen=True, slots=True)
class Placement:
    """The number of nodes of a session, and how many of each kind run elsewhere."""

    nodes: int
    elsewhere: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of the nodes that run elsewhere."""
        return sum(self.elsewhere.values()) / max(1, self.nodes)

    def __str__(self) -> str:
        """As in `8 of 156 nodes on the CPU (2 Concat, 2 Gather, ...)`."""
        kinds = sorted(self.elsewhere.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{count} {kind}" for kind, count in kinds[:MOST_NAMED]]
        more = ["..."] if len(kinds) > MOST_NAMED else []
        found = f"{sum(self.elsewhere.values())} of {self.nodes} nodes on the CPU"
        return f"{found} ({', '.join([*named, *more])})" if named else found


def placement(session: ort.InferenceSession, runtime_name: str) -> Placement:
    """The placement of a session whose provider has that name.

    The session must have been opened with `session.record_ep_graph_assignment_info`.
    """
    nodes: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        kinds = Counter(node.op_type for node in part.get_nodes())
        nodes += kinds
        if part.ep_name != runtime_name:
            elsewhere += kinds
    return Placement(nodes.total(), elsewhere)
