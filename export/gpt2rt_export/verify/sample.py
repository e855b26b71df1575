"""The text that a bundle and its checkpoint are compared on."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gpt2rt.bundles.paths import path_text
from gpt2rt.errors import BadText
from gpt2rt.text.tokenizers import TextTokenizer

ENGLISH = "parity.txt"
HELD_OUT = "heldout.txt"


@dataclass(frozen=True, slots=True)
class Sample:
    """A text to compare on; `source` names it in the report."""

    text: str
    source: str

    @classmethod
    def choose(cls, given: Path | None, checkpoint: Path | None) -> Sample:
        """The text of the file `given`, else of `heldout.txt` in the directory `checkpoint`, else
        English prose.

        Raises `BadText` for a file that cannot be read, is not UTF-8 or is empty.
        """
        if given is not None:
            return cls(_read(given), path_text(given.name))
        if checkpoint is not None and (checkpoint / HELD_OUT).is_file():
            return cls(_read(checkpoint / HELD_OUT), f"the checkpoint's {HELD_OUT}")
        text = resources.files("gpt2rt_export.verify").joinpath(ENGLISH).read_text(encoding="utf-8")
        return cls(text, "English prose")

    def tokens(self, tokenizer: TextTokenizer, n_ctx: int) -> list[int]:
        """`n_ctx` tokens of the text after a start token; a shorter text is repeated.

        Words that a vocabulary without all bytes cannot spell are left out.
        """
        tokens = [tokenizer.start_of_text]
        try:
            tokens += tokenizer.encode(self.text)
        except BadText:
            for word in re.findall(r"\s*\S+", self.text):
                with suppress(BadText):
                    tokens += tokenizer.encode(word)
        while len(tokens) < n_ctx:
            tokens += tokens
        return tokens[:n_ctx]


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadText(f"{path}: is not UTF-8; save it as UTF-8, or name another text") from None
    except OSError as error:
        raise BadText(f"{path}: {error.strerror or error}; name a text to compare on") from None
    if not text.strip():
        raise BadText(f"{path}: has no text in it; name one of the model's own kind")
    return text
