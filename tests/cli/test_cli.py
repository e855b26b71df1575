"""The command line: what it prints, byte for byte, and how it ends.

Most tests call `main` in this process; those about signals, pipes, locales and terminals start one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import Command, Edit, Ended, finish, run_process, start
from gpt2rt import GPT2, Completion, Piece, Timing, __version__
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import MANIFEST, PARITY, WEIGHTS
from gpt2rt.cli.app import app
from gpt2rt.cli.printing import in_turn
from models import TINY

FIELDS = ["model", "prompt", "text", "prompt_tokens", "tokens", "logprobs", "finish_reason"]
FIELDS += ["stopped_by", "seed", "sample", "cached_tokens", "drafted", "accepted", "score"]
FIELDS += ["prefix_cache"]
TIMING = ["load_ms", "prefill_ms", "decode_ms"]
EQUALS = "=" * 40
PROMPT = "Model prompt >>> "
COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
MANY = ("-n", "3000", "--threads", "1")  # samples: far more than a test waits for
PROMPTS = ["né 👋 wörld", "line\nline", "-", "--top-k"]

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


# ---- generate


@pytest.mark.parametrize("prompt", ["a", "né 👋 wörld", None])
def test_json_is_a_record_a_sample(
    command: Command, model: Path, tiny_models: dict[str, GPT2], prompt: str | None
) -> None:
    given = () if prompt is None else (prompt,)
    ended = command("generate", *given, "-m", model, "--json", "-n", "3", "--seed", "5")
    assert (ended.code, ended.err) == (0, "")
    tokenizer = tiny_models["int8"].tokenizer
    start = [tokenizer.end_of_text] if prompt is None else tokenizer.encode(prompt)
    for number, sample in enumerate(ended.records):
        assert list(sample) == [*FIELDS, "timing"]
        assert list(sample["timing"]) == TIMING
        assert all(value > 0 for value in sample["timing"].values())
        assert (sample["model"], sample["prompt"], sample["seed"]) == ("tiny-int8", prompt, 5)
        assert sample["sample"] == number
        assert sample["prompt_tokens"] == start
        assert sample["text"] == tokenizer.decode(sample["tokens"])
        assert sample["finish_reason"] in ("length", "end_of_text", "context")
    assert number == 2


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_plain_output_is_the_text_of_json_and_a_newline(
    command: Command, model: Path, prompt: str
) -> None:
    options = ("-m", model, "--seed", "9", "--temperature", "1.5")
    stdin = prompt.encode()
    given = ("-",) if prompt == "-" else ("--", prompt)
    text = command("generate", "--json", *options, *given, stdin=stdin).records[0]["text"]
    streamed = command("generate", *options, *given, stdin=stdin)
    assert streamed == Ended(0, text + "\n", "")
    assert command("generate", "--no-stream", *options, *given, stdin=stdin) == streamed


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_several_samples_come_in_order_under_banners(
    command: Command, model: Path, stream: str
) -> None:
    options = ("generate", "a", "-m", model, "--seed", "2", "-n", "5", "--length", "12")
    texts = [sample["text"] for sample in command(*options, "--json").records]
    assert len(set(texts)) == 5
    wanted = [f"{EQUALS} SAMPLE {i} {EQUALS}\n{text}\n" for i, text in enumerate(texts, 1)]
    assert command(*options, stream).out == "".join(wanted)


def test_the_seed_that_json_tells_repeats_the_text(command: Command, model: Path) -> None:
    options = ("generate", "a", "-m", model, "--json")
    first, other = (command(*options).records[0] for _ in range(2))
    assert first["seed"] != other["seed"]
    again = command(*options, "--seed", str(first["seed"])).records[0]
    assert (again["tokens"], again["text"]) == (first["tokens"], first["text"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        ("ab", "ab"),
        ("ab\n", "ab"),
        ("ab\r\n", "ab"),
        ("ab\n\n", "ab\n"),
        (" a\tb ", " a\tb "),
        ("né 👋\nb", "né 👋\nb"),
    ],
)
def test_a_hyphen_reads_standard_input(
    command: Command, model: Path, data: str, prompt: str
) -> None:
    ended = command("generate", "-", "-m", model, "--json", "--length", "1", stdin=data.encode())
    assert ended.records[0]["prompt"] == prompt


def test_greedy_is_temperature_zero_whatever_the_seed(command: Command, model: Path) -> None:
    options = ("generate", "a", "-m", model)
    greedy = command(*options, "--greedy")
    assert greedy == command(*options, "--temperature", "0", "--seed", "3")
    assert greedy == command(*options, "--greedy", "--temperature", "0", "--top-k", "7")


def test_the_reason_for_the_end(command: Command, model: Path) -> None:
    options = ("generate", "a", "-m", model, "--json", "--seed", "2", "--temperature", "3")
    samples = command(*options, "-n", "30", "--length", "30").records
    assert {sample["finish_reason"] for sample in samples} == {"end_of_text", "length"}
    for sample in samples:
        assert (len(sample["tokens"]) == 30) == (sample["finish_reason"] == "length")
    on = command(*options, "-n", "30", "--length", "30", "--no-end-of-text").records
    assert {sample["finish_reason"] for sample in on} == {"length"}
    whole = command(*options, "--no-end-of-text").records[0]
    assert whole["finish_reason"] == "context"
    assert len(whole["tokens"]) == TINY.n_ctx  # the last one drawn needs no place


@pytest.mark.slow
@posix
def test_no_number_of_samples_is_no_end(model: Path, home: Path) -> None:
    """As OpenAI's script for texts from nothing: until whoever reads has had enough."""
    process = start("generate", "-m", model, "-n", "0", "--length", "3", stdout=subprocess.PIPE)
    assert process.stdout is not None
    banners = (line for line in process.stdout if b" SAMPLE " in line)
    assert [next(banners).split()[2] for _ in range(70)] == [str(n).encode() for n in range(1, 71)]
    process.stdout.close()
    assert process.wait(60) == 1


