"""A model's life: freed when it is let go, closed, never copied; and what a forked child finds."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import threading
import weakref
from pathlib import Path

import pytest

from gpt2rt import GPT2, Constraint, SamplingParams, Stopping
from gpt2rt.errors import BadText, InvalidSetting

SHORT = Stopping(4)
GREEDY = SamplingParams(temperature=0)


@pytest.fixture
def loaded(model: Path) -> GPT2:
    return GPT2.load(model, threads=1)


def test_the_last_reference_frees_the_session_at_once(model: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        gpt2 = GPT2.load(model, threads=1)
        gpt2.generate("the cat", GREEDY, SHORT)
        gpt2.score("the cat")
        list(gpt2.stream("the cat", GREEDY, SHORT))
        session = weakref.ref(gpt2.runtime.session)
        del gpt2
        assert session() is None
    finally:
        gc.enable()


def test_constraints_keep_no_model_and_no_tokenizer_alive(model: Path) -> None:
    pytest.importorskip("llguidance")
    gpt2 = GPT2.load(model, threads=1)
    gpt2.generate("the cat", GREEDY, Stopping(8), constraint=Constraint(regex="[a-c]{1,3}"))
    tokenizer = weakref.ref(gpt2.tokenizer)
    del gpt2
    gc.collect()
    assert tokenizer() is None


def test_a_closed_model_says_so(model: Path) -> None:
    with GPT2.load(model, threads=1) as gpt2:
        assert gpt2.generate("the cat", GREEDY, SHORT).tokens
    for call in (lambda: gpt2.generate("a"), lambda: gpt2.score("a"), lambda: gpt2.embed("a")):
        with pytest.raises(InvalidSetting, match="is closed; load it again"):
            call()
    gpt2.close()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_is_not_copied(loaded: GPT2, copied: object) -> None:
    with pytest.raises(TypeError, match="load it in each process that needs it"):
        copied(loaded)  # type: ignore[operator]


def test_drafts_that_are_none(loaded: GPT2) -> None:
    with pytest.raises(InvalidSetting, match="draft is a GPT2, \"lookup\" or None, not 'lokup'"):
        GPT2(loaded.bundle, draft="lokup")  # type: ignore[arg-type]


def test_the_first_of_several_bad_prompts_is_named(loaded: GPT2) -> None:
    for bad in (["ok", 3, "\ud800"], [["a"], "\ud800"], [b"x", ""]):
        with pytest.raises(BadText, match="text, token ids or None"):
            loaded.generate_batch(bad)  # type: ignore[arg-type]


def _generate(model: GPT2, wanted: tuple[int, ...]) -> None:
    found = model.generate("the cat sat on the mat", GREEDY, SHORT).tokens
    os._exit(0 if found == wanted else 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_generates_goes_on(loaded: GPT2) -> None:
    prompt = "the cat sat on the mat"
    wanted = loaded.generate(prompt, GREEDY, SHORT).tokens
    done = threading.Event()

    def busy() -> None:
        while not done.is_set():
            loaded.generate(prompt, GREEDY, SHORT)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(10):
            child = multiprocessing.get_context("fork").Process(
                target=_generate, args=(loaded, wanted)
            )
            child.start()
            child.join(20)
            hung = child.exitcode is None
            if hung:
                child.kill()
            assert not hung, "the child hangs"
            assert child.exitcode == 0
    finally:
        done.set()
        thread.join()
