"""Stop strings: found at any position, for any split of the text into pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.errors import InvalidSetting
from gpt2rt.generation.stopping import Stopping, StopStrings

letters = st.text(st.sampled_from("ab\n👋"), max_size=40)
strings = st.lists(st.text(st.sampled_from("ab\n👋"), min_size=1, max_size=4), max_size=3)


def cut(text: str, strings: list[str]) -> tuple[str, str | None]:
    """Search character by character: the first string to end, the longest of several."""
    for end in range(len(text) + 1):
        for string in sorted(strings, key=len, reverse=True):
            if text[:end].endswith(string):
                return text[: end - len(string)], string
    return text, None


@given(letters, strings, st.lists(st.integers(0, 40)))
@settings(derandomize=True)
def test_text_ends_before_the_string_that_ends_first(
    text: str, strings: list[str], places: list[int]
) -> None:
    """For any split into pieces, no part of the stop string is ever shown."""
    borders = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    stops, shown = StopStrings(strings), ""
    for start, end in pairwise(borders):
        if stops.match is None:
            shown += stops.push(text[start:end])
            assert cut(text, strings)[0].startswith(shown)
    if stops.match is None:
        shown += stops.close()
    assert (shown, stops.match) == cut(text, strings)


def test_what_cannot_become_a_stop_string_is_not_held_back() -> None:
    stops = StopStrings(["\n\n", "END"])
    assert [stops.push(piece) for piece in ("a\n", "b", "E", "N", "d", "\n")] == [
        "a",
        "\nb",
        "",
        "",
        "ENd",
        "",
    ]
    assert (stops.push("\n"), stops.match) == ("", "\n\n")


@pytest.mark.parametrize(
    ("bad", "fact"),
    [
        ({"length": 0}, "length"),
        ({"length": -3}, "length"),
        ({"length": 2.5}, "length"),
        ({"length": True}, "length"),
        ({"strings": ["a", ""]}, "stop string"),
        ({"strings": ""}, "stop string"),
        ({"strings": 5}, "stop strings"),
        ({"strings": {"a": 1}}, "stop strings"),
        ({"tokens": None}, "stop tokens"),
        ({"tokens": [-1]}, "stop tokens"),
        ({"tokens": ["a"]}, "stop tokens"),
        ({"overflow": "wrap"}, "overflow"),
    ],
)
def test_impossible_values_are_refused(bad: dict[str, object], fact: str) -> None:
    with pytest.raises(InvalidSetting, match=fact):
        Stopping(**bad)  # type: ignore[arg-type]


def test_one_string_is_a_list_of_one() -> None:
    assert Stopping(strings="END").strings == ("END",)


def test_many_strings_are_found_as_one_by_one() -> None:
    """Compared with a search for every string at every position."""
    random = np.random.default_rng(7)
    for _ in range(300):
        words = ["".join(random.choice(list("ab"), random.integers(1, 5))) for _ in range(6)]
        text = "".join(random.choice(list("abc"), random.integers(0, 30)))
        stops = StopStrings(words)
        said, at = "", 0
        while at < len(text) and stops.match is None:
            size = int(random.integers(1, 4))
            said += stops.push(text[at : at + size])
            at += size
        said += stops.close() if stops.match is None else ""
        ends = [(text.find(w) + len(w), -len(w), w) for w in words if w in text]
        wanted = min(ends, default=None)
        assert stops.match == (wanted[2] if wanted else None)
        assert said == (text[: wanted[0] + wanted[1]] if wanted else text)
