"""Constrained output: for any logits, a text that ends matches its constraint."""

from __future__ import annotations

import json
from random import Random

import jsonschema
import numpy as np
import pytest
import regex

from constraint_cases import draw, random_regex, whole_schema
from gpt2rt import GPT2, Tokenizer
from gpt2rt.engine.slots import Part
from gpt2rt.errors import InvalidSetting
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.grammar import Grammar

CASES = 8  # the soak runs 200
LENGTH = 60
ARITHMETIC = """
start: sum
sum: product (("+" | "-") product)*
product: value ("*" value)*
value: /[1-9][0-9]{0,3}/ | "(" sum ")"
"""


@pytest.mark.parametrize("seed", range(CASES))
def test_texts_satisfy_random_expressions(any_tokenizer: Tokenizer, seed: int) -> None:
    expression = random_regex(Random(seed))
    text = draw(Grammar(Constraint(regex=expression), any_tokenizer), seed, LENGTH)
    whole = regex.fullmatch(expression, text.text, timeout=300)
    assert (whole is not None) == text.accepting
    assert text.accepting or len(text.tokens) == LENGTH


@pytest.mark.parametrize("seed", range(CASES))
def test_texts_satisfy_random_schemas(any_tokenizer: Tokenizer, seed: int) -> None:
    schema = whole_schema(Random(seed))
    text = draw(Grammar(Constraint(json_schema=schema), any_tokenizer), seed, LENGTH)
    if text.accepting:
        jsonschema.validate(json.loads(text.text), schema)
    else:
        assert len(text.tokens) == LENGTH


@pytest.mark.parametrize("seed", range(8))
def test_texts_satisfy_a_grammar(any_tokenizer: Tokenizer, seed: int) -> None:
    text = draw(Grammar(Constraint(grammar=ARITHMETIC), any_tokenizer), seed, LENGTH)
    assert text.accepting
    assert regex.fullmatch(r"[-+*()0-9]+", text.text)
    assert isinstance(eval(text.text), int)


def test_a_greedy_text_of_a_model_satisfies_a_schema(tiny: GPT2) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    matcher = Grammar(Constraint(json_schema=schema), tiny.tokenizer).begin()
    slots = tiny.new_slots(1)
    logits = np.asarray(slots.step([Part(0, 0, [tiny.tokenizer.end_of_text])]))[0]
    tokens: list[int] = []
    while not matcher.complete:
        token = int(np.argmax(matcher.mask(logits, 40 - len(tokens))))
        matcher.take(token)
        if token == tiny.tokenizer.end_of_text:
            break
        tokens.append(token)
        logits = np.asarray(slots.step([Part(0, len(tokens), [token])]))[0]
    assert len(tokens) <= 40
    jsonschema.validate(json.loads(tiny.tokenizer.decode(tokens)), schema)


# ---- what is allowed


def naive(grammar: Grammar, so_far: list[int]) -> set[int]:
    """The tokens that a new matcher accepts after `so_far`, each tried."""
    found = set()
    for token in range(grammar.tokenizer.n_vocab):
        matcher = grammar.begin()
        for t in so_far:
            matcher.take(t)
        try:
            matcher.take(token)
        except InvalidSetting:
            continue
        found.add(token)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("so_far", ["", "a", "ab", "abé"])
def test_the_mask_is_what_can_be_taken(bytewise: Tokenizer, so_far: str) -> None:
    grammar = Grammar(Constraint(regex="[a-c]*é?(x|ab)*"), bytewise)
    matcher = grammar.begin()
    for token in bytewise.encode(so_far):
        matcher.take(token)
    assert set(np.flatnonzero(matcher.allowed()).tolist()) == naive(
        grammar, bytewise.encode(so_far)
    )


def test_the_end_is_allowed_exactly_where_the_text_may_end(any_tokenizer: Tokenizer) -> None:
    end = any_tokenizer.end_of_text
    matcher = Grammar(Constraint(regex="(é😀)+"), any_tokenizer).begin()
    data = b""
    for token in any_tokenizer.encode("é😀é😀"):
        assert matcher.allowed()[end] == (data in ("é😀".encode(), "é😀é😀".encode()))
        assert matcher.allowed()[end] == matcher.accepting
        matcher.take(token)
        data += any_tokenizer.token_bytes(token)
    assert not matcher.complete
    matcher.take(end)
    assert matcher.complete


def test_a_text_that_nothing_can_follow_is_complete(tokenizer: Tokenizer) -> None:
    matcher = Grammar(Constraint(regex="yes|no"), tokenizer).begin()
    for token in tokenizer.encode("no"):
        assert not matcher.complete
        matcher.take(token)
    assert matcher.complete
    assert np.flatnonzero(matcher.allowed()).tolist() == [tokenizer.end_of_text]


def test_the_text_of_the_end_is_not_the_end(tokenizer: Tokenizer) -> None:
    """A pattern for any text does not allow `<|endoftext|>` as a token within the text."""
    matcher = Grammar(Constraint(regex=".{3,}"), tokenizer).begin()
    assert not matcher.allowed()[tokenizer.end_of_text]
    for token in tokenizer.encode("<|endoftext|>"):
        matcher.take(token)
    assert matcher.accepting


def test_a_mask_keeps_logits_and_leaves_its_argument(tokenizer: Tokenizer) -> None:
    matcher = Grammar(Constraint(regex="[ab]+"), tokenizer).begin()
    logits = np.random.default_rng(1).normal(size=tokenizer.n_vocab).astype(np.float32)
    before = logits.copy()
    row = matcher.mask(logits)
    assert row.dtype == np.float32
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(row, np.where(matcher.allowed(), logits, -np.inf))


def test_columns_without_a_symbol_are_never_allowed(tokenizer: Tokenizer) -> None:
    logits = np.zeros(tokenizer.n_vocab + 7, np.float32)
    row = Grammar(Constraint(regex=".+"), tokenizer).begin().mask(logits)
    assert np.isneginf(row[tokenizer.n_vocab :]).all()


def test_sequences_of_one_grammar_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    grammar = Grammar(Constraint(regex="(a|b)c"), tokenizer)
    first, second = grammar.begin(), grammar.begin()
    first.take(tokenizer.encode("a")[0])
    assert second.allowed()[tokenizer.encode("b")[0]]
    assert not first.allowed()[tokenizer.encode("b")[0]]


def test_a_fork_goes_its_own_way(tokenizer: Tokenizer) -> None:
    first = Grammar(Constraint(regex="ab(c|d)"), tokenizer).begin()
    for token in tokenizer.encode("ab"):
        first.take(token)
    second = first.fork()
    first.take(tokenizer.encode("c")[0])
    assert first.complete
    assert not second.complete
    second.take(tokenizer.encode("d")[0])
    assert second.complete


def test_json_has_no_endless_white_space(tokenizer: Tokenizer) -> None:
    matcher = Grammar(Constraint(json_schema={"type": "object"}), tokenizer).begin()
    for token in tokenizer.encode('{"a": '):
        matcher.take(token)
    for space in (" ", "\n", "\t"):
        assert not matcher.allowed()[tokenizer.encode(space)[0]]


def test_a_schema_may_say_how_it_is_spaced(tokenizer: Tokenizer) -> None:
    schema = {"type": "array", "items": {"const": 1}, "x-guidance": {"item_separator": " ; "}}
    matcher = Grammar(Constraint(json_schema=schema), tokenizer).begin()
    for token in tokenizer.encode("[1 ; 1]"):
        matcher.take(token)
    assert matcher.complete
