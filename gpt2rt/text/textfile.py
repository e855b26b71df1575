"""Text as files and pipes hold it: one reader, so that a byte order mark is text nowhere."""

from __future__ import annotations

import codecs

from gpt2rt.errors import BadText

MARK = "\ufeff"
# Windows' older Notepad and PowerShell write these; the longer marks begin with the shorter ones.
OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decoded(data: bytes, what: str) -> str:
    """The text of a file or of standard input, less the byte order mark it may begin with.

    Raises `BadText` naming the first byte that is not UTF-8, or the encoding of another mark.
    """
    return utf8(unmarked(data, what), what)


def unmarked(data: bytes, what: str) -> bytes:
    """`data` without UTF-8's byte order mark. Raises `BadText` for the mark of UTF-16 or UTF-32."""
    for mark, name in OTHERS.items():
        if data.startswith(mark):
            raise BadText(f"{what} is {name}, by its first bytes; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def utf8(data: bytes, what: str) -> str:
    """Text of `data`. Raises `BadText` naming the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadText(f"{what} is not UTF-8 (byte {error.start}); convert it") from None
