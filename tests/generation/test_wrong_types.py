"""Arguments of a wrong type are an error that names the argument, before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpt2rt import GPT2, EmbedParams, Request, SamplingParams, Stopping
from gpt2rt.errors import BadText, InvalidSetting

P = SamplingParams()
CALLS: list[tuple[str, Callable[[Any], object]]] = [
    ("params", lambda m: m.generate("a", None)),
    ("params", lambda m: m.generate("a", {"temperature": 1})),
    ("params", lambda m: m.beam_search("a", params=3)),
    ("stopping", lambda m: m.generate("a", P, 5)),
    ("beams", lambda m: m.beam_search("a", 4)),
    ("constraint", lambda m: m.generate("a", constraint="x")),
    ("special", lambda m: m.generate("a", special="no")),
    ("special", lambda m: Request("a", special=1)),  # type: ignore[arg-type]
    ("special", lambda m: m.score("a", special="no")),
    ("special", lambda m: EmbedParams(special="no")),  # type: ignore[arg-type]
    ("logprobs", lambda m: Request("a", logprobs=2)),  # type: ignore[arg-type]
    ("top", lambda m: Request("a", top=1.5)),  # type: ignore[arg-type]
    ("top", lambda m: Request("a", top=-1)),
    ("sample", lambda m: Request("a", sample=True)),
    ("batch_size", lambda m: m.generate_batch(["a"], batch_size="3")),
    ("batch_size", lambda m: m.generate_batch(["a"], batch_size=2.0)),
    ("batch_size", lambda m: m.run([], batch_size=True)),
    ("batch_size", lambda m: m.score_batch(["a"], batch_size="3")),
    ("batch_size", lambda m: m.embed_batch(["a"], batch_size=0.5)),
    ("prompts", lambda m: m.generate_batch(None)),
    ("prompts", lambda m: m.generate_batch(b"a")),
    ("texts", lambda m: m.score_batch(None)),
    ("texts", lambda m: m.score_document(5)),
    ("texts", lambda m: m.embed_batch(7)),
    ("window", lambda m: m.score("a", window=5.5)),
    ("window", lambda m: m.score("a", window="5")),
    ("stride", lambda m: m.score("a", stride=2.5)),
    ("top", lambda m: m.score("a", top="1")),
    ("context", lambda m: m.score("a", context=5)),
    ("joint", lambda m: m.score_document(["a", "b"], joint=5)),
    ("joint", lambda m: m.score_document(["a", "b"], joint=" and ")),
    ("layer", lambda m: EmbedParams(layer="x")),  # type: ignore[arg-type]
    ("word", lambda m: EmbedParams(by="word", word=5)),  # type: ignore[arg-type]
    ("params", lambda m: m.embed("a", {"layer": 1})),
    ("model", lambda m: GPT2.load(5)),  # type: ignore[arg-type]
    ("draft", lambda m: GPT2.load("demo", draft=5)),  # type: ignore[arg-type]
    ("draft", lambda m: GPT2.load("demo", draft=m)),
    ("threads", lambda m: GPT2.load("demo", threads="x")),  # type: ignore[arg-type]
    ("prefix_bytes", lambda m: GPT2(m.bundle, prefix_bytes=None)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_a_wrong_type_is_named(
    tiny_models: dict[str, GPT2], name: str, call: Callable[[Any], object]
) -> None:
    with pytest.raises(InvalidSetting, match=name):
        call(tiny_models["int8"])


@pytest.mark.parametrize("texts", [["a", 5], [b"a"], ["a", ""]])
def test_what_is_no_text_in_a_document(tiny_models: dict[str, GPT2], texts: list[Any]) -> None:
    with pytest.raises(BadText):
        tiny_models["int8"].score_document(texts)


def test_right_types_pass(tiny_models: dict[str, GPT2]) -> None:
    model = tiny_models["int8"]
    done = model.generate_batch(("a", [1, 2]), P, Stopping(1), special=False, batch_size=1)
    assert len(done) == 2
    assert len(model.score_document(iter(["a", "b"]), joint="\n", top=1)) == 2
