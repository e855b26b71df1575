"""Added tokens of fine-tunes: found in texts as Hugging Face's `tokenizers` finds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.errors import BadText, BadTokenizer, InvalidSetting, PromptTooLong
from gpt2rt.text.prompts import check_prompt, prompt_tokens
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export.tokenizers.huggingface import write_tokenizer

library = pytest.importorskip("tokenizers")

BITS = [
    "the",
    " the",
    "cat",
    "<|user|>",
    "<|bot|>",
    "<|",
    "|>",
    " ",
    "  ",
    "\n",
    "\t",
    "é",
    "e\u0301",
]
BITS += [
    "漢字",
    "👋",
    "_",
    "12",
    "٣",
    ".",
    "cats",
    "New York",
    "\u00a0",
    "\x1c",
    "ing",
    "<s>",
    "\u200d",
]
ROUNDS = 200


def base() -> Any:
    """A byte-level BPE with a few merges."""
    tokenizer = library.Tokenizer(library.models.BPE())
    byte_level = library.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat the cats of the city " * 9], trainer)
    return tokenizer


BASE = base().to_str()


def random_text(random: np.random.Generator, most: int) -> str:
    return "".join(random.choice(BITS) for _ in range(random.integers(1, most)))


def random_table(random: np.random.Generator) -> Any:
    """A tokenizer with some added tokens that overlap, with any flags."""
    tokenizer = library.Tokenizer.from_str(BASE)
    for _ in range(random.integers(1, 9)):
        text = random_text(random, 4)
        names = ("lstrip", "rstrip", "single_word", "normalized")
        flags = {name: bool(random.random() < 0.4) for name in names}
        token = library.AddedToken(text, **flags)
        special = random.random() < 0.4
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


def carried(theirs: Any, folder: Path, **files: object) -> Tokenizer:
    """The bundle's tokenizer of a Hugging Face directory."""
    folder.mkdir(exist_ok=True)
    theirs.save(str(folder / "tokenizer.json"))
    for name, body in files.items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    write_tokenizer(folder, theirs.get_vocab_size(), folder, own=True)
    return Tokenizer.read(folder)


def encoded(theirs: Any, text: str) -> list[int] | None:
    """The library's tokens; None if it panics, over white space claimed by two tokens."""
    try:
        ids: list[int] = theirs.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_random_tables_of_added_tokens_equal_tokenizers(number: int, tmp_path: Path) -> None:
    random = np.random.default_rng(number)
    ours = carried(random_table(random), tmp_path)
    # As a user has it: a token added twice, with other flags, is in memory not what it is in files.
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for _ in range(40):
        text = random_text(random, 12)
        for special in (True, False):
            theirs.encode_special_tokens = not special
            found = ours.encode_spans(text, special=special)
            tokens = ours.encode(text, special=special)
            assert list(found.tokens) == tokens
            assert encoded(theirs, text) in (tokens, None), (text, special)
            assert_covers(text, found.spans)


def assert_covers(text: str, spans: Sequence[tuple[int, int]]) -> None:
    """The spans are in order and cover every character."""
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert {i for start, end in spans for i in range(start, end)} == set(range(len(text)))


def test_a_chat_models_control_tokens_are_tokens_unless_asked_otherwise(tmp_path: Path) -> None:
    theirs = base()
    plain = carried(theirs, tmp_path / "plain")
    theirs.add_tokens(["catnip"])
    words = carried(theirs, tmp_path / "words")
    theirs.add_special_tokens(["<|user|>"])
    chat = carried(theirs, tmp_path / "chat")
    for tokenizer in (plain, words):
        assert not tokenizer.has_control_tokens
        assert tokenizer.encode("<|endoftext|>") == tokenizer.encode("<|endoftext|>", special=False)
        assert tokenizer.encode("<|endoftext|>", special=True) == [tokenizer.end_of_text]
    word = theirs.token_to_id("catnip")
    for special in (None, True, False):
        assert words.encode("catnip", special=special) == [word], "a word is always one token"
    user = theirs.token_to_id("<|user|>")
    assert chat.encode("<|user|>") == chat.encode("<|user|>", special=True) == [user]
    assert user not in chat.encode("<|user|>", special=False)


TEMPLATE = {"single": "<|endoftext|> $A", "special_tokens": [("<|endoftext|>", 0)]}
AROUND = {"single": "<|endoftext|> $A <|endoftext|>", "special_tokens": [("<|endoftext|>", 0)]}


@pytest.mark.parametrize(("template", "before", "after"), [(TEMPLATE, 1, 0), (AROUND, 1, 1)])
def test_tokens_around_a_text_are_carried_and_read(
    template: dict[str, Any], before: int, after: int, tmp_path: Path
) -> None:
    theirs = base()
    processors = library.processors
    parts = [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(**template)]
    for processor in (parts[1], processors.Sequence(parts)):
        theirs.post_processor = processor
        ours = carried(theirs, tmp_path)
        assert (len(ours.before), len(ours.after)) == (before, after)
        assert list(prompt_tokens("the cat", ours, 99)) == theirs.encode("the cat").ids
        assert prompt_tokens([5, 6], ours, 99) == (5, 6), "ids are read as they are"


