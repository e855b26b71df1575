"""Records made of columns: those that their constructor makes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields

import pytest

from gpt2rt.scoring.records import records
from gpt2rt.scoring.score import Alternative, TokenScore, WordScore


@pytest.mark.parametrize("kind", [Alternative, TokenScore, WordScore])
def test_records_are_those_of_the_constructor(kind: type[object]) -> None:
    columns = [[f"{field.name} {n}" for n in range(5)] for field in fields(kind)]  # type: ignore[arg-type]
    made = records(kind, *columns)
    wanted = tuple(map(kind, *columns))
    assert made == wanted
    assert [*map(repr, made)] == [*map(repr, wanted)]
    assert [*map(hash, made)] == [*map(hash, wanted)]
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == wanted
    with pytest.raises(FrozenInstanceError):
        made[0].text = ""  # type: ignore[attr-defined]
    assert records(kind, *[[]] * len(columns)) == ()


def test_a_column_for_each_field() -> None:
    with pytest.raises(ValueError, match="shorter"):
        records(Alternative, [1], ["a"])
