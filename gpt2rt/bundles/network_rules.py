"""Rules for all that is fetched, bundles and checkpoints alike: what may be asked, and again."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress

# Environment variables: nothing is fetched; other machines are asked over http, too.
OFFLINE, ALLOW_HTTP = "GPT2RT_OFFLINE", "GPT2RT_ALLOW_HTTP"
PASSING = {408, 425, 429}  # statuses


def is_set(variable: str) -> bool:
    """Whether an environment variable is there, and neither empty nor 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine, to which nothing passes over a network."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def is_final(status: int) -> bool:
    """Whether an HTTP status says that another try would not help."""
    return 400 <= status < 500 and status not in PASSING
