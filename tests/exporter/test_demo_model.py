"""The demo model that ships knows its grammar: held-out stories cost it little more."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2rt import GPT2
from gpt2rt.bundles import catalog
from gpt2rt.engine.slots import Part

sys.path.insert(0, str(Path(__file__).parents[2] / "export" / "demo"))

from grammar import log_probability, read_grammar


@pytest.mark.slow
def test_held_out_stories_cost_at_most_a_tenth_more_than_the_grammar_says() -> None:
    text = (catalog.demo_checkpoint() / "heldout.txt").read_text(encoding="utf-8")
    stories = text.removesuffix("\n").split("\n<|endoftext|>\n")
    model = GPT2.load("demo", threads=1)
    end = model.tokenizer.end_of_text
    slots = model.new_slots(1)
    rules = read_grammar()
    floor = loss = 0.0
    for story in stories:
        tokens = [end, *model.tokenizer.encode(story), end]
        logits = np.asarray(slots.step([Part(0, 0, tokens[:-1], len(tokens) - 1)]), np.float64)
        best = logits.max(axis=-1, keepdims=True)
        normaliser = np.log(np.exp(logits - best).sum(axis=-1)) + best[:, 0]
        loss += float((normaliser - logits[np.arange(len(logits)), tokens[1:]]).sum())
        known = log_probability(rules, story)
        assert known is not None
        floor -= known
    assert len(stories) == 50
    assert 1.0 < loss / floor < 1.10
