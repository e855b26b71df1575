"""A session of ONNX Runtime in a process forked from the one that opened it.

A child has none of its parent's threads, and the locks that they held stay locked in it. So a fork
waits for the calls that other threads are in. In the child a session that computes in the calling
thread alone goes on; one that hands work to others might wait for them for ever, so it refuses.
What ONNX Runtime tears down at its end would wait for them, too: a child leaves that to its parent.
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
    """The threads that are inside ONNX Runtime."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold for the time of a call; begins after a fork that is under way."""
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
        """Let no call begin, and wait for those of other threads to end."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._threads <= {threading.get_ident()})

    def resume(self) -> None:
        self._changed.release()


class Session(ort.InferenceSession):  # type: ignore[misc,unused-ignore]
    """An `InferenceSession` that raises `InvalidSetting` where its threads are a parent's."""

    def __init__(self, path: os.PathLike[Any], options: ort.SessionOptions, **settings: Any) -> None:
        with _calls.one():
            super().__init__(path, options, **settings)
        self._threads = options.intra_op_num_threads
        self._inherited = False
        _open.add(self)

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, Any], options: Any = None
    ) -> Any:
        self._check()
        with _calls.one():
            return super().run(names, feeds, options)

    def run_with_iobinding(self, binding: ort.IOBinding, options: Any = None) -> None:
        self._check()
        with _calls.one():
            super().run_with_iobinding(binding, options)

    def _check(self) -> None:
        if self._inherited and self._threads > 1:
            raise InvalidSetting(
                f"the model was loaded with {self._threads} threads before this process was "
                "forked, and they stayed behind: load it in the child, or with threads=1"
            )

    def leave_to_parent(self) -> None:
        """In a child: never end, since that joins threads which are not here."""
        self._inherited = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


_calls = Calls()
_open: WeakSet[Session] = WeakSet()


def _in_child() -> None:
    global _calls
    _calls = Calls()
    for session in _open:
        session.leave_to_parent()
    _exit_past_destructors()


def _exit_past_destructors() -> None:
    """Let the process end before static destructors, as children of `multiprocessing` do: those of
    ONNX Runtime wait for a thread that its import started (1.31).

    Handlers run in the reverse order of their registration, so this one comes before them.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc's, which tells the exit status
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _calls.pause(),
        after_in_parent=lambda: _calls.resume(),
        after_in_child=_in_child,
    )
