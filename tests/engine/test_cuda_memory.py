"""The memory of a CUDA device, with a runtime library that writes down what it is asked."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from gpt2rt.engine.cuda_memory import CudaMemory, HostMemory, Memory, Move
from gpt2rt.errors import Gpt2rtError


class Library:
    """The functions of CUDA's runtime that copies use, for ordinary memory."""

    def __init__(self, code: int = 0) -> None:
        self.calls: list[str] = []
        self._code = code

    def cudaMemcpy2D(self, *given: Any) -> int:  # noqa: N802 - CUDA's name
        target, target_pitch, source, source_pitch, width, runs = (n.value for n in given[:6])
        assert given[6] == 4  # by the addresses
        self.calls.append("copy")
        if not self._code:
            HostMemory().copy(Move(target, target_pitch, source, source_pitch, width, runs))
        return self._code

    def cudaStreamSynchronize(self, stream: None) -> int:  # noqa: N802
        self.calls.append("wait")
        return 0

    class cudaGetErrorString:
        def __new__(cls, code: int) -> Any:
            return f"made-up failure {code}".encode()


def memory_of(library: Library) -> CudaMemory:
    return CudaMemory(library)  # type: ignore[arg-type]


@pytest.mark.parametrize("library", [None, Library()])
def test_moves_are_made_in_order_and_waited_for_once(library: Library | None) -> None:
    memory: Memory = HostMemory() if library is None else memory_of(library)
    data = ctypes.create_string_buffer(b"abcdefghijkl--------", 20)
    base = ctypes.addressof(data)
    # Every third of the letters, two at a time; then two of these.
    memory.copy(Move(base + 12, 2, base, 4, 2, 3), Move(base + 18, 1, base + 14, 1, 2, 1))
    assert data.raw == b"abcdefghijklabefijef"
    if library is not None:
        assert library.calls == ["copy", "copy", "wait"]


def test_a_copy_that_fails_is_an_error_and_the_last_one() -> None:
    library = Library(code=700)
    with pytest.raises(Gpt2rtError, match="copy 9 bytes: made-up failure 700"):
        memory_of(library).copy(Move(0, 0, 0, 0, 2, 2), Move(0, 0, 0, 0, 5, 1))
    assert library.calls == ["copy"]
