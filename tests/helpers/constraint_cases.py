"""Random JSON schemas and regular expressions, and texts drawn without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from gpt2rt.sampling.grammar import Grammar

Make = Callable[[Random, int], dict[str, Any]]
NAMES = ("a", "name", "né", "a b", "日本", "x-1", "_", "count")
WORDS = ("red", "green", "blue", "Ünicode", 'quo"te', "back\\slash", "", "😀")
PATTERNS = ("^[a-z]{2,5}$", "^\\d{3}-\\d{4}$", "b+", "^(foo|bar)*$", "^[A-Z][a-z]*$")
FORMATS = ("date", "uuid", "ipv4", "email", "time")
LITERALS = ("a", "B", "7", "é", "日", "😀", " ", "-", r"\.", r"\(", "xyz", "\n", '"')
CLASSES = ("[a-z]", "[A-F0-9]", r"\d", "[^a-z]", ".", r"[\p{L}]", "[é-ü_]", r"\p{Lu}", "[^,\n]")
REPEATS = ("?", "*", "+", "{2}", "{0,3}", "{1,4}", "{2,}", "*?", "+?")


def random_regex(random: Random, depth: int = 3) -> str:
    """An expression that Rust and Python read alike."""
    shape = random.random()
    if depth == 0 or shape < 0.25:
        return random.choice(LITERALS if random.random() < 0.5 else CLASSES)
    if shape < 0.65:
        return "".join(random_regex(random, depth - 1) for _ in range(random.randint(2, 4)))
    if shape < 0.85:
        return f"(?:{random_regex(random, depth - 1)}){random.choice(REPEATS)}"
    ways = (random_regex(random, depth - 1) for _ in range(random.randint(2, 3)))
    return f"({'|'.join(ways)})"


def random_schema(random: Random, depth: int = 3) -> dict[str, Any]:
    """A schema that some value satisfies."""
    kinds: list[Callable[[Random, int], dict[str, Any]]] = [
        _string,
        _integer,
        _number,
        _choice,
        _simple,
    ]
    if depth > 0:
        kinds += [_array, _object, _object, _any_of, _reference]
    return random.choice(kinds)(random, depth - 1)


def _string(random: Random, _: int) -> dict[str, Any]:
    least = random.randint(0, 4)
    return random.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": least, "maxLength": least + random.randint(0, 6)},
            {"type": "string", "pattern": random.choice(PATTERNS)},
            {"type": "string", "format": random.choice(FORMATS)},
        ]
    )


def _integer(random: Random, _: int) -> dict[str, Any]:
    low = random.randint(-500, 500)
    return random.choice(
        [
            {"type": "integer"},
            {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 1000)},
            {"type": "integer", "exclusiveMinimum": low},
            {"type": "integer", "multipleOf": random.randint(1, 9)},
        ]
    )


def _number(random: Random, _: int) -> dict[str, Any]:
    low = random.randint(-50, 50) / 4
    bounds = {"minimum": low, "maximum": low + random.randint(1, 50) / 8}
    return {"type": "number", **random.choice([{}, bounds, {"exclusiveMaximum": low}])}


def _choice(random: Random, _: int) -> dict[str, Any]:
    values: list[Any] = random.sample(
        [*WORDS, 1, -2.5, None, True, [1, "a"], {"k": []}], random.randint(1, 4)
    )
    return random.choice([{"enum": values}, {"const": values[0]}])


def _simple(random: Random, _: int) -> dict[str, Any]:
    return {"type": random.choice(["boolean", "null", ["integer", "null"], ["boolean", "string"]])}


def _array(random: Random, depth: int) -> dict[str, Any]:
    least = random.randint(0, 2)
    schema = {"type": "array", "items": random_schema(random, depth), "minItems": least}
    if random.random() < 0.7:
        schema["maxItems"] = least + random.randint(0, 3)
    if random.random() < 0.3:
        schema["prefixItems"] = [random_schema(random, depth) for _ in range(random.randint(1, 2))]
    return schema


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(NAMES, random.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(random, depth) for name in names},
        "required": [name for name in names if random.random() < 0.6],
    }
    if random.random() < 0.6:
        schema["additionalProperties"] = random.choice([False, random_schema(random, depth)])
    return schema


def _any_of(random: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(random, depth) for _ in range(random.randint(1, 3))]}


def _reference(random: Random, _: int) -> dict[str, Any]:
    """A list of lists of its own kind: as deep as a model likes."""
    item = random_schema(random, 0)
    nested = {"type": "array", "items": {"anyOf": [item, {"$ref": "#/$defs/nested"}]}}
    return {"type": "object", "properties": {"tree": nested}, "$defs": {"nested": nested}}


def whole_schema(random: Random) -> dict[str, Any]:
    """As `random_schema`, with definitions moved to where references point."""
    schema = random_schema(random)
    found: list[dict[str, Any]] = []
    _lift(schema, found)
    return {**schema, "$defs": found[-1]} if found else schema


def _lift(node: Any, found: list[dict[str, Any]]) -> None:
    if isinstance(node, dict):
        if "$defs" in node:
            found.append(node.pop("$defs"))
        for value in node.values():
            _lift(value, found)
    elif isinstance(node, list):
        for value in node:
            _lift(value, found)


@dataclass(frozen=True)
class Text:
    """What was drawn, and how it ended."""

    text: str
    tokens: list[int]
    accepting: bool  # whether the constraint is satisfied


def draw(
    grammar: Grammar, seed: int, length: int, *, spread: float = 3.0, lead: bool = True
) -> Text:
    """Draw tokens from random logits; with `lead` the matcher knows how many are left."""
    random = np.random.default_rng(seed)
    matcher = grammar.begin()
    tokens: list[int] = []
    while len(tokens) < length and not matcher.complete:
        logits = random.normal(0, spread, grammar.tokenizer.n_vocab).astype(np.float32)
        row = matcher.mask(logits, length - len(tokens) if lead else None)
        token = int(np.argmax(row + random.gumbel(size=len(row))))
        assert np.isfinite(row[token])
        matcher.take(token)
        if token == grammar.tokenizer.end_of_text:
            break
        tokens.append(token)
    return Text(grammar.tokenizer.decode(tokens), tokens, matcher.accepting)
