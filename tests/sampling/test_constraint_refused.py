"""Constraints that mean nothing are refused, and equal ones are equal."""

from __future__ import annotations

import json
import sys

import pytest
import regex

from constraint_cases import draw
from gpt2rt import Tokenizer
from gpt2rt.errors import InvalidSetting, MissingExtra
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.grammar import Grammar


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
