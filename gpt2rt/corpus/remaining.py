"""What of a job is to be done yet: the parts of a corpus without those that are done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.part import CorpusPart
from gpt2rt.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Remaining:
    """What an output has of a job; can be pickled.

    Attributes:
        place: the output, for messages.
        done: the digests of the rows of parts that are done, by their numbers.
        there: the parts of them whose results are there still.
        complete: whether all of the job is done, and there.
    """

    place: Destination
    done: Mapping[int, str]
    there: frozenset[int]
    complete: bool

    def of(self, parts: Iterable[CorpusPart]) -> Iterator[CorpusPart]:
        """Those of all parts of the corpus that are to be done.

        Raises `InvalidSetting` where a part that is done had other rows, or is no more.
        """
        last = -1
        for part in parts:
            last = part.number
            known = last in self.done or self.complete
            if known and self.done.get(last) != part.digest:
                raise self._changed(part)
            if last not in self.there:
                yield part
        if gone := [number for number in self.done if number > last]:
            raise self.place.refusal(
                f"part {min(gone)} has texts that the input no longer has; name another, or "
                "remove it"
            )

    def _changed(self, part: CorpusPart) -> InvalidSetting:
        first, last = part.rows[0], part.rows[-1]
        return self.place.refusal(
            f"was made of other texts, or of more or fewer, than those from {first.place} to "
            f"{last.place}; name another, or remove it"
        )
