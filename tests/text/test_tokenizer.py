"""The tokenizer against tiktoken on the real vocabulary, and its laws on a small one."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from gpt2rt.errors import BadText, InvalidSetting
from gpt2rt.text import tokenizer as module
from gpt2rt.text.byte_symbols import byte_symbols
from gpt2rt.text.tokenizer import PIECE, WORD, TextStream, Tokenizer
from gpt2rt.text.vocabulary_files import END_OF_TEXT
from hard_texts import TRICKY, TRICKY_SPACES
from small_vocabulary import MERGED, vocabulary, write

DATA = Path(__file__).parents[3] / "shared" / "data"
ENCODER = DATA / "gpt2-vocab" / "encoder.json"
MERGES = DATA / "gpt2-vocab" / "vocab.bpe"

laws = settings(derandomize=True, max_examples=300)
any_text = st.text(st.characters(codec="utf-8"), max_size=60)
# Without unassigned characters: tiktoken and `regex` may know different versions of Unicode.
old_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Cs"]), max_size=60)
tricky_text = st.lists(
    st.sampled_from([*TRICKY.split(), *TRICKY_SPACES, "  ", "   ", "\r\n", "\n\n"]), max_size=25
).map("".join)


def needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def unread(merges: list[str]) -> Tokenizer:
    return Tokenizer(vocabulary(merges), {merge: rank for rank, merge in enumerate(merges)})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.read(write(tmp_path_factory.mktemp("small"), vocabulary(MERGED), MERGED))


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return Tokenizer.read(needed(ENCODER).parent)


@pytest.fixture(scope="module")
def reference() -> tiktoken.Encoding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # reads the two files, keeps no copy of them
        ranks = data_gym_to_mergeable_bpe_ranks(str(needed(MERGES)), str(needed(ENCODER)))
    return tiktoken.Encoding(
        "GPT-2 from its own files",
        pat_str=WORD.pattern,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: 50256},
        explicit_n_vocab=50257,
    )


def merge_by_definition(word: str, merges: list[str]) -> list[str]:
    """`bpe` of OpenAI's `encoder.py`, simple and slow."""
    symbols = [byte_symbols()[byte] for byte in word.encode()]
    while True:
        pairs = [f"{a} {b}" for a, b in pairwise(symbols)]
        best = min((merges.index(pair) for pair in pairs if pair in merges), default=None)
        if best is None:
            return symbols
        left, right = merges[best].split(" ")
        joined: list[str] = []
        while symbols:
            if symbols[:2] == [left, right]:
                joined.append(left + right)
                del symbols[:2]
            else:
                joined.append(symbols.pop(0))
        symbols = joined


# Against the released vocabulary


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("hello world", [31373, 995]),
        ("hello 👋 world 🌍", [31373, 50169, 233, 995, 12520, 234, 235]),
        ("0" * 16, [25645]),
        ("0" * 17, [8269, 10535, 830]),
        ("indivisible", [521, 452, 12843]),
        (END_OF_TEXT, [27, 91, 437, 1659, 5239, 91, 29]),
    ],
)
def test_known_tokens(gpt2: Tokenizer, text: str, tokens: list[int]) -> None:
    assert gpt2.encode(text) == tokens
    assert gpt2.decode(tokens) == text


def test_size_of_the_released_vocabulary(gpt2: Tokenizer) -> None:
    assert gpt2.n_vocab == len(gpt2) == 50257
    assert gpt2.end_of_text == 50256
    assert gpt2.decode([50256]) == END_OF_TEXT


@pytest.mark.parametrize("name", ["eval/wikitext2/wiki.test.raw", "eval/tinyshakespeare/input.txt"])
def test_whole_texts_equal_tiktoken(
    gpt2: Tokenizer, reference: tiktoken.Encoding, name: str
) -> None:
    text = needed(DATA / name).read_bytes().decode()
    tokens = gpt2.encode(text)
    assert tokens == reference.encode_ordinary(text)
    assert gpt2.decode(tokens) == text
    lines = text.splitlines(keepends=True)
    assert [*map(gpt2.encode, lines)] == [*map(reference.encode_ordinary, lines)]


@laws
@given(text=old_text | tricky_text)
def test_any_text_equals_tiktoken(gpt2: Tokenizer, reference: tiktoken.Encoding, text: str) -> None:
    assert gpt2.encode(text) == reference.encode_ordinary(text)
    assert gpt2.encode(text, special=True) == reference.encode(text, allowed_special="all")


def test_every_token_equals_tiktoken(gpt2: Tokenizer, reference: tiktoken.Encoding) -> None:
    tokens = range(gpt2.n_vocab)
    assert [*map(gpt2.token_bytes, tokens)] == reference.decode_tokens_bytes([*tokens])


@pytest.mark.parametrize(
    "draw",
    [
        lambda _: "a",
        lambda rng: chr(rng.randrange(ord("a"), ord("z") + 1)),
        lambda rng: chr(rng.randrange(0x4E00, 0x9FA6)),
        lambda rng: rng.choice("0123456789"),
        lambda rng: rng.choice("!?*=-"),
        lambda _: " ",
    ],
    ids=["a", "letters", "Chinese", "digits", "signs", "spaces"],
)
def test_long_words_equal_tiktoken(
    gpt2: Tokenizer, reference: tiktoken.Encoding, draw: Callable[[random.Random], str]
) -> None:
    rng = random.Random(0)
    text = "".join(draw(rng) for _ in range(100_000))
    assert gpt2.encode(text) == reference.encode_ordinary(text)


