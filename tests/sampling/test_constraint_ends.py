"""A constrained text with few tokens left is led to its end."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import regex

from constraint_cases import draw
from gpt2rt import Tokenizer
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.grammar import TIGHT, Grammar


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
