"""Every text of a corpus as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import TOKENIZER_FILES
from gpt2rt.corpus.jobs import Job, Kind, Record, RowResult
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.rows import TextRow
from gpt2rt.errors import BadText
from gpt2rt.text.tokenizers import TextTokenizer, read_tokenizer


@dataclass(frozen=True, slots=True)
class TokenizeJob(Job):
    """The tokens of texts; no model is loaded for it.

    Attributes:
        special: as in `TextTokenizer.encode`.
        by: what a record stands for: all tokens of a text and their number, or one of them with
            its text and its characters.
    """

    special: bool | None = None
    by: Literal["text", "token"] = "text"

    name: ClassVar[str] = "tokenize"

    @property
    def line(self) -> str:
        return "tokens" if self.by == "text" else "token"

    def load(self, bundle: Bundle, loading: Loading) -> TextTokenizer:
        bundle.check(name for name in TOKENIZER_FILES if name in bundle.manifest.files)
        return read_tokenizer(bundle.directory)

    def settings(self) -> Record:
        return asdict(self)

    def columns(self) -> dict[str, Kind]:
        if self.by == "text":
            return {"count": "int", "tokens": "ints"}
        span: dict[str, Kind] = {"text": "text", "start": "int", "end": "int"}
        return {"token_number": "int", "token": "int", **span}

    def results(self, model: TextTokenizer, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        for row in rows:
            try:
                yield RowResult(row, tuple(self._records(model, str(row.text))))
            except BadText as error:
                yield RowResult(row, faults=(str(error),))

    def _records(self, model: TextTokenizer, text: str) -> Iterator[Record]:
        if self.by == "text":
            tokens = model.encode(text, special=self.special)
            yield {"count": len(tokens), "tokens": tokens}
            return
        found = model.encode_spans(text, special=self.special)
        for number, (token, span) in enumerate(zip(found.tokens, found.spans, strict=True), 1):
            piece = {"token": token, "text": model.decode([token])}
            yield {"token_number": number, **piece, "start": span[0], "end": span[1]}
