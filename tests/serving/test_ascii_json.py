"""Large JSON is written in parts, none of which holds up the event loop, and is the same JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt.serving import ascii_json as written
from gpt2rt.serving.ascii_json import ascii_json, large_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text()
# Lists in answers are of numbers and texts, or of lists and objects.
VALUES = st.recursive(
    st.lists(SCALARS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner | SCALARS),
)


@given(value=VALUES, part=st.integers(1, 5))
def test_parts_join_to_the_same_json(value: Any, part: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(written, "PART", part)
        found = large_json(value)
    assert found == ascii_json(value)
    assert json.loads(found) == value


def test_no_part_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [{"token": n, "text": "a", "alternatives": [{"p": 0.5}] * 20} for n in range(3000)]
    answer = {
        "data": [{"tokens": tokens, "ids": list(range(10_000))}],
        "vectors": [[0.5] * 768] * 9,
    }
    sizes = []

    class Encoder(json.JSONEncoder):
        def encode(self, o: Any) -> str:
            found = super().encode(o)
            sizes.append(len(found))
            return found

    monkeypatch.setattr(written, "_encoder", Encoder(separators=(",", ":")))
    assert json.loads(large_json(answer)) == answer
    assert max(sizes) < 10_000


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_json_is_refused(number: float) -> None:
    for write in (ascii_json, large_json):
        with pytest.raises(ValueError, match="JSON"):
            write({"a": [number]})
