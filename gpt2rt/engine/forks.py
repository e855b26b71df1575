"""ONNX Runtime sessions that are safe in a forked child of the process that opened them.

A child process has none of its parent's threads, and locks that they held stay locked in it. So a
fork waits for the calls of other threads to end. In the child, a session that computes only in the
calling thread goes on working; one with more threads would wait for them for ever, so it raises an
error. The cleanup of ONNX Runtime would wait for them as well, so a child skips it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import onnxruntime as ort

from gpt2rt.errors import InvalidSetting


class Calls:
    """Counts the threads that are in a call of ONNX Runtime, and lets a fork wait for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: set[int] = set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """A context for one call, which starts after any fork in progress."""
        thread = threading.get_ident()
        with self._changed:
            self._threads.add(thread)
        try:
            yield
        finally:
            with self._changed:
                self._threads.discard(thread)
                self._changed.notify_all()

    def pause(self) -> None:
        """Block new calls, and wait for those of other threads to end."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._threads <= {threading.get_ident()})

    def resume(self) -> None:
        """Allow calls again."""
        self._changed.release()


class ForkAwareSession(ort.InferenceSession):  # type: ignore[misc,unused-ignore]
    """An `InferenceSession` that raises `InvalidSetting` in a child that lacks its threads.

    `kernels` is the instruction set of the kernels that compute its graph's functions; empty if
    ONNX Runtime's own do. With `foreign` a provider computes that has threads of its own.
    """

    def __init__(
        self,
        path: os.PathLike[Any],
        options: ort.SessionOptions,
        *,
        kernels: str = "",
        foreign: bool = False,
        **settings: Any,
    ) -> None:
        self.kernels = kernels
        with _calls.call():
            super().__init__(path, options, **settings)
        self._threads = options.intra_op_num_threads
        self._foreign = foreign
        self._inherited = False
        _open.add(self)

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, Any], options: Any = None
    ) -> Any:
        """As ONNX Runtime's method. Raises `InvalidSetting` in a child that lacks the threads."""
        self._check()
        with _calls.call():
            return super().run(names, feeds, options)

    def run_with_iobinding(self, binding: ort.IOBinding, options: Any = None) -> None:
        """As ONNX Runtime's method. Raises `InvalidSetting` in a child that lacks the threads."""
        self._check()
        with _calls.call():
            super().run_with_iobinding(binding, options)

    def _check(self) -> None:
        if self._inherited and self._foreign:
            raise InvalidSetting(
                "the model was loaded before this process was forked, and the threads of its "
                "provider stayed behind: load it in the child"
            )
        if self._inherited and self._threads > 1:
            raise InvalidSetting(
                f"the model was loaded with {self._threads} threads before this process was "
                "forked, and they stayed behind: load it in the child, or with threads=1"
            )

    def skip_cleanup(self) -> None:
        """In a child process: never destroy the session, which would join missing threads."""
        self._inherited = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


_calls = Calls()
_open: WeakSet[ForkAwareSession] = WeakSet()


def _in_child() -> None:
    global _calls
    _calls = Calls()
    for session in _open:
        session.skip_cleanup()
    _exit_past_destructors()


def _exit_past_destructors() -> None:
    """Make the process end without static destructors, as children of `multiprocessing` do.

    Those of ONNX Runtime 1.31 wait for a thread that its import started. Exit handlers run in the
    reverse order of their registration, so this one runs before the destructors.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # of glibc; it passes on the exit status
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _calls.pause(),
        after_in_parent=lambda: _calls.resume(),
        after_in_child=_in_child,
    )
