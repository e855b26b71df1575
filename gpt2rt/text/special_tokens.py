"""Special and added tokens of a vocabulary, and the file `special_tokens.json` with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

from gpt2rt.errors import BadTokenizer
from gpt2rt.text.vocabulary_files import REMEDY, read_text


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that is found in a text as a whole before any merge, as fine-tunes add them.

    special: it is a control token, such as `<|user|>`; otherwise an added word.
    matched: it is found in texts; otherwise only the model may write it.
    normalized: it is found in the second pass, in the text between tokens of the first pass.
    lstrip, rstrip: it includes the white space on its left or right.
    single_word: it is found only where no letter or digit is next to it.
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
    """The content of `special_tokens.json`, for vocabularies other than OpenAI's.

    `n_vocab` is the number of ids that the model has; ids without a symbol decode to nothing, and a
    text with a token beyond them is refused. `prefix_space` puts a space before every text.
    `ends` are the ids that end a text (None: only `end_of_text`). `before` and `after` are tokens
    that the tokenizer puts around every prompt.
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
        """The text of `special_tokens.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


class WithSpecialTokens:
    """The properties that every tokenizer takes from its `SpecialTokens`."""

    _special: SpecialTokens

    @property
    def n_vocab(self) -> int:
        """The number of tokens: 50,257 in every released model."""
        return self._special.n_vocab

    def __len__(self) -> int:
        return self.n_vocab

    @property
    def end_of_text(self) -> int:
        """The token that separates documents: `<|endoftext|>`, 50256 in every released model."""
        return self._special.end_of_text

    @property
    def start_of_text(self) -> int:
        """The token before a text without prompt: `end_of_text` in every released model."""
        return self._special.start_of_text

    @property
    def prefix_space(self) -> bool:
        """Whether a space is put before every text."""
        return self._special.prefix_space

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text: `end_of_text`, unless a fine-tune has others or none."""
        ends = self._special.ends
        return (self.end_of_text,) if ends is None else ends

    @property
    def before(self) -> tuple[int, ...]:
        """The tokens put before every prompt; none in released models."""
        return self._special.before

    @property
    def after(self) -> tuple[int, ...]:
        """The tokens put after every prompt; none in released models."""
        return self._special.after

    @property
    def special_tokens(self) -> tuple[SpecialToken, ...]:
        """All special and added tokens."""
        return self._special.tokens


def read_special(path: Path) -> SpecialTokens | None:
    """Read `special_tokens.json`; None: there is no such file. Raises `BadTokenizer`."""
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
    """What is invalid in the values, for a message; None: nothing."""
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
