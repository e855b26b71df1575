"""Texts that a tokenizer may get wrong."""

from __future__ import annotations

TRICKY = (
    "' ’ 's 'S 't 're 'RE 've 'm 'll 'd 'x _ - ... $ 0 42 ½ ² ٣ Ⅷ the The é e\u0301 \u0301 ß ñ "
    "नमस्ते 中文 한국어 😀 👩‍👩‍👧 👍🏽 🇫🇷 \u200b \u200d \ufeff \ufffd <|endoftext|> <| |>"
)
TRICKY_SPACES = " \n\r\t\v\f\0\x1c\x1f\x7f\x85\xa0\xad\u1680\u2028\u3000"
