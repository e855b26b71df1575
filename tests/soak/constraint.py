"""Texts drawn under 200 random JSON schemas and 200 random regular expressions, all checked."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from random import Random

import jsonschema
import regex

from constraint_cases import draw, random_regex, whole_schema
from gpt2rt import Tokenizer
from gpt2rt.bundles import catalog
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.grammar import Grammar

COUNT = 200
LENGTHS = (24, 80)


def main() -> None:
    vocabulary = Path(sys.argv[1]) if len(sys.argv) > 1 else catalog.demo_bundle()
    tokenizer = Tokenizer.read(vocabulary)
    began, cut, texts = time.perf_counter(), 0, 0
    for seed in range(COUNT):
        expression, schema = random_regex(Random(seed)), whole_schema(Random(seed))
        for constraint in (Constraint(regex=expression), Constraint(json_schema=schema)):
            grammar = Grammar(constraint, tokenizer)
            for length in LENGTHS:
                text = draw(grammar, seed, length)
                texts += 1
                cut += not text.accepting
                if not text.accepting:
                    print(f"seed {seed}, cut short at {length}: {constraint}: {text.text!r}")
                elif constraint.regex:
                    assert regex.fullmatch(expression, text.text, timeout=300), (seed, text.text)
                else:
                    jsonschema.validate(json.loads(text.text), schema)
    took = time.perf_counter() - began
    print(f"{texts} texts, {cut} cut short, the others valid; {took:.1f} s")


if __name__ == "__main__":
    main()
