"""What others wrote is shown without control characters, and otherwise as it is."""

from __future__ import annotations

import pytest

from gpt2rt.cli.terminal import escaped


@pytest.mark.parametrize("text", ["plain [red]", "漢字 é 👩🏽", "عربي"])
def test_printable_text_stays(text: str) -> None:
    assert escaped(text) == text


def test_controls_are_escaped() -> None:
    assert escaped("a\x1b[2J\x9b\x7f\u202e\n\t", keep="\n") == ("a\\x1b[2J\\x9b\\x7f\\u202e\n\\x09")
