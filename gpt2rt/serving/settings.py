"""What `gpt2rt serve` is told: which models, where it listens, and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from gpt2rt.asynchronous import QUEUE, SLOTS
from gpt2rt.checks import check_kind, check_whole
from gpt2rt.errors import InvalidSetting, reason
from gpt2rt.model import PREFIX_BYTES

MIB = 1 << 20
NO_CONTROLS = range(0x21, 0x7F)  # what a key may consist of: it travels in a header


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of a server.

    Raises `InvalidSetting` for values that mean nothing.

    Attributes:
        models: names or directories of bundles; the first answers requests that name no model. None
            at all: the default model.
        on_demand: whether a model is loaded when it is first asked for, not at the start.
        host: the address to listen at.
        port: the port; 0 takes any that is free.
        keys: keys of which a client has to show one; none: everybody may ask.
        threads: threads of each model; None is one for each physical core.
        provider: what computes, as in `GPT2.load`.
        prefix_bytes: bytes of each model's cache of prefixes; 0: none.
        slots: texts that a model continues side by side.
        queue: texts that may wait for a slot; beyond that clients are told to come again.
        timeout: seconds that a request may take, waiting included.
        drain: seconds that running requests have to finish after SIGTERM.
        memory: bytes that weights, keys, values and caches may take together; None: no limit.
        body_bytes: most bytes of a request.
        patience: seconds that a client may take to send the head of a request, and again for its
            body.
        metrics: whether `/metrics` answers.
        log_prompts: whether the access log has what clients send.
    """

    models: tuple[str, ...] = ()
    on_demand: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    threads: int | None = None
    provider: str = "auto"
    prefix_bytes: int = PREFIX_BYTES
    slots: int = SLOTS
    queue: int = QUEUE
    timeout: float = 300.0
    drain: float = 30.0
    memory: int | None = None
    body_bytes: int = MIB
    patience: float = 10.0
    metrics: bool = True
    log_prompts: bool = False

    def __post_init__(self) -> None:
        check_kind("host", self.host, str)
        check_whole("port", self.port, 0)
        if self.port > 65535:
            raise InvalidSetting(f"port must be 0 to 65535, not {self.port}")
        for name in ("slots", "body_bytes"):
            check_whole(name, getattr(self, name), 1)
        for name in ("queue", "prefix_bytes"):
            check_whole(name, getattr(self, name), 0)
        if self.memory is not None:
            check_whole("memory", self.memory, 1)
        for name in ("timeout", "drain", "patience"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise InvalidSetting(f"{name} must be seconds, 0 or more, not {seconds!r:.60}")
        for key in self.keys:
            if not key or any(ord(c) not in NO_CONTROLS for c in key):
                raise InvalidSetting("a key consists of printable ASCII characters, no spaces")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False


def keys_in(file: str | Path) -> tuple[str, ...]:
    """The keys of a file with one a line.

    Raises `InvalidSetting` for a file that cannot be read or holds none.
    """
    try:
        lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{file}: {reason(error)}") from None
    if not any(lines):  # an empty file would open the server to all
        raise InvalidSetting(f"{file}: no key in it; write a key a line")
    return tuple(filter(None, lines))
