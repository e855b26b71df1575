"""All commands together, and how their errors are told."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

import typer

from gpt2rt import __version__
from gpt2rt.cli.bench import bench
from gpt2rt.cli.doctor import doctor
from gpt2rt.cli.download import download
from gpt2rt.cli.embed import embed
from gpt2rt.cli.eval import evaluate
from gpt2rt.cli.export import export
from gpt2rt.cli.generate import generate
from gpt2rt.cli.interactive import interactive
from gpt2rt.cli.lm_eval import lm_eval
from gpt2rt.cli.models import models
from gpt2rt.cli.pack import pack, unpack
from gpt2rt.cli.score import score
from gpt2rt.cli.terminal import guard_streams
from gpt2rt.cli.usage import UsageError, in_a_line
from gpt2rt.cli.verify import verify
from gpt2rt.errors import Gpt2rtError, InvalidSetting

app = typer.Typer(
    name="gpt2rt",
    help="GPT-2 on ONNX Runtime: export OpenAI's checkpoints, generate and score text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    generate,
    interactive,
    score,
    embed,
    download,
    export,
    verify,
    pack,
    unpack,
    bench,
    doctor,
):
    app.command()(command)
app.add_typer(models)
app.command("eval")(evaluate)
app.command(
    "lm-eval",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)(lm_eval)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gpt2rt {__version__}")
        raise typer.Exit


@app.callback()
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
    arguments, debug = _take_debug(sys.argv[1:])
    try:
        try:
            code = app(args=arguments, prog_name="gpt2rt", standalone_mode=False)
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


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without a `--debug` before any `--`, and whether there was one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return options + arguments[end:], len(options) < end
