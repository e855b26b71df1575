"""The command line told nonsense: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from command_line import Command, run_process
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import GRAPH, MANIFEST, WEIGHTS

FILES = (GRAPH, WEIGHTS, "encoder.json", "vocab.bpe")
Damage = Callable[[Bundle], object]

needs_export = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs gpt2rt[export]")


# ---- misuse


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "interactive"])
@pytest.mark.parametrize(
    "options",
    [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--top-k", "-1"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--top-p", "nan"),
        ("--length", "0"),
        ("--length", "-5"),
        ("--nsamples", "-1"),
        ("--seed", "-1"),
        ("--seed", str(1 << 64)),
        ("--threads", "0"),
        ("--greedy", "--temperature", "0.7"),
    ],
)
def test_impossible_values_are_misuse_and_told_before_a_model_is_sought(
    command: Command, name: str, options: Sequence[str]
) -> None:
    ended = command(name, "-m", "no-such-model", *options)
    assert ended.code == 2
    message = ended.in_one_line()
    word = options[0].removeprefix("--").replace("-", "_")
    assert word in message or options[0] in message
    assert "--temperature" in message or options[-1] in message


@needs_export
@pytest.mark.parametrize(
    "options",
    [
        ("--fp32", "--int8"),
        ("--seed", "3"),
        ("--random-weights", "--seed", "-1"),
        ("--random-weights", "--checkpoint", "somewhere"),
        ("--graph", "other"),
        ("--graph", "standard", "--int8"),
    ],
)
def test_exports_that_make_no_sense_are_misuse(command: Command, options: Sequence[str]) -> None:
    ended = command("export", "117M", *options)
    assert ended.code == 2
    ended.in_one_line()


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("generate", "a", "--top-k", "many"), "'--top-k': it takes a whole number, not 'many'"),
        (("generate", "a", "--stop-token", "1", "--stop-token", "2.5"), "whole number, not '2.5'"),
        (
            ("generate", "a", "--temperature", "hot"),
            "it takes a number, not 'hot'",
        ),
        (("web", "demo", "-o", "x", "--serve", "65536"), "'--serve': it takes at most 65535"),
        (("generate", "a", "--overflow", "x"), "'x' is not one of 'stop', 'slide'"),
        (("generate", "a", "--frobnicate"), "unknown option --frobnicate"),
        (("generate", "a", "--device", "gpu"), "as in `--provider openvino:gpu`"),
        (("generate", "a", "--lenght", "3"), "did you mean --length"),
        (("generate", "a", "b"), "unexpected extra argument: b"),
        (("generate", "a", "--model"), "'--model' requires an argument"),
        (("generate", "a", "--json=3"), "'--json' does not take a value"),
        (("export",), "missing argument"),
        (("models", "info"), "missing argument"),
    ],
)
def test_options_that_cannot_be_read_are_misuse_told_in_a_line(
    command: Command, arguments: Sequence[str], fact: str
) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    message = ended.in_one_line()
    assert fact in message
    path = " ".join(arguments[: 2 if arguments[0] == "models" else 1])
    assert message.endswith(f"; see `gpt2rt {path} --help`\n")
    assert "Input should" not in message


def test_a_command_that_there_is_not(command: Command) -> None:
    ended = command("frobnicate")
    assert ended.code == 2
    assert ended.in_one_line() == "gpt2rt: unknown command 'frobnicate'; see `gpt2rt --help`\n"


def test_help_is_shown_where_it_is_asked_for_or_nothing_is(command: Command) -> None:
    for arguments, code in ((("--help",), 0), ((), 2), (("generate", "-h"), 0)):
        ended = command(*arguments)
        assert (ended.code, ended.err) == (code, "")
        assert "Usage" in ended.out


def test_debug_shows_where_misuse_was_found(command: Command) -> None:
    ended = command("generate", "--frobnicate", "--debug")
    assert ended.code == 2
    assert "Traceback" in ended.err


def test_a_directory_that_is_a_broken_link_is_damaged(
    command: Command, home: Path, tmp_path: Path
) -> None:
    for name, target in (("dangling", "nowhere"), ("loop", "loop")):
        (home / "bundles").mkdir(parents=True, exist_ok=True)
        for place in (tmp_path / name, home / "bundles" / name):
            place.symlink_to(target)
        for model in (name, tmp_path / name):
            ended = command("generate", "a", "-m", model)
            assert ended.code == 1
            assert f"{name}: damaged: a link to what is not there" in ended.in_one_line()
    rows = command("models", "--json").records
    assert sum("damaged: a link" in row.get("error", "") for row in rows) == 2


# ---- bad input


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "interactive"])
@pytest.mark.parametrize(
    ("model", "facts"),
    [
        ("118M", ["unknown model '118M'", "117M", "1558M", "did you mean 117M?"]),
        ("dmeo", ["did you mean demo?"]),
        ("124M", ["124M is not exported yet; run `gpt2rt export 117M --int8`"]),
        ("345M-fp32", ["345M-fp32 is not exported yet; run `gpt2rt export 345M --fp32`"]),
        ("117M-int2", ["there can be 117M-int8, 117M-fp32, 117M-fp16, 117M-int4"]),
        ("./nowhere", ["./nowhere: no such directory"]),
        ("", ["unknown model ''"]),
        ("x" * 1000, ["unknown model"]),
    ],
)
def test_a_model_that_is_not_there(
    command: Command, name: str, model: str, facts: list[str]
) -> None:
    ended = command(name, "-m", model)
    assert ended.code == 1
    message = ended.in_one_line()
    assert all(fact in message for fact in facts)


def test_a_model_that_the_environment_names_wrongly(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2RT_MODEL", "762M")
    assert "$GPT2RT_MODEL: 762M is not exported yet" in command("generate", "a").in_one_line()


def test_export_of_a_model_that_there_is_not(command: Command) -> None:
    ended = command("export", "1542")
    assert ended.code == 1
    assert "unknown model '1542'" in ended.in_one_line()
    assert "did you mean 1542M?" in ended.err


def damage_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.directory / MANIFEST
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def cut(name: str) -> Damage:
    return lambda bundle: os.truncate(bundle.directory / name, 150)


def flipped(name: str) -> Damage:
    def flip(bundle: Bundle) -> None:
        data = bytearray((bundle.directory / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle.directory / name).write_bytes(data)

    return flip


DAMAGE: dict[str, tuple[Damage, str]] = {
    "no manifest": (lambda b: (b.directory / MANIFEST).unlink(), "no manifest.json, so no bundle"),
    "manifest cut": (lambda b: os.truncate(b.directory / MANIFEST, 99), "cannot be read as JSON"),
    "newer format": (
        lambda b: damage_manifest(b, lambda body: body.update(version=3)),
        "bundle format 3, this gpt2rt reads 2; upgrade gpt2rt or export again",
    ),
    "older format": (
        lambda b: damage_manifest(b, lambda body: body.update(version=1)),
        "bundle format 1, this gpt2rt reads 2; export it again",
    ),
    "edited": (
        lambda b: damage_manifest(b, lambda body: body["hparams"].update(n_ctx=4096)),
        "edited or damaged",
    ),
    "no graph": (lambda b: (b.directory / GRAPH).unlink(), f"{GRAPH}: No such file"),
    **{f"{name} cut": (cut(name), f"{name}: 150 bytes, not the ") for name in FILES},
    **{f"{name} flipped": (flipped(name), f"{name}: sha256 ") for name in FILES},
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_refused_in_a_line(
    command: Command, bundle: Bundle, damage: str
) -> None:
    spoil, fact = DAMAGE[damage]
    spoil(bundle)
    ended = command("generate", "a", "-m", bundle.directory)
    assert ended.code == 1
    message = ended.in_one_line()
    assert str(bundle.directory) in message
    assert fact in message
    assert "export" in message  # the way out


@pytest.mark.parametrize(
    ("prompt", "stdin", "fact"),
    [
        ("x" * 99, b"", "the prompt has 99 tokens, the context of tiny-int8 holds 48"),
        ("", b"", "the prompt is empty"),
        ("a\ud800b", b"", "half a surrogate pair, U+D800, at position 1"),
        ("a\udcffb", b"", "the prompt is not UTF-8 (byte 1)"),
        ("-", b"abc\xc3", "standard input is not UTF-8 (byte 3)"),
        ("-", b"\xff\xfea\0", "standard input is UTF-16"),
        ("-", b"", "the prompt is empty"),
        ("-", b"\n", "the prompt is empty"),
    ],
)
def test_a_prompt_that_no_model_can_take(
    command: Command, model: Path, prompt: str, stdin: bytes, fact: str
) -> None:
    ended = command("generate", prompt, "-m", model, stdin=stdin)
    assert ended.code == 1
    assert fact in ended.in_one_line()


@pytest.mark.parametrize("lost", [["tensorflow"], ["tf2onnx", "onnx"], ["gpt2rt_export"]])
def test_an_export_without_its_extra_says_how_to_get_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, lost: list[str]
) -> None:
    monkeypatch.setattr(
        "gpt2rt.cli.input.options.find_spec", lambda name: None if name in lost else name
    )
    monkeypatch.setattr("gpt2rt.cli.input.options.sys", SimpleNamespace(version_info=(3, 13)))
    ended = command("export", "117M")
    assert ended.code == 1
    wanted = f'exporting needs {", ".join(lost)}: pip install "gpt2rt[export]"'
    assert wanted in ended.in_one_line()


def test_a_python_without_tensorflow_says_which_has_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2rt.cli.input.options.find_spec", lambda name: None)
    monkeypatch.setattr("gpt2rt.cli.input.options.sys", SimpleNamespace(version_info=(3, 14)))
    assert "export with Python 3.11 to 3.13" in command("export", "117M").in_one_line()


@pytest.mark.slow
def test_nothing_of_the_extra_is_touched_before_it_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that cannot see the exporter's libraries at all."""
    hidden = ["tensorflow", "tf2onnx", "onnx", "filelock", "google_crc32c", "httpx2", "socksio"]
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        f"hidden = {hidden}\n"
        "PathFinder.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = run_process("export", "117M", "--int8")
    assert ended.code == 1
    assert f"exporting needs {', '.join(hidden)}: " in ended.in_one_line()


@needs_export
def test_an_earlier_bundle_is_not_replaced_unasked(
    command: Command, exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = exported("117M")
    ended = command("export", "117M", "--int8", "--random-weights")
    assert ended.code == 1
    assert f"{bundle.directory}: there is a bundle already" in ended.in_one_line()
    ended = command("export", "117M", "--output", tmp_path)
    assert ended.code == 1
    assert "holds something else than a bundle" in ended.in_one_line()
    bundle.check()
