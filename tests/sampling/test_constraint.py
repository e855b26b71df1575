"""Constrained output: for any logits, a text that ends matches its constraint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import numpy as np
import pytest
import regex

from constraint_cases import draw, random_regex, whole_schema
from gpt2rt import GPT2, Tokenizer
from gpt2rt.bundles import catalog
from gpt2rt.engine.slots import Part
from gpt2rt.errors import InvalidSetting, MissingExtra
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.grammar import TIGHT, Grammar
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary

CASES = 8  # the soak runs 200
LENGTH = 60

ARITHMETIC = """
start: sum
sum: product (("+" | "-") product)*
product: value ("*" value)*
value: /[1-9][0-9]{0,3}/ | "(" sum ")"
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.read(catalog.demo_bundle())


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary of the 256 bytes and a few more tokens."""
    directory = tmp_path_factory.mktemp("bytes")
    write_vocabulary(directory, *synthetic_vocabulary(300))
    return Tokenizer.read(directory)


@pytest.fixture(scope="module")
def real(real_vocabulary: Path) -> Tokenizer:
    return Tokenizer.read(real_vocabulary)


@pytest.fixture(params=["tokenizer", "bytewise", "real"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Tokenizer)
    return found


# ---- every text that ends is valid


@pytest.mark.parametrize("seed", range(CASES))
def test_texts_satisfy_random_expressions(any_tokenizer: Tokenizer, seed: int) -> None:
    expression = random_regex(Random(seed))
    text = draw(Grammar(Constraint(regex=expression), any_tokenizer), seed, LENGTH)
    whole = regex.fullmatch(expression, text.text, timeout=60)
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


# ---- with few tokens left


@pytest.mark.parametrize("length", [1, 2, 5, TIGHT, 30])
@pytest.mark.parametrize("expression", ["(ab)+", "[a-z]*", ".*", "x(yz)*|w"])
def test_a_text_is_led_to_its_end(tokenizer: Tokenizer, expression: str, length: int) -> None:
    grammar = Grammar(Constraint(regex=expression), tokenizer)
    for seed in range(5):
        text = draw(grammar, seed, length)
        assert len(text.tokens) <= length
        assert regex.fullmatch(expression, text.text) or (length, expression) == (1, "(ab)+")


def test_a_string_that_never_ends_is_closed(real: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]}
    grammar = Grammar(Constraint(json_schema=schema), real)
    for seed in range(5):
        text = draw(grammar, seed, 40)
        assert len(text.tokens) > 30  # random logits seldom close a string
        jsonschema.validate(json.loads(text.text), schema)


NODE = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "left": NODE, "right": NODE},
    "required": ["name", "left", "right"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "email": {"type": "string", "format": "email"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "home": {"type": "object", "properties": {"city": {"enum": ["Rome", "Paris"]}}},
    },
    "required": ["name", "email", "tags", "home"],
}


@pytest.mark.parametrize(
    "schema", [{**TREE, "$defs": {"tree": TREE}}, PERSON, {}], ids=["tree", "person", "any"]
)
@pytest.mark.parametrize("length", [50, 90])
def test_nested_values_are_closed(real: Tokenizer, schema: dict[str, Any], length: int) -> None:
    grammar = Grammar(Constraint(json_schema=schema), real)
    for seed in range(2):
        text = draw(grammar, seed, length)
        assert len(text.tokens) <= length
        jsonschema.validate(json.loads(text.text), schema)


def test_with_tokens_to_spare_nothing_changes(tokenizer: Tokenizer) -> None:
    grammar = Grammar(Constraint(regex="[a-z ]{5,}"), tokenizer)
    led, free = (draw(grammar, 3, 40, lead=lead).tokens for lead in (True, False))
    assert led[:25] == free[:25]


def test_where_no_end_can_be_reached_the_text_is_cut(tokenizer: Tokenizer) -> None:
    text = draw(Grammar(Constraint(regex="[a-z]{500}"), tokenizer), 1, 10)
    assert len(text.tokens) == 10
    assert not text.accepting


# ---- bad input


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "a constraint is one of regex, json_schema, grammar; given: none"),
        ({"regex": "a", "grammar": "b"}, "given: regex and grammar"),
        ({"regex": ""}, "the regular expression is empty"),
        ({"grammar": " \n"}, "the grammar is empty"),
        ({"regex": 3}, "the regular expression must be text, not int"),
        ({"regex": "\udc80"}, "the regular expression is not Unicode text"),
        ({"json_schema": ""}, "the JSON schema is not JSON: Expecting value: line 1 column 1"),
        ({"json_schema": "{"}, "the JSON schema is not JSON: "),
        ({"json_schema": '{"maximum": NaN}'}, "NaN is no JSON number"),
        ({"json_schema": {"enum": {1}}}, "the JSON schema is not JSON: "),
        ({"json_schema": "[" * 100_000}, "the JSON schema is not JSON: "),
        ({"json_schema": "3"}, "a JSON schema is an object, true or false, not int"),
        ({"json_schema": False}, "which no text satisfies"),
        ({"json_schema": {"type": "object", "minProperties": 2}}, "minProperties 2 with 0"),
    ],
)
def test_a_constraint_that_means_nothing_is_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidSetting, match=regex.escape(reason)):
        Constraint(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"regex": "("}, "the regular expression is refused: unclosed group"),
        ({"regex": "(?=a)a"}, "look-around"),
        ({"regex": r"[^\x00-\U0010ffff]"}, "no text satisfies it"),
        ({"json_schema": {"type": "foo"}}, "the JSON schema is refused: Invalid type: foo"),
        ({"json_schema": {"not": {}}}, 'Unimplemented keys: ["not"]'),
        ({"json_schema": {"type": "integer", "minimum": 2, "maximum": 1}}, "Unsatisfiable schema"),
        ({"json_schema": {"$ref": "http://x.invalid/"}}, "the JSON schema is refused: Resource"),
        ({"grammar": 'start: "a" other'}, 'at 1(8): unknown name: "other"'),
        ({"grammar": 'other: "a"'}, "no start rule found"),
        ({"grammar": 'start: start "a"'}, "no text satisfies it"),
    ],
)
def test_what_the_library_refuses_is_told_in_a_line(
    tokenizer: Tokenizer, given: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidSetting, match=regex.escape(reason)) as raised:
        Grammar(Constraint(**given), tokenizer)
    assert "\n" not in str(raised.value)


def test_a_token_that_is_not_allowed_is_not_taken(tokenizer: Tokenizer) -> None:
    matcher = Grammar(Constraint(regex="ab"), tokenizer).begin()
    with pytest.raises(InvalidSetting, match=r"token \d+ \(b'b'\) cannot follow"):
        matcher.take(tokenizer.encode("b")[0])


@pytest.mark.parametrize("grammar", ['start: "a" <|endoftext|>', 'start: "a" <|endoftext|> "b"'])
def test_a_grammar_does_not_name_the_end(tokenizer: Tokenizer, grammar: str) -> None:
    matcher = Grammar(Constraint(grammar=grammar), tokenizer).begin()
    matcher.take(tokenizer.encode("a")[0])
    with pytest.raises(InvalidSetting, match=r"a text ends where `start` ends, <\|endoftext\|> is"):
        matcher.allowed()


def test_a_missing_library_names_the_extra(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=r'pip install "gpt2rt\[constrain\]"'):
        Grammar(Constraint(regex="a"), tokenizer)


# ---- values


def test_a_schema_is_the_same_as_text_and_as_parsed() -> None:
    schema = {"type": "object", "properties": {"b": True, "a": {"enum": ["é"]}}}
    parsed, text = Constraint(json_schema=schema), Constraint(json_schema=json.dumps(schema))
    assert parsed == text
    assert hash(parsed) == hash(text)
    assert list(json.loads(str(text.json_schema))["properties"]) == ["b", "a"]


def test_properties_come_in_the_order_of_the_schema(tokenizer: Tokenizer) -> None:
    schema = {"properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["a", "b"]}
    text = draw(Grammar(Constraint(json_schema={"type": "object", **schema}), tokenizer), 1, 40)
    assert list(json.loads(text.text))[:2] == ["b", "a"]
