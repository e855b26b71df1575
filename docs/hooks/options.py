"""Keeps an option of the command line, such as `--top-k`, on one line of the page."""

from __future__ import annotations

import re
from typing import Any

OPTION = re.compile(r"<code>(?=--?[\w-]+</code>)")


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """The page with a class at each option, which `style.css` knows."""
    return OPTION.sub('<code class="option">', html)
