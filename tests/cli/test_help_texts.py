"""The help of every command: paragraphs flow, and each example keeps its line."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from gpt2rt.cli.app import COMMANDS
from gpt2rt.cli.help_texts import from_docstring


def test_paragraphs_and_examples_are_a_line_each() -> None:
    docstring = """First
        line.

        A second
        paragraph.

        Examples:

          gpt2rt one

          gpt2rt two
          --more
        """
    wanted = "First line.\n\nA second paragraph.\n\nExamples:\n$ gpt2rt one\n$ gpt2rt two --more"
    assert from_docstring(docstring) == wanted
    assert from_docstring("One sentence.") == "One sentence."


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "models"])
def test_no_word_of_a_docstring_is_lost(name: str) -> None:
    module, inner = COMMANDS[name]
    docstring = inspect.getdoc(getattr(import_module(f"gpt2rt.cli.commands.{module}"), inner)) or ""
    assert [word for word in from_docstring(docstring).split() if word != "$"] == docstring.split()
    assert "\n$ " in from_docstring(docstring), "every command has examples"
