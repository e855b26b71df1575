"""A page that shows scored texts with every token coloured: one HTML file that needs no other.

The page's script makes its elements from JSON, so no character of a text is ever read as HTML.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from gpt2rt import Score
from gpt2rt.corpus.rows import TextRow
from gpt2rt.scoring.score import known


def page(model: str, scores: list[tuple[TextRow, Score]]) -> str:
    """The text of the page."""
    body = {"model": model, "texts": [_text(row, score) for row, score in scores]}
    # In a script element `<` could begin `</script` or `<!--`; in JSON it may be escaped.
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files(__package__).joinpath("heatmap.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", data, 1)


def _text(row: TextRow, score: Score) -> dict[str, Any]:
    """A text as the page's script reads it; a character over several tokens is in the first."""
    tokens, shown = [], 0
    for token in score.tokens:
        tokens.append(
            {
                "text": score.text[max(shown, token.start) : token.end],
                "token": token.text,
                "bits": known(round(token.bits, 3)),
                "p": known(float(f"{token.probability:.4g}")),
                "rank": token.rank,
                "top": [[a.text, float(f"{a.probability:.4g}")] for a in token.alternatives],
            }
        )
        shown = token.end
    return {
        "name": row.place,
        "context": score.context,
        "tokens": tokens,
        "bits": score.bits,
        "perplexity": known(min(score.perplexity, 1e300)),
        "bitsPerByte": known(score.bits_per_byte),
    }
