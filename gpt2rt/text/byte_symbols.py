"""The 256 characters that stand for bytes in GPT-2's vocabulary."""

from __future__ import annotations

import re
from itertools import count


def byte_symbols() -> dict[int, str]:
    """Byte -> the character that stands for it: `bytes_to_unicode` of OpenAI's `encoder.py`.

    A byte that is a visible character of Latin-1 has that character, the others have characters
    from U+0100 on.
    """
    spare = map(chr, count(0x100))
    return {
        byte: chr(byte) if chr(byte).isprintable() and byte != ord(" ") else next(spare)
        for byte in range(256)
    }


SYMBOLS = byte_symbols()
ALPHABET = re.compile(f"[{re.escape(''.join(SYMBOLS.values()))}]+")
LATIN_1 = {ord(symbol): byte for byte, symbol in SYMBOLS.items()}
