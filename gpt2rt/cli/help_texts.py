"""The help of a command, made of its docstring for a terminal of any width."""

from __future__ import annotations

import inspect

import typer

EXAMPLES = "Examples:"


def from_docstring(text: str) -> str:
    """A docstring whose paragraphs are a line each, as are the examples at its end."""
    prose, _, examples = inspect.cleandoc(text).partition(f"\n\n{EXAMPLES}\n\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in prose.split("\n\n")]
    lines = [f"$ {' '.join(example.split())}" for example in examples.split("\n\n") if example]
    return "\n\n".join([*paragraphs, *(["\n".join([EXAMPLES, *lines])] if lines else [])])


def add(app: typer.Typer) -> None:
    """Give all commands of `app` their help."""
    for command in app.registered_commands:
        assert command.callback is not None
        command.help = from_docstring(command.callback.__doc__ or "")
    for group in app.registered_groups:
        assert group.typer_instance is not None
        add(group.typer_instance)
