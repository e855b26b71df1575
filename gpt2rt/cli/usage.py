"""Misuse of the command line, as Typer raises it, told in one line and in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import typer

# Typer does not export the base of its usage errors.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)

# What Typer, or the Pydantic or Click below it, says -> plain words.
WORDS = {
    r"('.*') is not a valid integer.*": r"it takes a whole number, not \1",
    r"('.*') is not a valid float.*": r"it takes a number, not \1",
    r".*valid integer.*": "it takes a whole number",
    r".*valid number.*": "it takes a number",
    r".*valid boolean.*": "it takes true or false",
    r"input should be less than or equal to (\S+)": r"it takes at most \1",
    r"input should be greater than or equal to (\S+)": r"it takes at least \1",
    r"value error, ": "",
    r"got unexpected extra arguments?\S* \((.*)\)": r"unexpected extra argument: \1 (a text with "
    "spaces has to be in quotes)",
    r"no such option:? --device.*": "the device is named behind the provider, as in "
    "`--provider openvino:gpu`",
    r"no such (option|command)(:?) ": r"unknown \1 ",
    r"\(possible options: ": "(did you mean ",
    r"\. (did you mean .*)\?$": r" (\1)",
    r"\.$": "",
}


def in_a_line(error: typer.BadParameter, arguments: Sequence[str]) -> str:
    """What is wrong with `arguments`, and the command whose help tells more; empty where the help
    was printed instead.
    """
    message = " ".join(error.format_message().split())
    if not message:
        return ""
    place, colon, what = message.rpartition("': ")
    for said, meant in WORDS.items():
        what = re.sub(said, meant, what, flags=re.IGNORECASE)
    what = f"{place}{colon}{what}{_value(error)}"
    return f"{what[0].lower()}{what[1:]}; see `{_command(error, arguments)} --help`"


def _value(error: typer.BadParameter) -> str:
    """The value that cannot be read, where the message does not tell it."""
    details = getattr(error.__cause__, "errors", None)
    if details is None or repr(value := details()[0]["input"]) in error.format_message():
        return ""
    return f", not {value!r}"


def _command(error: typer.BadParameter, arguments: Sequence[str]) -> str:
    """The command that was misused; the parser itself does not tell."""
    if error.ctx is not None:
        return error.ctx.command_path
    return " ".join(["gpt2rt", *(name for name in arguments[:1] if not name.startswith("-"))])
