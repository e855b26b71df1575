"""The methods of `GPT2` that generate text: same results for any batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadBundle, BadText, InvalidSetting, PromptTooLong

PROMPTS = ["a", "the cat sat on the mat", "x", "the cat sat on the mat", "né 👋", None, "zz top"]


def test_greedy_takes_the_best_token_of_a_plain_forward(tiny: GPT2) -> None:
    """Every token is the argmax of logits computed token by token, outside the engine."""

    completion = tiny.generate(
        "hello", SamplingParams(temperature=0), stopping=Stopping(20, end_of_text=False)
    )
    slots = tiny.new_slots(1)
    length, fed = 0, list(completion.prompt_tokens)
    logits = np.asarray(slots.step([Part(0, 0, fed)]))
    length = len(fed)
    for token in completion.tokens:
        assert token == int(np.argmax(logits[0]))
        logits = np.asarray(slots.step([Part(0, length, [token])]))
        length += 1


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_batch_size_changes_nothing(tiny: GPT2, batch_size: int) -> None:
    params = SamplingParams(temperature=1.2, top_k=50, seed=5)
    every = tiny.generate_batch(PROMPTS, params, stopping=Stopping(15), batch_size=32)
    some = tiny.generate_batch(PROMPTS, params, stopping=Stopping(15), batch_size=batch_size)
    assert [c.tokens for c in some] == [c.tokens for c in every]
    assert [c.prompt for c in some] == PROMPTS
    assert [c.sample for c in some] == list(range(len(PROMPTS)))


def test_batch_equals_alone(tiny: GPT2) -> None:
    """The first sample of a batch is the text of the prompt alone; greedy: all samples are."""
    params = SamplingParams(seed=5)
    assert (
        tiny.generate_batch(["a", "b", "c"], params, stopping=Stopping(9))[0].tokens
        == tiny.generate("a", params, stopping=Stopping(9)).tokens
    )
    greedy = SamplingParams(temperature=0)
    together = tiny.generate_batch(PROMPTS, greedy, stopping=Stopping(9))
    assert [c.tokens for c in together] == [
        tiny.generate(prompt, greedy, stopping=Stopping(9)).tokens for prompt in PROMPTS
    ]


def test_stream_adds_up_to_generate(tiny: GPT2) -> None:
    params = SamplingParams(temperature=2, seed=3)
    pieces = list(tiny.stream("héllo", params, stopping=Stopping(40)))
    assert "".join(pieces) == tiny.generate("héllo", params, stopping=Stopping(40)).text
    assert tiny.tokenizer.decode(
        tiny.generate("héllo", params, stopping=Stopping(40)).tokens
    ) == "".join(pieces)


def test_two_streams_at_once_do_not_disturb_each_other(tiny: GPT2) -> None:
    params = SamplingParams(seed=8)
    alone = [list(tiny.stream(prompt, params, stopping=Stopping(12))) for prompt in ("a", "b")]
    first, second = (tiny.stream(prompt, params, stopping=Stopping(12)) for prompt in ("a", "b"))
    turns: list[list[str]] = [[], []]
    for _ in range(30):
        for said, stream in zip(turns, (first, second), strict=True):
            said.extend(piece for piece in [next(stream, None)] if piece is not None)
    assert turns == alone


def test_seed_repeats_and_fresh_seeds_differ(tiny: GPT2) -> None:
    first = tiny.generate("a", stopping=Stopping(20, end_of_text=False))
    again = tiny.generate(
        "a", SamplingParams(seed=first.seed), stopping=Stopping(20, end_of_text=False)
    )
    assert again.tokens == first.tokens
    assert (
        len({tiny.generate("a", stopping=Stopping(20, end_of_text=False)).tokens for _ in range(3)})
        > 1
    )


def test_the_context_can_be_filled_to_the_last_position(tiny: GPT2) -> None:
    n_ctx = tiny.hparams.n_ctx
    params = SamplingParams(seed=1)
    begun = tiny.generate(None, params, stopping=Stopping(end_of_text=False))
    assert (len(begun.tokens), begun.finish_reason) == (n_ctx, "context")
    full = "".join(chr(ord("!") + i % 90) for i in range(n_ctx))
    while len(tiny.tokenizer.encode(full)) < n_ctx:
        full += "!"
    full = tiny.tokenizer.decode(tiny.tokenizer.encode(full)[:n_ctx])
    assert len(tiny.tokenizer.encode(full)) == n_ctx
    assert len(tiny.generate(full, params, stopping=Stopping(end_of_text=False)).tokens) == 1
    with pytest.raises(PromptTooLong, match=f"{n_ctx + 1} tokens"):
        tiny.generate(full + "!", params)


def test_length_is_a_bound(tiny: GPT2) -> None:
    completion = tiny.generate("a", SamplingParams(seed=1), stopping=Stopping(7, end_of_text=False))
    assert (len(completion.tokens), completion.finish_reason) == (7, "length")


@pytest.mark.slow
def test_end_of_text_stops_and_is_not_part_of_the_text(tiny: GPT2) -> None:
    """Samples that draw `<|endoftext|>` end there, or continue after it without `end_of_text`."""
    end = tiny.tokenizer.end_of_text
    params = SamplingParams(seed=2)
    stopped = tiny.generate_batch(["a"] * 64, params, stopping=Stopping(40))
    unstopped = tiny.generate_batch(["a"] * 64, params, stopping=Stopping(40, end_of_text=False))
    assert {"end_of_text", "length"} == {c.finish_reason for c in stopped}
    for short, long in zip(stopped, unstopped, strict=True):
        assert long.tokens[: len(short.tokens)] == short.tokens
        assert end not in short.tokens
        if short.finish_reason == "end_of_text":
            assert long.tokens[len(short.tokens)] == end
        assert short.text == tiny.tokenizer.decode(short.tokens)


def test_an_impossible_batch_is_refused_before_any_work(tiny: GPT2) -> None:
    with pytest.raises(InvalidSetting, match="batch_size"):
        tiny.stream_batch(["a"], batch_size=0)


@pytest.mark.parametrize("prompt", ["", "lone \ud800 surrogate"])
def test_prompts_that_are_no_text_are_refused(tiny: GPT2, prompt: str) -> None:
    with pytest.raises(BadText):
        tiny.stream(prompt)


def test_no_prompts_no_completions(tiny: GPT2) -> None:
    assert tiny.generate_batch([]) == []


def test_a_flipped_byte_of_the_weights_is_found(
    tiny_bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundles["int8"].directory, copy)
    data = bytearray((copy / "weights.bin").read_bytes())
    data[1234] ^= 4
    (copy / "weights.bin").write_bytes(data)
    with pytest.raises(BadBundle, match=r"weights\.bin: sha256"):
        GPT2.load(copy)


def test_the_public_names_load_no_heavy_module() -> None:
    heavy = ["tensorflow", "tf2onnx", "onnx", "matplotlib", "onnxruntime", "typer", "rich"]
    code = "from gpt2rt import *; import sys, json; loaded = [*sys.modules]; "
    code += f"print(json.dumps([m for m in {heavy} if m in loaded]))"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )
    assert json.loads(found.stdout) == []
