"""Writes nanoGPT's vocabulary of characters, `meta.pkl`, as the bundle's tokenizer.

Each character is a token: ASCII ones are symbols of a byte-level BPE without merges, the others are
added tokens. `prepare.py` of nanoGPT's data sets writes the file. It is read as the pickles in
PyTorch's files are, so that no code in it is run.
"""

from __future__ import annotations

import io
from pathlib import Path

from gpt2rt.bundles.catalog import SPECIAL_TOKENS
from gpt2rt.errors import BadTokenizer
from gpt2rt.text.byte_symbols import byte_symbols
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens
from gpt2rt_export.sources import pickles
from gpt2rt_export.tokenizers.vocabulary import write_vocabulary

FILE = "meta.pkl"
LARGEST = 64 << 20  # bytes; all characters of Unicode take less
START = "\n"  # what nanoGPT's `sample.py` begins a text with
REMEDY = "name the model's own tokenizer with --tokenizer DIR"


def write_characters(directory: Path, n_vocab: int, work: Path) -> None:
    """Write the bundle's tokenizer files for a model of `n_vocab` characters into `work`.

    A text begins after a newline, as in nanoGPT, and no token ends one. Raises `BadTokenizer` for a
    file that holds something else, or another number of characters.
    """
    path = directory / FILE
    ids = _read(path)
    if sorted(ids.values()) != list(range(n_vocab)):
        raise BadTokenizer(f"{path}: {len(ids)} characters, but n_vocab is {n_vocab}; {REMEDY}")
    symbols = byte_symbols()
    encoder = {symbols[ord(c)]: token for c, token in ids.items() if c.isascii()}
    added = (SpecialToken(token, c, special=False) for c, token in ids.items() if not c.isascii())
    start = ids.get(START, 0)
    special = SpecialTokens(n_vocab, start, start, tuple(added), ends=())
    write_vocabulary(work, encoder, [])
    (work / SPECIAL_TOKENS).write_text(special.to_json(), encoding="utf-8")


def _read(path: Path) -> dict[str, int]:
    """Character -> id."""
    try:
        with path.open("rb") as file:
            body = pickles.load(io.BytesIO(file.read(LARGEST)))
    except (OSError, pickles.PickleRefused) as error:
        raise BadTokenizer(f"{path}: {error}; make it anew, or {REMEDY}") from None
    ids = body.get("stoi") if isinstance(body, dict) else None
    if not isinstance(ids, dict) or not all(type(token) is int for token in ids.values()):
        raise BadTokenizer(f"{path}: has no stoi, a token for every character; {REMEDY}")
    for c in ids:
        if type(c) is not str or len(c) != 1 or "\ud800" <= c <= "\udfff":
            raise BadTokenizer(f"{path}: {c!a:.40} is no character; {REMEDY}")
    return ids
