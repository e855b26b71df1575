"""The lifetime of a model: freed with its last reference, closed, not copied, forked."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
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


def test_texts_in_progress_keep_their_model(model: Path) -> None:
    texts = GPT2.load(model, threads=1).stream("the cat", GREEDY, SHORT)
    gc.collect()
    assert "".join(texts) == GPT2.load(model, threads=1).generate("the cat", GREEDY, SHORT).text


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
    kind, empty = "text, token ids or None", "prompt is empty"
    for bad, told in (
        (["ok", 3, "\ud800"], kind),
        ([["a"], "\ud800"], kind),
        ([b"x", ""], kind),
        (["", 3], empty),
        (["ok", "ok", "", b"x"], empty),
    ):
        for prompts in (bad, iter(bad)):
            with pytest.raises(BadText, match=told):
                loaded.generate_batch(prompts)  # type: ignore[arg-type]


def test_prompts_of_an_iterator_are_read_as_slots_become_free(loaded: GPT2) -> None:
    texts = [f"the cat {n}" for n in range(200)]
    taken = []

    def prompts() -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    pieces = loaded.stream_batch(prompts(), GREEDY, Stopping(1), batch_size=4)
    assert taken == []
    made = [next(pieces).completion]
    assert len(taken) <= 5 + 1  # the slots, and one to see whether it is alike
    made += [piece.completion for piece in pieces]
    assert taken == texts
    wanted = loaded.generate_batch(texts, GREEDY, Stopping(1), batch_size=4)
    assert [c.text for c in made if c] == [c.text for c in wanted]


@pytest.mark.slow
def test_many_prompts_take_the_memory_of_few(loaded: GPT2) -> None:
    def held(count: int) -> int:
        # The same few words, since what words become is kept.
        prompts = ("a" + f"{n:012b}".replace("0", " a").replace("1", " b") for n in range(count))
        tracemalloc.start()
        pieces = loaded.stream_batch(prompts, GREEDY, Stopping(1), batch_size=4)
        for _ in range(count - 10):
            next(pieces)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return held

    loaded.prefixes = None
    held(100)  # so that what is kept for good is there
    assert held(1000) < held(100) + 20_000


def forks(test: Callable[..., None]) -> Callable[..., None]:
    here = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
    quiet = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    marked: Callable[..., None] = here(quiet(test))
    return marked


def _generate(model: GPT2, wanted: tuple[int, ...]) -> None:
    found = model.generate("the cat sat on the mat", GREEDY, SHORT).tokens
    os._exit(0 if found == wanted else 3)


@pytest.mark.slow
@forks
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
        for _ in range(50):
            child = multiprocessing.get_context("fork").Process(
                target=_generate, args=(loaded, wanted)
            )
            child.start()
            child.join(300)
            hung = child.exitcode is None
            if hung:
                child.kill()
            assert not hung, "the child hangs"
            assert child.exitcode == 0
    finally:
        done.set()
        thread.join()


def _refused(call: Callable[[], object]) -> None:
    try:
        call()
    except InvalidSetting as error:
        os._exit(0 if "loaded with 2 threads before this process was forked" in str(error) else 4)
    os._exit(3)


@pytest.mark.slow
@forks
@pytest.mark.parametrize("what", ["generate", "score", "embed", "a stream begun before"])
def test_a_child_without_the_threads_of_its_model_says_so(model: Path, what: str) -> None:
    gpt2 = GPT2.load(model, threads=2)
    gpt2.embed("the cat")  # opens its graph
    stream = gpt2.stream("the cat", GREEDY, Stopping(20))
    next(stream)
    call: Callable[[], object] = {
        "generate": lambda: gpt2.generate("the cat", GREEDY, SHORT),
        "score": lambda: gpt2.score("the cat"),
        "embed": lambda: gpt2.embed("the cat"),
        "a stream begun before": lambda: list(stream),
    }[what]
    child = multiprocessing.get_context("fork").Process(target=_refused, args=(call,))
    child.start()
    child.join(300)
    assert child.exitcode == 0
    assert list(stream)  # the parent goes on


ENDS = """
import os, sys, time
from gpt2rt import GPT2, SamplingParams, Stopping
model = GPT2.load(sys.argv[1], threads=int(sys.argv[2]))
child = os.fork()
if child == 0:
    if sys.argv[3] == "del":
        del model
    if sys.argv[3] == "load":
        GPT2.load(sys.argv[1], threads=2).generate("the cat", stopping=Stopping(2))
    print("said", end="")  # flushed at the end
    sys.exit(7)
for _ in range(6000):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.05)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc tells the exit status")
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("what", ["exit", "del", "load"])
def test_a_child_ends_by_itself_with_its_own_status(model: Path, threads: str, what: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", ENDS, str(model), threads, what]
    ended = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"said", b"")