@pytest.mark.parametrize(
    ("processor", "fact"),
    [
        ({"type": "Mystery"}, "the post-processor 'Mystery' is not known"),
        ({"type": "TemplateProcessing", "single": [{"Odd": {}}]}, "is damaged"),
        ({"type": "BertProcessing", "cls": ["x", "y"], "sep": ["x", 1]}, "is damaged"),
        ({"type": "BertProcessing", "cls": ["x", 10**6], "sep": ["x", 1]}, "around every text"),
    ],
)
def test_post_processors_that_cannot_be_carried_are_refused(
    processor: object, fact: str, tmp_path: Path
) -> None:
    body = json.loads(BASE) | {"post_processor": processor}
    (tmp_path / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(BadTokenizer, match=fact):
        write_tokenizer(tmp_path, 300, tmp_path)


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config": {"eos_token_id": 0}}, (0,)),
        ({"config": {"eos_token_id": [0, 7]}}, (0, 7)),
        ({"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": [9, 0]}}, (9, 0)),
        ({"config": {"eos_token_id": 0}, "generation_config": {}}, ()),
        ({"config": {"eos_token_id": 10**6}}, ()),
        ({"config": {"eos_token_id": None}}, ()),
        ({"config": {}}, (0,)),
        ({}, (0,)),
    ],
)
def test_a_text_ends_where_transformers_would_end_it(
    files: dict[str, Any], ends: tuple[int, ...], tmp_path: Path
) -> None:
    assert carried(base(), tmp_path, **files).ends == ends


def test_control_tokens_listed_by_a_slow_tokenizer_are_found(tmp_path: Path) -> None:
    theirs = base()
    theirs.model.save(str(tmp_path))
    settings = {"additional_special_tokens": ["the", {"content": "cat"}], "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    write_tokenizer(tmp_path, theirs.get_vocab_size(), tmp_path, own=True)
    ours = Tokenizer.read(tmp_path)
    the = theirs.token_to_id("the")
    assert ours.encode("xthe")[-1] == the
    assert {token.text for token in ours.special_tokens} >= {"the", "cat"} - {"cat"}
    assert ours.before == (ours.start_of_text,)


def test_symbols_that_the_model_has_no_row_for_are_refused_in_texts(tmp_path: Path) -> None:
    theirs = base()
    theirs.save(str(tmp_path / "tokenizer.json"))
    last = theirs.get_vocab_size() - 1
    said = write_tokenizer(tmp_path, last, tmp_path, own=True)
    ours = Tokenizer.read(tmp_path)
    assert (said.beyond, ours.n_vocab) == (1, last)
    text = theirs.decode([last])
    assert theirs.encode(text).ids == [last]
    with pytest.raises(BadText, match=rf"token {last}, and the model knows {last} tokens only"):
        ours.encode(text)
    assert ours.encode("x") == theirs.encode("x").ids


def test_a_space_before_a_text_is_no_character_of_it(tmp_path: Path) -> None:
    theirs = base()
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    ours = carried(theirs, tmp_path)
    for text in ("the cat", "xé", " the", "\n"):
        found = ours.encode_spans(text)
        assert list(found.tokens) == theirs.encode(text).ids
        assert_covers(text, found.spans)


def test_what_is_no_prompt_is_refused() -> None:
    tokenizer = Tokenizer.read(Path(__file__).parents[2] / "gpt2rt" / "demo" / "bundle")
    for odd in (["a"], 3, b"text", {"a": 1}, [1.5], [None]):
        with pytest.raises(BadText, match="text, token ids or None"):
            check_prompt(odd)
    assert prompt_tokens(np.array([1, 2]), tokenizer, 9) == (1, 2)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="no token"):
        prompt_tokens([10**6], tokenizer, 9)
    with pytest.raises(BadText, match="empty"):
        prompt_tokens([], tokenizer, 9)
    with pytest.raises(PromptTooLong):
        prompt_tokens([1] * 10, tokenizer, 9)


def test_ids_of_numpy_are_a_prompt_as_lists_are(model: Path) -> None:
    gpt2 = GPT2.load(model, threads=1)
    ids = [[5, 6, 7], [5, 6, 8], [5, 6, 7]]
    greedy, short = SamplingParams(temperature=0), Stopping(3)
    wanted = [done.tokens for done in gpt2.generate_batch(ids, greedy, short)]
    arrays: Any = [np.array(prompt) for prompt in ids]
    assert [done.tokens for done in gpt2.generate_batch(arrays, greedy, short)] == wanted
    requests = [Request(prompt, greedy, short, sample=n) for n, prompt in enumerate(arrays)]
    pieces = gpt2.run(requests)
    found = {p.completion.sample: p.completion.tokens for p in pieces if p.completion}
    assert [found[n] for n in range(3)] == wanted
    with pytest.raises(BadText, match="text, token ids or None"):
        Request(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", [3, b"text", None, ["a"]])
def test_what_is_no_text_is_neither_scored_nor_embedded(model: Path, odd: Any) -> None:
    gpt2 = GPT2.load(model, threads=1)
    for call in (gpt2.score, gpt2.embed):
        with pytest.raises(BadText, match="a text is a str, not"):
            call(odd)
