"""Every instruction set and any number of threads give the same bits, from tokens to text."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.slots import Part
from gpt2rt.kernels.build import Target
from gpt2rt.kernels.library import kernels
from models import TINY

TEXT = np.random.default_rng(4).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()
CUT = 30
PARAMS = SamplingParams(seed=3, temperature=1.5, top_p=0.9)


@pytest.fixture
def use() -> Iterator[Callable[[str], bool]]:
    """Chooses the kernels of an instruction set, if the processor runs them, for one test."""
    found = kernels()
    if found.path is None:
        pytest.skip(f"no kernels: {found.problem}")
    library = ctypes.CDLL(str(found.path))
    yield lambda name: bool(library.gpt2rt_use(name.encode()))
    library.gpt2rt_use(found.instructions.encode())


def results(model: GPT2) -> list[bytes]:
    """The logits of prompts, single tokens and drafts in common steps, and a text."""
    slots = model.new_slots(2)
    first = slots.step([Part(0, 0, TEXT[:CUT], CUT), Part(1, 0, TEXT[:1])])
    logits = [np.array(first).tobytes()]
    for at in range(CUT, TINY.n_ctx):
        step = slots.step(
            [Part(0, at, TEXT[at : at + 1]), Part(1, 2 * (at - CUT) + 1, TEXT[:2], 2)]
        )
        logits.append(np.array(step).tobytes())
    text = model.generate("the cat", PARAMS, Stopping(30, end_of_text=False)).text
    return [*logits, text.encode()]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("instructions", Target.here().instruction_sets)
def test_logits_and_texts_have_the_bits_of_any_other_instruction_set(
    instructions: str, precision: str, tiny_bundles: dict[str, Bundle], use: Callable[[str], bool]
) -> None:
    bundle = tiny_bundles[precision].directory
    assert use("scalar")
    wanted = results(GPT2.load(bundle, threads=1))
    if not use(instructions):
        pytest.skip("this processor does not run it")
    for threads in (1, 2):
        assert results(GPT2.load(bundle, threads=threads)) == wanted
