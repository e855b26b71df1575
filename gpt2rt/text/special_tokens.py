"""Added tokens, and what else a fine-tune has besides symbols: `special_tokens.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

from gpt2rt.errors import BadTokenizer
from gpt2rt.text.vocabulary_files import REMEDY, read_text


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that is found in a text as a whole, before any merge: a fine-tune's added token.

    special: a control token, such as `<|user|>`; otherwise an ordinary word that was added.
    matched: whether it is found in a text at all; the model may write one that never is.
    normalized: found in a second pass only, in what the tokens of the first pass leave over.
    lstrip, rstrip: takes the white space on its left or right with it.
    single_word: found only where no letter or digit touches it.
    """

    id: int
    text: str
    matched: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = True
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a vocabulary other than OpenAI's has besides its symbols: `special_tokens.json`.

    `n_vocab` counts the ids of the model; those that stand for nothing decode to nothing, and a
    text with a token beyond them is refused. `prefix_space` begins every text with a space.
    `ends`: every id that ends a text (None: `end_of_text` alone). `before` and `after`: tokens that
    the tokenizer puts around every prompt.
    """

    n_vocab: int
    start_of_text: int
    end_of_text: int
    tokens: tuple[SpecialToken, ...]
    prefix_space: bool = False
    ends: tuple[int, ...] | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


class WithSpecialTokens:
    """What every tokenizer says of its `SpecialTokens`."""

    _special: SpecialTokens

    @property
    def n_vocab(self) -> int:
        """How many tokens there are: 50,257 in every released model."""
        return self._special.n_vocab

    def __len__(self) -> int:
        return self.n_vocab

    @property
    def end_of_text(self) -> int:
        """The token that separates documents: `<|endoftext|>`, 50256 in every released model."""
        return self._special.end_of_text

    @property
    def start_of_text(self) -> int:
        """The token that a text from nothing begins with: `end_of_text` in every released model."""
        return self._special.start_of_text

    @property
    def prefix_space(self) -> bool:
        """Whether a text is begun with a space."""
        return self._special.prefix_space

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends a text: `end_of_text`, unless a fine-tune has others or none."""
        ends = self._special.ends
        return (self.end_of_text,) if ends is None else ends

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens that stand before every prompt; none in released models."""
        return self._special.before

    @property
    def after(self) -> tuple[int, ...]:
        """Tokens that stand after every prompt; none in released models."""
        return self._special.after

    @property
    def special_tokens(self) -> tuple[SpecialToken, ...]:
        """The tokens that are found in a text as a whole, and others made by no merge."""
        return self._special.tokens


def read_special(path: Path) -> SpecialTokens | None:
    """What the file says; None where there is none. Raises `BadTokenizer`."""
    if not path.exists():
        return None
    try:
        body = json.loads(read_text(path))
        body["tokens"] = tuple(SpecialToken(**token) for token in body["tokens"])
        lists = {name: tuple(value) for name, value in body.items() if type(value) is list}
        special = SpecialTokens(**(body | lists))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadTokenizer(f"{path}: not what it should be ({error}); {REMEDY}") from None
    if wrong := _wrong_in_special(special):
        raise BadTokenizer(f"{path}: {wrong}; {REMEDY}")
    return special


def _wrong_in_special(special: SpecialTokens) -> str | None:
    wanted = {"int": int, "bool": bool, "str": str}
    for kind, holders in ((SpecialTokens, [special]), (SpecialToken, special.tokens)):
        for field, holder in product(fields(kind), holders):
            value = getattr(holder, field.name)
            if value is None and field.default is None:
                continue
            if type(value) is not wanted.get(str(field.type), tuple):
                return f"{field.name} is {value!r:.40}, not of type {field.type}"
    ids = [token.id for token in special.tokens]
    known = range(special.n_vocab)
    listed = (*(special.ends or ()), *special.before, *special.after)
    if odd := [token for token in listed if type(token) is not int]:
        return f"{odd[0]!r:.40} is no token"
    named = (*ids, special.start_of_text, special.end_of_text, *listed)
    if strange := [token for token in named if token not in known]:
        return f"token {min(strange)} is not one of the {special.n_vocab}"
    texts = [token.text for token in special.tokens]
    if len(set(ids)) < len(ids) or len(set(texts)) < len(texts) or "" in texts:
        return "a token is there twice, or has no text"
    return None
