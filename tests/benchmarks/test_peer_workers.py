"""The process of a peer: what it answers, and how it begins."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_bench import peers, startup
from gpt2rt_bench.cases import Case, Configuration
from gpt2rt_bench.latency import CaseResult
from gpt2rt_bench.peers import PeerSubject
from gpt2rt_bench.peers.table import PEERS
from gpt2rt_bench.protocol import Answer
from gpt2rt_bench.subject import Subject, SubjectFailed
from gpt2rt_bench.summary import agreement

WORKERS = Path(peers.__file__).parent / "workers"
ECHO = """
from protocol import Answer, Ready

class SETTINGS: pass

class MODEL:
    def __init__(self, place, precision, threads, settings):
        print("a library prints this")
        if precision == "broken":
            raise RuntimeError("no such kernel\\nand more")
        self.ready = Ready("cpu", precision, {})

    def respond(self, prompts, steps):
        return Answer(1.0, [1.0] * (steps - 1), [[prompt[-1]] * steps for prompt in prompts])
"""


@pytest.fixture
def echo(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> PeerSubject:
    """A peer that answers each prompt with its last token, run as the others are."""
    (tmp_path / "echo.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return PeerSubject("Echo", "echo", bundle, "plain", Path(sys.executable), tmp_path / "model")


def test_a_peer_answers_as_a_subject(echo: PeerSubject) -> None:
    with Subject(echo.name, echo.worker(threads=1)) as subject:
        assert subject.ready.precision == "plain"
        for _ in range(2):
            answer = subject.ask([[1, 2], [3, 4]], 3)
            assert answer.tokens == [[2, 2, 2], [4, 4, 4]]
            assert len(answer.step_ms) == 2


def test_a_peer_prints_its_first_token(echo: PeerSubject) -> None:
    assert startup.first_token(echo.name, echo.first_token(1, [5, 6])) > 0


def test_a_peer_that_cannot_load_says_why_in_one_line(echo: PeerSubject) -> None:
    broken = replace(echo, precision="broken")
    with pytest.raises(SubjectFailed, match=r"^Echo broken: RuntimeError: no such kernel$"):
        Subject(broken.name, broken.worker(threads=1))


@pytest.mark.parametrize("path", sorted(WORKERS.glob("*.py")), ids=lambda path: path.stem)
def test_workers_need_nothing_of_ours_and_hide_no_library(path: Path) -> None:
    assert (
        path.stem not in {name for peer in PEERS for name in peer.needs} | sys.stdlib_module_names
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.startswith("gpt2rt") for name in names)


def test_agreement_counts_the_tokens_before_a_text_parts() -> None:
    def result(*rows: list[int]) -> CaseResult:
        found = CaseResult(Case(Configuration("m", "cpu", 1), 1, len(rows), 3), cast(Subject, None))
        found.answers.append(Answer(1.0, [1.0], list(rows)))
        return found

    ours = result([1, 2, 3], [4, 5, 6])
    assert agreement(result([1, 2, 3], [4, 9, 6]), ours) == 4 / 6
    assert agreement(ours, ours) == 1


# ---- start-up


def test_a_prompt_has_the_length_asked_for(bundle: Bundle) -> None:
    text, tokens = startup.prompt(bundle, 16)
    assert len(tokens) == 16
    assert Tokenizer.read(bundle.directory).encode(text) == tokens


@pytest.mark.slow
def test_our_program_prints_the_first_token(bundle: Bundle, tiny_models: dict[str, GPT2]) -> None:
    text, _ = startup.prompt(bundle, 8)
    seconds = startup.measure({"ours": startup.program(bundle, 1, "cpu", text)}, rounds=1)
    assert len(seconds["ours"]) == 1
    assert 0 < seconds["ours"][0] < 600


@pytest.mark.parametrize("program", ["raise SystemExit('no model')", "print('no token')"])
def test_a_program_without_a_token_is_named(program: str) -> None:
    with pytest.raises(SubjectFailed, match="theirs: no first token"):
        startup.first_token("theirs", [sys.executable, "-c", program])
