"""The output of a job: a directory of parts with a manifest, or a file that they are joined to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gpt2rt.corpus.parts import DonePart, Layout
from gpt2rt.corpus.shards import Shard


class Output:
    """One run's output, of which this process is the only writer; a context manager.

    `_manifest.jsonl` has a line on the job, then one for each part that is done, and a last one
    when all is complete. What an earlier run of the same job has done is not done again.
    """

    layout: Layout
    done: dict[int, DonePart]

    def due(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards that are not done yet.

        Raises `InvalidSetting` where a shard that is done had other rows.
        """
        raise NotImplementedError

    def add(self, part: DonePart) -> None:
        """Note a part whose files are in place."""
        raise NotImplementedError

    def finish(self) -> None:
        """All shards are done: join what is to be one file, and say so in the manifest."""
        raise NotImplementedError

    def place(self) -> Path:
        """Where a user finds the results."""
        raise NotImplementedError
