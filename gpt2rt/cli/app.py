"""All commands together, and how their errors are told."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module

import typer

from gpt2rt import __version__
from gpt2rt.cli import help_texts
from gpt2rt.cli.input.ray_option import with_address
from gpt2rt.cli.output.terminal import guard_streams
from gpt2rt.cli.usage import UsageError, in_a_line
from gpt2rt.errors import Gpt2rtError, InvalidSetting

# Command -> its module in `commands`, and its name there. To import them all takes longer than to
# open a model.
COMMANDS = {
    "generate": ("generate", "generate"),
    "interactive": ("interactive", "interactive"),
    "score": ("score", "score"),
    "embed": ("embed", "embed"),
    "tokenize": ("tokenize", "tokenize"),
    "serve": ("serve", "serve"),
    "web": ("web", "web"),
    "download": ("download", "download"),
    "export": ("export", "export"),
    "verify": ("verify", "verify"),
    "pack": ("pack", "pack"),
    "unpack": ("pack", "unpack"),
    "bench": ("bench", "bench"),
    "doctor": ("doctor", "doctor"),
    "eval": ("eval", "evaluate"),
    "lm-eval": ("lm_eval", "lm_eval"),
    "models": ("models", "models"),
}
SETTINGS = {
    "lm-eval": {
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    }
}


def app(wanted: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command `gpt2rt` with the commands `wanted`."""
    found = typer.Typer(
        name="gpt2rt",
        help="GPT-2 on ONNX Runtime: export OpenAI's checkpoints, generate and score text.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    found.callback()(root)
    for name in wanted:
        module, inner = COMMANDS[name]
        command = getattr(import_module(f"gpt2rt.cli.commands.{module}"), inner)
        if isinstance(command, typer.Typer):
            found.add_typer(command, name=name)
        else:
            found.command(name, context_settings=SETTINGS.get(name))(command)
    help_texts.add(found)
    return found


def _app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command with what `arguments` call for: one command, or all where none comes first."""
    return app(arguments[:1]) if arguments and arguments[0] in COMMANDS else app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gpt2rt {__version__}")
        raise typer.Exit


def root(
    debug: bool = typer.Option(
        False, "--debug", help="Show a traceback with an error; accepted anywhere."
    ),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """GPT-2 on ONNX Runtime: export OpenAI's checkpoints, generate and score text."""


def run() -> None:
    """Run the command line; ends in `SystemExit` with the exit code, or in Ctrl-C."""
    _open_streams()
    arguments, debug = _take_debug(with_address(sys.argv[1:]))
    try:
        try:
            command = _app_for(arguments)
            _collect_garbage()
            code = command(args=arguments, prog_name="gpt2rt", standalone_mode=False)
        finally:
            sys.stdout.flush()  # later an error could not be told in a line
        sys.exit(code)  # of `typer.Exit`; else None
    except UsageError as error:
        if debug:
            traceback.print_exc()
        elif told := in_a_line(error, arguments):
            print(f"gpt2rt: {told}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        print("gpt2rt: nothing was done", file=sys.stderr)
        sys.exit(1)
    except Gpt2rtError as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"gpt2rt: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidSetting) else 1)
    except OSError as error:
        if debug:
            raise
        if not isinstance(error, BrokenPipeError):  # as in `| head`
            place = error.filename or "the output"
            print(f"gpt2rt: {place}: {error.strerror or error}", file=sys.stderr)
        with suppress(OSError):
            sys.stdout.close()  # what could not be written is not tried again at the end
        sys.exit(1)


def _open_streams() -> None:
    """Text is UTF-8 whatever the locale says; a stream that the caller closed is empty."""
    for name, mode, errors in (
        ("stdin", "r", "surrogateescape"),
        ("stdout", "w", "replace"),
        ("stderr", "w", "replace"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)
    guard_streams()


def _collect_garbage() -> None:
    """Enable the garbage collector, which leaves out what is imported: it stays, and is a lot."""
    if not gc.get_freeze_count():  # once a process
        gc.freeze()
    gc.enable()


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without a `--debug` before any `--`, and whether there was one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return options + arguments[end:], len(options) < end
