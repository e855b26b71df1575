"""Texts to score, with characters of many tokens and tokens of many characters."""

from __future__ import annotations

import unicodedata

from gpt2rt.scoring.score import Boundary

TEXTS = [
    "the cat sat on the mat",
    "naïve 👩‍👩‍👧 family\r\nin two lines\r\n",
    unicodedata.normalize("NFD", "é à ṩ") + " combined\u0301",
    " \n\t leading and trailing \u3000 ",
    "x",
    "<|endoftext|> is text",
    "漢字かな交じり文 𝕬",
]
BOUNDARIES: tuple[Boundary, ...] = ("leading", "trailing")
LONG = "one two three four five six seven eight nine ten " * 5