# Laws that hold for any vocabulary


@laws
@given(text=any_text | tricky_text)
def test_decode_undoes_encode(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text)) == text
    assert small.decode(small.encode(text, special=True)) == text
    assert small.decode_bytes(small.encode(text)) == text.encode()


@pytest.mark.slow
@laws
@given(
    picks=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20),
    rng=st.randoms(use_true_random=False),
    word=st.text("ab", min_size=9, max_size=32) | st.text("ab", min_size=33, max_size=200),
)
def test_merging_equals_the_definition(
    picks: list[tuple[int, int]], rng: random.Random, word: str
) -> None:
    symbols, merges = ["a", "b"], []
    for left, right in picks:
        merges.append(f"{symbols[left % len(symbols)]} {symbols[right % len(symbols)]}")
        symbols.append(merges[-1].replace(" ", ""))
    merges = [*dict.fromkeys(merges)]
    if rng.random() < 0.5:
        rng.shuffle(merges)  # no trained vocabulary has such ranks, but OpenAI's code takes them
    encoder = vocabulary(merges)
    wanted = [encoder[symbol] for symbol in merge_by_definition(word, merges)]
    assert unread(merges).encode(word) == wanted


@laws
@given(text=any_text | tricky_text)
def test_cutting_text_into_pieces_first_changes_no_word(text: str) -> None:
    words = WORD.findall(text)
    assert "".join(words) == text
    assert [word for piece in PIECE.findall(text) for word in WORD.findall(piece)] == words
    assert all(WORD.findall(word) == [word] for word in words)


def test_pieces_and_words_agree_on_what_a_space_is() -> None:
    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    assert re.findall(r"[^\S\x1c-\x1f]", characters) == regex.findall(r"\s", characters)


@laws
@given(tokens=st.lists(st.integers(0, 255 + len(MERGED)), max_size=40))
def test_stream_says_what_decode_says(small: Tokenizer, tokens: list[int]) -> None:
    whole = small.decode(tokens)
    stream = TextStream(small)
    assert "".join([*map(stream.push, tokens), stream.close()]) == whole
    stream = TextStream(small)
    last = len(tokens) - 1
    assert "".join([stream.push(token, i == last) for i, token in enumerate(tokens)]) == whole


def test_stream_never_splits_a_character(small: Tokenizer) -> None:
    text = "né 👋中"
    stream = TextStream(small)
    pieces = [stream.push(token) for token in small.encode(text)]
    assert [piece for piece in pieces if piece] == [*text]
    assert stream.close() == ""


def test_stream_replaces_what_never_came(small: Tokenizer) -> None:
    token = small.encode("中")[0]
    stream = TextStream(small)
    assert stream.push(token) == ""
    assert stream.push(token, last=True) == small.decode([token, token]) == "\ufffd\ufffd"


def test_byte_symbols_are_one_visible_character_for_each_byte() -> None:
    symbols = byte_symbols()
    assert [*symbols] == [*range(256)]
    assert len(set(symbols.values())) == 256
    assert all(len(symbol) == 1 and symbol.isprintable() for symbol in symbols.values())
    assert "".join(symbols[byte] for byte in b"a Z\n\0\xff") == "aĠZĊĀÿ"


def test_end_of_text_is_plain_text_unless_asked_for(small: Tokenizer) -> None:
    text = f"{END_OF_TEXT}the{END_OF_TEXT}{END_OF_TEXT} the"
    the, end = small.encode("the"), [small.end_of_text]
    assert small.end_of_text not in small.encode(text)
    assert small.encode(text, special=True) == [*end, *the, *end, *end, *small.encode(" the")]
    assert small.decode(end) == END_OF_TEXT


def test_numpy_tokens_are_tokens(small: Tokenizer) -> None:
    tokens = np.array(small.encode("the thing"), np.int32)
    assert small.decode(tokens) == "the thing"
    assert small.token_bytes(tokens[0]) == b"the"


@pytest.mark.parametrize("token", [-1, 269, np.int64(50257)])
def test_token_outside_the_vocabulary(small: Tokenizer, token: int) -> None:
    assert small.n_vocab == 269
    for use in (small.token_bytes, TextStream(small).push, lambda token: small.decode([0, token])):
        with pytest.raises(InvalidSetting, match=rf"token {token} is not .* 0 to 268$"):
            use(token)


@pytest.mark.parametrize("half", [0xD83D, 0xDC80])
def test_half_a_surrogate_pair(small: Tokenizer, half: int) -> None:
    with pytest.raises(BadText, match=rf"U\+{half:04X}, at position 4; "):
        small.encode(f"né👋 {chr(half)} end")


def test_forgetting_and_threads_change_nothing(
    small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"the thing {i} in {i % 7}ing, then" for i in range(200)]
    wanted = [small.encode(text) for text in texts]
    monkeypatch.setattr(module, "REMEMBERED", 5)
    forgetful = unread(MERGED)
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(forgetful.encode, texts * 4)] == wanted * 4


def test_each_caller_gets_a_list_of_its_own(small: Tokenizer) -> None:
    small.encode("the thing").clear()
    assert small.decode(small.encode("the thing")) == "the thing"


def test_line_endings_of_another_system(small: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path, vocabulary(MERGED), MERGED) / "vocab.bpe"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    text = "the thing\n\naaaa"
    assert Tokenizer.read(tmp_path).encode(text) == small.encode(text)
