"""What readers of whole texts on a device share: memory, calls, and how many are side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITION, SEQLENS, Port, X
from gpt2rt.engine.cuda.memory import Array, Block, Memory, size_of
from gpt2rt.engine.cuda.shapes import A_CALL, finely_padded, power_of_two
from gpt2rt.errors import OutOfMemory

if TYPE_CHECKING:
    import onnxruntime as ort

    from gpt2rt.engine.cuda.call import Captures
    from gpt2rt.engine.cuda.tails import Tails

KEPT = 64  # calls that are kept; there are few shapes where texts come sorted by length

T = TypeVar("T")
Result = TypeVar("Result")
CallOf = TypeVar("CallOf")
Shape = tuple[int, ...]


class ReadersDevice(Protocol):
    """A device, as readers of whole texts use it (see `gpt2rt.engine.cuda`)."""

    session: ort.InferenceSession
    hparams: HParams
    memory: Memory
    captures: Captures
    tails: Tails

    def release(self) -> None:
        """Free the memory that nobody uses now."""


class WholeReader:
    """Reads whole texts on a device; nothing of them is kept. For one thread at a time.

    A call reads up to `budget` tokens, padding included. All calls share the memory of the largest
    for some ports. `gives` is what it is for.
    """

    gives: str

    def __init__(self, device: ReadersDevice) -> None:
        self.budget = max(A_CALL, device.hparams.n_ctx)
        self.device, self.hparams = device, device.hparams
        self.forget()

    @staticmethod
    def available(device: ReadersDevice) -> bool:
        """Whether the device has the graphs for it."""
        return True

    @staticmethod
    def ports(hparams: HParams) -> Iterable[Port]:
        """The ports whose memory all calls share.

        Their letters are sizes of which `B` times `C`, or `R`, are the tokens of a call.
        """
        return ()

    def forget(self) -> None:
        """Release the memory on the device."""
        self._room = 0  # tokens
        self.blocks: dict[str, Block] = {}
        self._calls: dict[Shape, object] = {}

    @property
    def addresses(self) -> dict[str, int]:
        return {name: block.address for name, block in self.blocks.items()}

    def width(self, length: int) -> int:
        """The tokens that a text of `length` takes in a call, where it is the longest."""
        return min(finely_padded(length), self.hparams.n_ctx)

    def together(
        self, read: Callable[[Sequence[T]], list[Result]], texts: Sequence[T]
    ) -> list[Result]:
        """What `read` returns of all texts side by side.

        Where the memory does not suffice, what nobody uses is freed, and fewer are read side by
        side from then on. Raises `OutOfMemory` for one alone.
        """
        try:
            return read(texts)
        except OutOfMemory:
            self.forget()
            self.device.release()
            if len(texts) == 1:
                return read(texts)
        self.budget = max(self.hparams.n_ctx, self.budget // 2)
        half = len(texts) // 2
        return [*self.together(read, texts[:half]), *self.together(read, texts[half:])]

    def call_of(self, shape: Shape, make: Callable[[], CallOf]) -> CallOf:
        """The call of a shape (texts, their width, and more), which `make` makes if need be."""
        self._grow(shape[0] * shape[1])
        call = self._calls.pop(shape, None) or make()
        self._calls[shape] = call  # the last used is the last
        if len(self._calls) > KEPT:
            del self._calls[next(iter(self._calls))]
        return call  # type: ignore[return-value]

    def _grow(self, tokens: int) -> None:
        """Have memory for so many tokens."""
        if tokens <= self._room:
            return
        self.forget()
        room = power_of_two(tokens)
        for port in self.ports(self.hparams):
            size = size_of(port, {"B": 1, "C": room, "R": room})
            self.blocks[port.name] = self.device.memory.allocate(size)
        self._room = room


def fill(inputs: dict[str, Array], tokens: NDArray[np.int32]) -> None:
    """Write the inputs of a call that reads texts [B,S] from their beginnings."""
    width = tokens.shape[1]
    inputs[X.name][...] = tokens
    inputs[POSITION.name][...] = np.arange(width)
    inputs[SEQLENS.name][...] = width - 1


def beside(texts: Sequence[Sequence[int]], width: int) -> NDArray[np.int32]:
    """Texts as the rows of an array [B,width], padded at their ends."""
    tokens = np.zeros((len(texts), width), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens
