"""Tasks that wait for a slot: a line for each owner, served in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from collections.abc import Sequence as Seq
from itertools import groupby

from gpt2rt.generation.client import Client
from gpt2rt.generation.task import Task


class Queue:
    """Tasks that wait for a slot, with their clients; `len` is their number.

    Every owner has a line of its own, and the lines are served in turn, so that nobody waits for
    all that another has asked for. A client without an owner has a line for itself.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[tuple[Client, list[Task]]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, client: Client, tasks: Seq[Task]) -> None:
        """Put tasks at the end of their owner's line."""
        owner = client if client.owner is None else client.owner
        self._count += len(tasks)
        for _, same in groupby(tasks, _alike):
            self._lines.setdefault(owner, deque()).append((client, list(same)))

    @property
    def needed(self) -> int:
        """How many slots the next task takes."""
        _, tasks = next(iter(self._lines.values()))[0]
        return tasks[0].slots

    def pop(self, most: int) -> tuple[Client, list[Task]]:
        """The next tasks with the same prompt, at most `most`; then another owner's turn comes."""
        owner, line = next(iter(self._lines.items()))
        client, tasks = line.popleft()
        if tasks[most:]:
            line.appendleft((client, tasks[most:]))
        self._lines.move_to_end(owner)
        if not line:
            del self._lines[owner]
        self._count -= len(tasks[:most])
        return client, tasks[:most]

    def remove(self, client: Client) -> None:
        """Take out the tasks of a client."""
        for owner, line in list(self._lines.items()):
            left = deque(entry for entry in line if entry[0] is not client)
            self._count -= sum(len(tasks) for of, tasks in line if of is client)
            if left:
                self._lines[owner] = left
            else:
                del self._lines[owner]

    def clear(self) -> None:
        """Take out all tasks."""
        self._lines.clear()
        self._count = 0

    def clients(self) -> Iterator[Client]:
        """The clients of the waiting tasks, each once."""
        return iter(dict.fromkeys(client for line in self._lines.values() for client, _ in line))


def _alike(task: Task) -> object:
    """What tasks have in common that are started together; a search is started alone."""
    return task.prompt_tokens if task.beams is None else task
