"""Steps of texts that wait until a test lets them be made."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from gpt2rt.generation.scheduler import Scheduler
from serving import wait_until


class HeldSteps:
    """The steps of all models: as many are made as are allowed, and the next one waits."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._changed = threading.Condition()
        self._allowed = 0.0
        self._waiting = 0
        turn = Scheduler.turn

        def held(scheduler: Scheduler, *resting: Any) -> Any:
            self._wait()
            return turn(scheduler, *resting)

        patch.setattr(Scheduler, "turn", held)

    def allow(self, count: float = math.inf) -> None:
        """Let so many more be made; without a number all."""
        with self._changed:
            self._allowed += count
            self._changed.notify_all()

    def hold(self) -> None:
        """Let no more be made."""
        with self._changed:
            self._allowed = 0.0

    def made(self) -> None:
        """Wait until those that were allowed are made; a text has to go on after them."""
        wait_until(lambda: self._waiting > 0 and self._allowed < 1)

    def _wait(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._allowed >= 1)
            self._waiting -= 1
            self._allowed -= 1
