"""The memory of a CUDA device, with a runtime library that writes down what it is asked."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from gpt2rt.engine.cuda.memory import CudaMemory, HostMemory, Memory, Move
from gpt2rt.errors import Gpt2rtError, ProviderMissing

STREAM, EVENT = 4711, 4712


class Library:
    """The functions of CUDA's runtime that copies use, for ordinary memory."""

    def __init__(self, code: int = 0) -> None:
        self.calls: list[str] = []
        self._code = code

    def cudaStreamCreateWithFlags(self, stream: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 1  # it does not wait for the default stream
        stream._obj.value = STREAM
        return 0

    def cudaMemcpy2DAsync(self, *given: Any) -> int:  # noqa: N802 - CUDA's name
        target, target_pitch, source, source_pitch, width, runs = (n.value for n in given[:6])
        assert given[6] == 4  # by the addresses
        assert given[7].value == STREAM
        self.calls.append("copy")
        if not self._code:
            HostMemory().copy(Move(target, target_pitch, source, source_pitch, width, runs))
        return self._code

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        assert stream.value == STREAM
        self.calls.append("wait")
        return 0

    def cudaEventCreateWithFlags(self, event: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 2  # without times
        event._obj.value = EVENT
        return 0

    def cudaEventRecord(self, event: Any, stream: Any) -> int:  # noqa: N802
        assert (event.value, stream.value) == (EVENT, STREAM)
        self.calls.append("record")
        return 0

    def cudaEventSynchronize(self, event: Any) -> int:  # noqa: N802
        assert event.value == EVENT
        self.calls.append("wait for the event")
        return self._code

    def cudaEventDestroy(self, event: Any) -> int:  # noqa: N802
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


def test_what_is_queued_is_waited_for_by_its_mark() -> None:
    library = Library()
    memory, data = memory_of(library), ctypes.create_string_buffer(b"ab", 2)
    mark = memory.mark()
    memory.queue(Move(ctypes.addressof(data) + 1, 1, ctypes.addressof(data), 1, 1, 1))
    mark.set()
    assert library.calls == ["copy", "record"]
    mark.wait()
    assert library.calls == ["copy", "record", "wait for the event"]
    library._code = 700
    with pytest.raises(Gpt2rtError, match="what was asked for: made-up failure 700"):
        mark.wait()


def test_a_stream_is_used_again_and_never_by_two() -> None:
    made: list[int] = []

    class Counting(Library):
        def cudaStreamCreateWithFlags(self, stream: Any, flags: Any) -> int:  # noqa: N802
            stream._obj.value = STREAM + len(made)
            made.append(1)
            return 0

    library = Counting()
    first, second = memory_of(library), memory_of(library)
    assert (first.stream, second.stream) == (STREAM, STREAM + 1)
    del first
    assert memory_of(library).stream == STREAM
    assert len(made) == 2


def test_where_cuda_gives_no_stream_another_provider_has_to_do() -> None:
    class Refusing(Library):
        def cudaStreamCreateWithFlags(self, stream: Any, flags: Any) -> int:  # noqa: N802
            return 35

    with pytest.raises(ProviderMissing, match=r"made-up failure 35.*doctor"):
        memory_of(Refusing())
