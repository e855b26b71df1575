"""Checks of the arguments that callers give, with errors that name the argument."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from gpt2rt.errors import InvalidSetting


def whole(value: object) -> bool:
    """Whether a value is a whole number; a bool is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_whole(name: str, value: object, least: int | None = None) -> None:
    """Raise `InvalidSetting` unless `value` is a whole number (None: any) from `least` on."""
    if not isinstance(value, Integral) or not whole(value):
        raise InvalidSetting(f"{name} must be a whole number, not {value!r:.60}")
    if least is not None and value < least:
        raise InvalidSetting(f"{name} must be {least} or more, not {value}")


def check_kind(
    name: str, value: object, kind: type | tuple[type, ...], *, optional: bool = False
) -> None:
    """Raise `InvalidSetting` unless `value` is of `kind`; None is right, too, if `optional`."""
    if isinstance(value, kind) or (optional and value is None):
        return
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join([one.__name__ for one in kinds] + ["None"] * optional)
    raise InvalidSetting(f"{name} must be {wanted}, not {value!r:.60}")


def check_list(what: str, values: object, single: str) -> None:
    """Raise `InvalidSetting` unless `values` can be iterated over and is not one text.

    `single` is the method for one of them.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidSetting(
            f"{what} are a list, not {type(values).__name__}; for one there is `{single}`"
        )
