"""Every text of a corpus as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import TOKENIZER_FILES
from gpt2rt.corpus.jobs import Job, Kind, Loading, Record, RowResult
from gpt2rt.corpus.rows import TextRow
from gpt2rt.errors import BadText
from gpt2rt.text.tokenizers import TextTokenizer, read_tokenizer


@dataclass(frozen=True, slots=True)
class TokenizeJob(Job):
    """The tokens of texts, with their number; no model is loaded for it.

    `special` is that of `TextTokenizer.encode`.
    """

    special: bool | None = None

    name: ClassVar[str] = "tokenize"
    line: ClassVar[str | None] = "tokens"

    def load(self, bundle: Bundle, loading: Loading) -> TextTokenizer:
        bundle.check(name for name in TOKENIZER_FILES if name in bundle.manifest.files)
        return read_tokenizer(bundle.directory)

    def settings(self) -> Record:
        return asdict(self)

    def columns(self) -> dict[str, Kind]:
        return {"count": "int", "tokens": "ints"}

    def results(self, model: TextTokenizer, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        for row in rows:
            try:
                tokens = model.encode(str(row.text), special=self.special)
            except BadText as error:
                yield RowResult(row, faults=(str(error),))
            else:
                yield RowResult(row, ({"count": len(tokens), "tokens": tokens},))