def test_the_model_is_the_option_else_the_environments(
    command: Command, model: Path, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2RT_MODEL", str(model))
    options = ("generate", "a", "--json", "--length", "1")
    assert command(*options).records[0]["model"] == "tiny-int8"
    other = tiny_bundles["fp32"].directory
    assert command(*options, "-m", other).records[0]["model"] == "tiny-fp32"


def test_the_demo_steps_in_and_says_so_only_where_nobody_asked(
    command: Command,
    home: Path,
    model: Path,
    exported: Callable[[str], Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(model, home / "embedded")
    options = ("generate", "a", "--length", "1", "--seed", "1")
    alone = command(*options)
    assert alone.code == 0
    assert alone.err.startswith("gpt2rt: using the embedded demo model")
    assert command(*options, "-m", "demo") == Ended(0, alone.out, "")
    monkeypatch.setenv("GPT2RT_MODEL", "demo")
    assert command(*options) == Ended(0, alone.out, "")
    monkeypatch.delenv("GPT2RT_MODEL")
    exported("117M")
    assert command(*options, "--json").records[0]["model"] == "117M-int8"


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 3))
def test_samples_take_turns_and_the_one_whose_turn_it_is_never_waits(
    order: list[int], missing: int
) -> None:
    """Whatever the interleaving: nothing lost, and the first unfinished sample at once."""
    order = [*order, *(sample for sample in range(4) if sample != missing), missing]
    last = {sample: step for step, sample in enumerate(order)}
    made: list[Piece] = []

    def pieces() -> Iterator[Piece]:
        for step, sample in enumerate(order):
            done = Completion(
                None, "", (), (), None, "length", None, 0, sample, 0, 0, 0, None, Timing(0, 0, 0)
            )
            completion = done if last[sample] == step else None
            made.append(Piece(sample, str(step), completion=completion))
            yield made[-1]

    seen = []
    for piece in in_turn(pieces()):
        seen.append((piece.sample, int(piece.text)))
        finished = {p.sample for p in made if p.completion}
        due = min({0, 1, 2, 3} - (finished - {piece.sample}))
        assert piece.sample <= due
    assert seen == sorted((sample, step) for step, sample in enumerate(order))


# ---- the process


@pytest.mark.slow
@posix
def test_text_is_utf8_whatever_the_locale_says(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("generate", "né 👋", "-m", model, "--seed", "4", "--threads", "1")
    plain = run_process(*options)
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}.items():
        monkeypatch.setenv(name, value)
    sample = run_process(*options, "--json").records[0]
    assert sample["prompt"] == "né 👋"
    assert plain == Ended(0, sample["text"] + "\n", "")
    assert not plain.out.isascii()


@pytest.mark.slow
@posix
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_ends_quietly_with_130(model: Path, options: Sequence[str]) -> None:
    process = start("generate", "a", "-m", model, *MANY, *options, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.code, ended.err) == (130, "")


def test_ctrl_c_while_the_command_is_imported_is_quiet() -> None:
    code = """
import sys
class CtrlC:
    def find_spec(self, name, *rest):
        if name == "numpy":
            raise KeyboardInterrupt
sys.meta_path.insert(0, CtrlC())
from gpt2rt.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.slow
@posix
def test_a_reader_who_has_seen_enough_ends_it_quietly(model: Path, home: Path) -> None:
    process = start("generate", "a", "-m", model, *MANY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b"SAMPLE 1 " + EQUALS.encode() + b"\n")
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    reader, writer = os.pipe()
    os.close(reader)
    ended = run_process("models", "--json", stdout=writer)
    os.close(writer)
    assert "Exception" not in ended.err
    assert "Broken pipe" not in ended.err


@pytest.mark.slow
@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_full_disk_is_told_in_a_line(model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run_process("generate", "a", "-m", model, "--length", "1", stdout=full)
    assert (ended.code, ended.in_one_line()) == (
        1,
        "gpt2rt: the output: No space left on device\n",
    )


@pytest.mark.slow
@posix
def test_closed_streams_are_empty(model: Path) -> None:
    """As `<&- >&-` in a shell."""
    line = 'exec "$0" -m gpt2rt "$@" <&- >&-'
    shell = ["sh", "-c", line, sys.executable, "generate", "-", "-m", str(model)]
    ended = subprocess.run(shell, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 1
    assert b"the prompt is empty" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_traceback_is_shown_on_request_only(home: Path) -> None:
    shown = run_process("generate", "a", "-m", "118M", "--debug")
    assert shown.code == 1
    assert shown.err.startswith("Traceback")
    assert "gpt2rt.errors.UnknownModel: unknown model '118M'" in shown.err


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_is_accepted_anywhere(home: Path, command: Command, place: int) -> None:
    arguments = ["generate", "a", "-m", "118M"]
    arguments.insert(place, "--debug")
    ended = command(*arguments)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "UnknownModel" in ended.err


def test_debug_after_two_hyphens_is_a_prompt(command: Command, model: Path) -> None:
    ended = command("generate", "-m", model, "--json", "--length", "1", "--", "--debug")
    assert ended.records[0]["prompt"] == "--debug"


# ---- help


def test_version(command: Command) -> None:
    assert command("--version") == Ended(0, f"gpt2rt {__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_holds_an_example(command: Command, name: str) -> None:
    for option in ("--help", "-h"):
        ended = command(name, option)
        assert (ended.code, ended.err) == (0, "")
        assert "Examples:" in ended.out
        assert f" gpt2rt {name}" in ended.out.split("Examples:")[1]
    assert name in command("--help").out


def test_no_command_shows_the_help(command: Command) -> None:
    ended = command()
    assert ended.code == 2
    assert "generate" in ended.out + ended.err


# ---- models


def test_models_lists_each_bundle_as_json(
    command: Command, exported: Callable[[str], Bundle], edit_manifest: Edit
) -> None:
    small, large = exported("117M"), exported("1542M")
    parity = large.directory / PARITY
    measured = {"uncached": {"largest": 0.5, "relative": 0.25, "top1": 0.985}}
    parity.write_text(json.dumps(measured))
    edit_manifest(large, files={**large.manifest.files, PARITY: record(parity)})
    ended = command("models", "--json")
    assert ended.code == 0
    first, second, _, total = ended.records
    assert first == {
        "name": "117M-int8",
        "kind": "bundle",
        "model": "117M",
        "precision": "int8",
        "graph": "fused",
        "bytes": small.bytes,
        "tokenizer": "synthetic",
        "origin": "test",
        "parity": {},
        "directory": str(small.directory),
    }
    assert second["name"] == "1542M-int8"
    assert total["kind"] == "total"
    assert total["bytes"] >= small.bytes + large.bytes
    assert second["parity"] == measured
    rows = command("models").out.splitlines()
    assert any("not verified" in row and row.startswith("117M") for row in rows)
    assert any("0.25 σ" in row and "98.5%" in row for row in rows)


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("damaged", [WEIGHTS, MANIFEST, PARITY])
def test_models_names_a_damaged_bundle_and_lists_the_others(
    command: Command,
    exported: Callable[[str], Bundle],
    edit_manifest: Edit,
    options: Sequence[str],
    damaged: str,
) -> None:
    good, bad = exported("345M"), exported("762M")
    (bad.directory / PARITY).write_text("{}")
    edit_manifest(bad, files={**bad.manifest.files, PARITY: record(bad.directory / PARITY)})
    (bad.directory / damaged).write_text("[]")  # as long as {}
    ended = command("models", *options)
    assert ended.code == 0
    assert str(good.directory) in ended.out
    (row,) = [line for line in ended.out.splitlines() if "762M" in line]
    assert "damaged" in row
    assert f"{bad.directory / damaged}: " in row
    assert ended.err == ""


def test_models_shows_a_place_as_it_is(
    command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither markup nor an emoji, and in one line, for the next program in the pipe."""
    home = tmp_path / "[bold]it's :smile: [/bold]" / ("long" * 50)
    monkeypatch.setenv("GPT2RT_HOME", str(home))
    shutil.copytree(model, home / "bundles" / "tiny-int8")
    assert f" {home / 'bundles' / 'tiny-int8'}" in command("models").out


# ---- interactive


def answers(texts: Sequence[str]) -> str:
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
        wanted += answers([sample["text"] for sample in samples]) + PROMPT
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


@pytest.mark.slow
@posix
def test_interactive_on_a_terminal_remembers_and_survives_ctrl_c(model: Path, home: Path) -> None:
    pty, _ = pytest.importorskip("pty"), pytest.importorskip("readline")
    master, slave = pty.openpty()
    options = ("interactive", "-m", model, *MANY)
    environment = {**os.environ, "TERM": "dumb"}
    process = start(*options, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""

    def read_until(wanted: bytes) -> None:
        nonlocal seen
        while wanted not in seen:
            seen += os.read(master, 1 << 16)
        seen = seen[seen.index(wanted) + len(wanted) :]

    read_until(PROMPT.encode())
    os.write(master, b"hello\n")
    read_until(b"SAMPLE 1 ")
    process.send_signal(signal.SIGINT)
    read_until(PROMPT.encode())
    os.write(master, b"\n")
    read_until(b"the prompt is empty")
    read_until(PROMPT.encode())
    os.write(master, b"\x04")
    with suppress(OSError):  # Linux tells the end of a terminal so
        while os.read(master, 1 << 16):
            pass
    assert process.wait(timeout=60) == 0  # a person has seen what was refused
    os.close(master)
    assert "hello" in (home / "history").read_text().splitlines()
