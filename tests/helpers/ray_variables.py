"""Variables for clusters of Ray that tests start; nothing of Ray is imported here."""

from __future__ import annotations

import os
import secrets


def keep_others_out() -> None:
    """Variables of Ray's, which reads them when it is imported: clusters that this process starts
    want a token that nobody else knows, and report nothing.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "RAY_AUTH_TOKEN" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
