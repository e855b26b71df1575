r"""What a person types: bytes as UTF-8 whatever the locale, escapes such as `\n`, a hint.

Only what stands on the command line has escapes; files, standard input and prompts typed at
`interactive` are text as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from gpt2rt import TextTokenizer
from gpt2rt.errors import Gpt2rtError
from gpt2rt.text.textfile import utf8

Escape = Annotated[
    bool,
    typer.Option(
        "--escape/--no-escape",
        help=r"Whether \n, \r, \t, \\, \', \", \xHH (a byte) and \uXXXX in texts on the command "
        "line are characters; other escapes stay as they are, files and standard input always do.",
    ),
]
NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"'}
UNIT = rb"\\u[0-9a-fA-F]{4}"
HIGH, LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
ESCAPE = re.compile(rb"\\([nrt\\'\"])|\\x([0-9a-fA-F]{2})|(" + HIGH + LOW + rb"|" + UNIT + rb")")


def decoded_option(parameter: typer.CallbackParam, value: Any) -> Any:
    """The callback of every option that is a text: the value as UTF-8 whatever the locale.

    Raises `BadText` naming the option.
    """
    name = next((name for name in parameter.opts if name.startswith("--")), "the prompt")
    if isinstance(value, str):
        return typed(value, what=name)
    return [typed(text, what=name) for text in value] if isinstance(value, list) else value


def typed(text: str, escape: bool = False, what: str = "the prompt") -> str:
    """A text from the command line or a terminal, its escapes as what they stand for.

    Raises `BadText` naming the first byte that is not UTF-8; `what` names the text there.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text  # half a surrogate pair never was bytes; the tokenizer tells
    if not escape or b"\\" not in data:
        return utf8(data, what)
    data = ESCAPE.sub(_meant, data)
    try:
        # Half a pair stays half a pair, which the tokenizer refuses by name.
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return utf8(data, what)


def _meant(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return NAMED[found[1]]
    if found[2]:
        return bytes.fromhex(found[2].decode())
    units = found[3].replace(b"\\u", b"").decode()
    return (
        bytes.fromhex(units).decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
    )


def hint_at_space(tokenizer: TextTokenizer, prompts: Iterable[str | None]) -> bool:
    """Say on standard error, once, that a prompt ends in a space, where the vocabulary has its
    spaces before words; returns whether it was said.

    The next word cannot take up that space then, so the model goes on from what it rarely saw.
    """
    for prompt in prompts:
        if prompt is not None and prompt.endswith(" ") and _taken_up(tokenizer, prompt):
            print(
                "gpt2rt: the prompt ends in a space, which is a part of the next word to GPT-2; "
                "texts go on better without it",
                file=sys.stderr,
            )
            return True
    return False


def _taken_up(tokenizer: TextTokenizer, prompt: str) -> bool:
    """Whether a word after the prompt would change the prompt's own tokens."""
    last = prompt.rstrip(" ")[-20:] + prompt[len(prompt.rstrip(" ")) :][-20:]
    try:
        tokens = tokenizer.encode(last)
        return tokenizer.encode(f"{last}a")[: len(tokens)] != tokens
    except Gpt2rtError:  # told where the prompt is read
        return False
