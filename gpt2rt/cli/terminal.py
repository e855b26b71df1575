"""What may be shown on a terminal of strings that others wrote."""

from __future__ import annotations

import json
from typing import Any

# Characters that turn the direction of what follows, or break a line, without being controls.
UNSEEN = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def escaped(text: str, keep: str = "") -> str:
    """`text` with control characters as `\\x1b`; printable text of all scripts as it is, also that
    of a path in a locale without UTF-8.
    """
    text = _restored(text)
    return "".join(c if c in keep or not _controls(c) else _escape(c) for c in text)


def json_line(record: dict[str, Any]) -> str:
    """A record as a line of JSON, printable text as it is and control characters escaped."""
    # Those below a space it escapes itself.
    text = _restored(json.dumps(record, ensure_ascii=False))
    return "".join(f"\\u{ord(c):04x}" if _controls(c) else c for c in text)


def _restored(text: str) -> str:
    """`text` with UTF-8 that came as surrogates put together again; see `gpt2rt.paths`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates, of no path
        return text


def _controls(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" or c in UNSEEN


def _escape(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
