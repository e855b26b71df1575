"""`/set NAME VALUE`: text becomes a value of the field's type, or one clear line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from gpt2rt.cli.input import settings
from gpt2rt.errors import InvalidSetting


@dataclass(frozen=True)
class Drawing:
    heat: float = 1.0
    top_k: int = 0
    seed: int | None = None
    mode: Literal["usual", "openai"] = "usual"
    words: tuple[str, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise InvalidSetting(f"top_k must be 0 or more, not {self.top_k}")


@dataclass(frozen=True)
class Ending:
    stop: bool = True
    mark: str = ""
    share: int | float | None = 2


GROUPS = (Drawing(), Ending())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("heat", "0.7", 0.7),
        ("heat", "2", 2.0),
        ("top_k", "40", 40),
        ("top-k", "40", 40),
        ("seed", "7", 7),
        ("seed", "none", None),
        ("mode", "openai", "openai"),
        ("words", '["a", "b"]', ("a", "b")),
        ("bias", "[[5, 1.5]]", ((5, 1.5),)),
        ("stop", "off", False),
        ("stop", "YES", True),
        ("mark", "two words", "two words"),
        ("share", "0.5", 0.5),
        ("share", "off", None),
    ],
)
def test_text_becomes_a_value_of_the_fields_type(name: str, text: str, value: object) -> None:
    drawing, ending = settings.changed(GROUPS, name, text)
    group = ending if hasattr(ending, name) else drawing
    found = getattr(group, name.replace("-", "_"))
    assert found == value
    assert type(found) is type(value)
    others = dict(settings.items(GROUPS)) | {name.replace("-", "_"): ""}
    assert dict(settings.items((drawing, ending))) | {name.replace("-", "_"): ""} == others


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("heat", "hot", "heat takes a number, not 'hot'"),
        ("top_k", "4.5", "top_k takes a whole number, not '4.5'"),
        ("top_k", "none", "top_k takes a whole number"),
        ("top_k", "-1", "top_k must be 0 or more, not -1"),
        ("stop", "maybe", "stop takes on or off"),
        ("mode", "odd", "mode takes usual or openai"),
        ("words", "[", "words takes JSON"),
        ("share", "x", "share takes a whole number or a number"),
        ("top_", "1", "unknown setting 'top_': did you mean top_k?"),
        ("zzz", "1", "unknown setting 'zzz': there are heat, top_k, seed, mode, words, bias, stop"),
    ],
)
def test_other_text_is_refused_in_a_line(name: str, text: str, reason: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        settings.changed(GROUPS, name, text)
    assert str(raised.value).startswith(reason)


def test_settings_are_listed_in_their_order() -> None:
    shown = dict(settings.items(GROUPS))
    assert list(shown)[:2] == ["heat", "top_k"]
    assert shown["stop"] == "on"
    assert shown["seed"] == "none"
