"""Every text of a corpus embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

from gpt2rt.corpus.jobs import Job, Kind, Record, RowResult, attempted
from gpt2rt.corpus.rows import TextRow
from gpt2rt.model import GPT2
from gpt2rt.scoring.embeddings import Embedding, EmbedParams


@dataclass(frozen=True, slots=True)
class EmbedJob(Job):
    """Vectors as `GPT2.embed` gives them: a record for each."""

    params: EmbedParams

    name: ClassVar[str] = "embed"

    def settings(self) -> Record:
        return asdict(self.params)

    def columns(self) -> dict[str, Kind]:
        return {"text": "text", "start": "int", "end": "int", "vector": "floats"}

    def results(self, model: GPT2, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        def embedded(rows: Iterable[TextRow]) -> Iterator[Embedding]:
            return model.embed_batch((str(row.text) for row in rows), self.params)

        for row, embedding, fault in attempted(rows, embedded):
            if embedding is None:
                yield RowResult(row, faults=(fault,))
            else:
                yield RowResult(row, tuple(_records(embedding)))


def _records(embedding: Embedding) -> Iterator[Record]:
    pieces = zip(embedding.texts, embedding.spans, embedding.vectors.tolist(), strict=True)
    for text, (start, end), vector in pieces:
        yield {"text": text, "start": start, "end": end, "vector": vector}
