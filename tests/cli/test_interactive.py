"""`gpt2rt interactive` in a pipe: answers, commands, long texts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from command_line import EQUALS, PROMPT, Command, Ended, run_process
from gpt2rt.cli.input import entries
from models import TINY

SHORT = ("--length", "3", "--seed", "1")


def answers(output: str) -> list[str]:
    """The samples in what the command printed."""
    return re.findall(r"SAMPLE \d+ =+\n(.*?)\n(?:=+ SAMPLE|={80})", output, re.DOTALL)


# ---- commands, in a pipe


def test_again_gives_the_next_answer_to_the_same_prompt(command: Command, model: Path) -> None:
    asked = command("interactive", "-m", model, *SHORT, stdin=b"hello\nhello\n")
    again = command("interactive", "-m", model, *SHORT, stdin=b"hello\n/again\n")
    assert answers(again.out) == answers(asked.out)
    assert len(answers(again.out)) == 2


def test_a_seed_repeats_an_answer(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"hello\n/seed 1\nhello\n")
    first, second = answers(ended.out)
    assert first == second


def test_set_is_what_the_option_is(command: Command, model: Path) -> None:
    option = command("interactive", "-m", model, "--top-k", 2, *SHORT, stdin=b"hello\n")
    typed = command("interactive", "-m", model, *SHORT, stdin=b"/set top_k 2\nhello\n")
    length = command("interactive", "-m", model, "--seed", 1, "--length", 9, stdin=b"hello\n")
    longer = command("interactive", "-m", model, *SHORT, stdin=b"/set length 9\nhello\n")
    assert answers(typed.out) == answers(option.out)
    assert answers(longer.out) == answers(length.out)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--special", "--no-special"])
def test_control_tokens_in_a_prompt_are_what_generate_makes_of_them(
    command: Command, model: Path, flag: str
) -> None:
    prompt = "a<|endoftext|>b"
    said = command("generate", prompt, "-m", model, *SHORT, flag).out
    wanted = [said.removesuffix("\n")]
    option = command("interactive", "-m", model, *SHORT, flag, stdin=f"{prompt}\n".encode())
    value = {"--special": "on", "--no-special": "off"}[flag]
    typed = f"/set special {value}\n{prompt}\n/set special\n".encode()
    changed = command("interactive", "-m", model, *SHORT, stdin=typed)
    assert answers(option.out) == answers(changed.out) == wanted
    assert f"special {value}\n" in changed.out


def test_set_alone_shows_the_settings(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"/set\n/set top_k\n")
    assert re.search(r"^(Model prompt >>> )?temperature +1\.0$", ended.out, re.MULTILINE)
    assert re.search(r"^length +3$", ended.out, re.MULTILINE)
    assert re.search(r"^seed +1$", ended.out, re.MULTILINE)
    assert f"{PROMPT}top_k 0\n" in ended.out


def test_help_names_every_command(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, stdin=b"/help\n")
    for name in ("again", "set", "seed", "model", "help", "quit"):
        assert f"/{name} " in ended.out


def test_quit_ends_the_session(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"/quit\nhello\n")
    assert (ended.code, ended.out) == (0, PROMPT)


def test_the_model_can_be_changed(command: Command, model: Path, home: Path) -> None:
    other = model.parent / "fp32"
    stdin = f"/model {other}\n/model\nhello\n".encode()
    ended = command("interactive", "-m", model, *SHORT, stdin=stdin)
    direct = command("interactive", "-m", other, *SHORT, stdin=b"hello\n")
    assert f"{PROMPT}tiny-fp32 is answering\n" in ended.out
    assert answers(ended.out) == answers(direct.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("/foo", "unknown command /foo; /help lists them"),
        ("/set top_k", ""),
        ("/set top_k x", "top_k takes a whole number, not 'x'"),
        ("/set top_k -1", "top_k must be 0 (off) or more"),
        ("/set tpo_k 1", "unknown setting 'tpo_k': did you mean top_k?"),
        ("/set nosuch", "unknown setting 'nosuch'"),
        ("/set nsamples -1", "nsamples must be 1 to"),
        ("/seed x", "seed takes a whole number"),
        ("/model nosuch", "unknown model 'nosuch'"),
        ("/again", "nothing was asked yet"),
    ],
)
def test_a_wrong_command_costs_one_line(
    command: Command, model: Path, typed: str, reason: str
) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=f"{typed}\nhello\n".encode())
    assert len(answers(ended.out)) == 1
    if reason:
        assert ended.err.startswith(f"gpt2rt: {reason}")
        assert ended.err.count("\n") == 1
    assert ended.code == (1 if reason else 0)


def test_a_path_is_a_text_and_no_command(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"/etc/hosts is\n")
    assert len(answers(ended.out)) == 1
    assert ended.code == 0


def test_a_block_is_a_text_and_no_command(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b'"""\n/help\n"""\n"""/quit"""\n')
    assert len(answers(ended.out)) == 2
    assert ended.code == 0


# ---- texts of several lines


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("one", "one"),
        ("one\\\ntwo", "one\ntwo"),
        ("one\\\n\\\nthree", "one\n\nthree"),
        ('"""one"""', "one"),
        ('"""\none\n\ntwo\n"""', "one\n\ntwo\n"),
        ('"""one\\\n/set\n  two"""', "one\\\n/set\n  two"),
        ("one\\", "one"),
        ("\\n", "\\n"),
    ],
)
def test_a_text_may_have_several_lines(
    monkeypatch: pytest.MonkeyPatch, typed: str, text: str
) -> None:
    lines = iter(typed.split("\n"))

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert entries.entry(PROMPT)[0] == text
    with pytest.raises(EOFError):
        entries.entry(PROMPT)


def test_several_lines_are_one_prompt(command: Command, model: Path) -> None:
    text = command("generate", "a\nb", "-m", model, *SHORT, "--json").records[0]["text"]
    for stdin in (b"a\\\nb\n", b'"""a\nb"""\n'):
        ended = command("interactive", "-m", model, *SHORT, stdin=stdin)
        assert answers(ended.out) == [text]


def test_a_text_that_is_not_closed_is_told(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b'"""a\nb\n')
    assert ended.err == 'gpt2rt: the input ended within a text that """ began; close it\n'
    assert ended.code == 1


