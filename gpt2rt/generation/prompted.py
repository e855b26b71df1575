"""A request with the tokens of its prompt."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.request import Request


@dataclass(frozen=True, slots=True)
class Prompted:
    """A request with the tokens of its prompt, or with the error that reading the prompt gave.

    Attributes:
        request: the request.
        tokens: the ids that the model reads for the prompt; () if there is a failure.
        failure: why the prompt cannot be continued; None: it can.
    """

    request: Request
    tokens: tuple[int, ...] = ()
    failure: Gpt2rtError | None = None
