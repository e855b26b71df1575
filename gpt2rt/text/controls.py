"""Characters that a terminal would obey, and JSON lines without them."""

from __future__ import annotations

import json
import re

# Controls (C0, DEL, C1), characters that turn the direction of what follows or break a line, and
# half surrogate pairs, by which Python keeps the bytes of file names that are not UTF-8.
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def restored(text: str) -> str:
    """`text` with UTF-8 that came as surrogates put together again; see `gpt2rt.bundles.paths`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates, of no path
        return text


def json_line(value: object) -> str:
    """A line of JSON, with every control character escaped as JSON has it."""
    text = restored(
        json.dumps(value, ensure_ascii=False)
    )  # leaves DEL, C1 and what turns text around
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"
