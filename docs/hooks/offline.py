"""Fails the build where a page would load something from another host."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

# What a browser fetches by itself; a link that a reader follows may lead anywhere.
FETCHED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>")
LINKED = re.compile(r"<link\b[^>]*>")
FOREIGN = re.compile(r"\bhref=[\"']?(?:https?:)?//")
STYLES = re.compile(r"\brel=[\"']?(?:stylesheet|preload|preconnect|icon)")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Raises `PluginError` that names the element."""
    links = (tag for tag in LINKED.findall(output) if STYLES.search(tag) and FOREIGN.search(tag))
    foreign = [match[0] for match in FETCHED.finditer(output)] + list(links)
    if foreign:
        raise PluginError(f"{page.file.src_uri} loads from another host: {foreign[0][:200]}")
    return output
