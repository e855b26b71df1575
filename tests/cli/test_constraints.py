"""Constraints from the command line: a text, or the file that has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2rt import Constraint
from gpt2rt.cli.input.constraints import read_constraint
from gpt2rt.errors import InvalidSetting


def test_reading_takes_text_or_a_file(tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"type": "integer"}', encoding="utf-8-sig")
    grammar.write_text('start: "é"', encoding="utf-8")
    assert read_constraint() is None
    assert read_constraint(regex="a.b") == Constraint(regex="a.b")
    for given in (str(schema), '{"type": "integer"}'):
        assert read_constraint(json_schema=given) == Constraint(json_schema={"type": "integer"})
    for given in (str(grammar), 'start: "é"'):
        assert read_constraint(grammar=given) == Constraint(grammar='start: "é"')
    later = 'word: "a"\nstart: word'
    assert read_constraint(grammar=later) == Constraint(grammar=later)
    long = json.dumps({"enum": ["x" * 5000]})
    assert read_constraint(json_schema=long) == Constraint(json_schema=long)


@pytest.mark.parametrize("kind", ["json_schema", "grammar"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, kind: str) -> None:
    missing, latin = tmp_path / "missing", tmp_path / "latin"
    latin.write_bytes(b"\xff")
    with pytest.raises(InvalidSetting, match=r": no such file, and not the text of a "):
        read_constraint(**{kind: str(missing)})
    with pytest.raises(InvalidSetting, match=r"latin: byte 0 is not UTF-8"):
        read_constraint(**{kind: str(latin)})
    with pytest.raises(InvalidSetting, match=r"is empty|is not JSON"):
        read_constraint(**{kind: ""})