# ---- UTF-8 whatever the locale says


@pytest.mark.slow
@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"}],
)
def test_text_is_utf_8_in_any_locale(model: Path, tmp_path: Path, locale: dict[str, str]) -> None:
    prompts = tmp_path / "prompts"
    prompts.write_bytes("né 👋\n".encode())
    runs = []
    for extra in ({"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}, locale):
        base = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHONIO"))}
        with prompts.open("rb") as stdin:
            options = ("interactive", "-m", model, *SHORT)
            runs.append(run_process(*options, stdin=stdin, env=base | extra))
    assert runs[0] == runs[1]
    assert runs[0].code == 0


# ---- byte for byte


def script(texts: Sequence[str]) -> str:
    """What a prompt is answered with: OpenAI's script, byte for byte."""
    samples = [f"{EQUALS} SAMPLE {i} {EQUALS}\n{text}\n" for i, text in enumerate(texts, 1)]
    return "".join(samples) + "=" * 80 + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("nsamples", [1, 3])
def test_interactive_answers_each_prompt_as_generate_would(
    command: Command, model: Path, nsamples: int
) -> None:
    """The first prompt with the seed, each later one with the next seed; half the context long."""
    options = ("-m", model, "-n", nsamples, "--top-k", "40")
    prompts = ["hello", "né 👋", "hello"]
    wanted = PROMPT
    for number, prompt in enumerate(prompts):
        extra = ("--json", "--seed", 7 + number, "--length", TINY.n_ctx // 2)
        samples = command("generate", prompt, *options, *extra).records
        wanted += script([sample["text"] for sample in samples]) + PROMPT
    stdin = "".join(f"{prompt}\n" for prompt in prompts).encode()
    assert command("interactive", *options, "--seed", 7, stdin=stdin) == Ended(0, f"{wanted}\n", "")


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (b"", "the prompt is empty"),
        (b"a\xffb", "the prompt is not UTF-8 (byte 1)"),
        (b"x" * 99, "the prompt has 99 tokens, the context of tiny-int8 holds 48"),
    ],
)
def test_interactive_refuses_a_prompt_and_goes_on(
    command: Command, model: Path, refused: bytes, reason: str
) -> None:
    options = ("interactive", "-m", model, "--seed", 1)
    ended = command(*options, stdin=refused + b"\nhello\n")
    assert ended.err.startswith(f"gpt2rt: {reason}")
    assert ended.err.count("\n") == 1
    assert ended.out.startswith(PROMPT + PROMPT + EQUALS)
    assert ended.out.endswith("=" * 80 + f"\n{PROMPT}\n")
    assert ended.code == 1  # no terminal: whatever fed the prompts should know


def test_interactive_without_a_prompt_ends_well(command: Command, model: Path, home: Path) -> None:
    assert command("interactive", "-m", model) == Ended(0, f"{PROMPT}\n", "")
    assert not (home / "history").exists()
