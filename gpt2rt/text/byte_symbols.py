"""The 256 characters that stand for bytes in GPT-2's vocabulary."""

from __future__ import annotations

import re
from itertools import count


def byte_symbols() -> dict[int, str]:
    """The character that stands for each byte, as `bytes_to_unicode` of OpenAI's `encoder.py`.

    A byte that is visible as Latin-1 stands for itself, the others follow from U+0100 on.
    """
    spare = map(chr, count(0x100))
    return {
        byte: chr(byte) if chr(byte).isprintable() and byte != ord(" ") else next(spare)
        for byte in range(256)
    }


SYMBOLS = byte_symbols()
ALPHABET = re.compile(f"[{re.escape(''.join(SYMBOLS.values()))}]+")
LATIN_1 = {ord(symbol): byte for byte, symbol in SYMBOLS.items()}
