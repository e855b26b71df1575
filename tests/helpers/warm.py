"""A `gpt2rt` that starts at once, to run many commands: each is a fork of one warm process.

The warm process has imported the package and TensorFlow, and done nothing else. A stub in a folder
of the search path stands for the real command: it hands over its arguments, environment, working
directory and standard files, and ends as the fork does.
"""

from __future__ import annotations

import array
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MOST = 1 << 20  # bytes of a request
PATIENCE = 120.0  # seconds until the warm process is there


@contextmanager
def warm_commands(prepare: str = "") -> Iterator[Path]:
    """The folder that holds `gpt2rt` and `python`, while the warm process lives.

    `prepare` is Python code that the warm process runs once it has imported everything.
    """
    with tempfile.TemporaryDirectory() as place:  # short: a socket's path has 108 bytes at most
        folder, address = Path(place, "bin"), str(Path(place, "s"))
        folder.mkdir()
        for name in ("gpt2rt", "python"):
            stub = shlex.join([sys.executable, "-S", "-E", __file__, address, name])
            (folder / name).write_text(f'#!/bin/sh\nexec {stub} "$@"\n')
            (folder / name).chmod(0o755)
        server = subprocess.Popen([sys.executable, __file__, address, "serve", prepare])
        try:
            _wait(server, address)
            yield folder
        finally:
            server.terminate()
            server.wait()


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not Path(address).exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the warm process did not start")
        time.sleep(0.05)


def _serve(address: str, prepare: str) -> None:
    """Take requests until it is terminated, a fork each."""
    import tensorflow  # noqa: F401

    import gpt2rt.cli
    import gpt2rt_export.pipeline  # noqa: F401

    exec(prepare, {})
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen()
    os.rename(address + ".new", address)
    signal.signal(signal.SIGTERM, _leave)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _answer(connection, gpt2rt.cli.main)
        connection.close()
        while _reaped():
            pass


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _answer(connection: socket.socket, main: object) -> None:
    """Be the command that the stub asks for, and tell it the exit code."""
    size = 3 * array.array("i").itemsize
    request, ancillary, _, _ = connection.recvmsg(MOST, socket.CMSG_SPACE(size))
    files = array.array("i", ancillary[0][2])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # What Python knew of the old files, such as that they could be wound back, is no longer so.
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    name, arguments, environment, place = json.loads(request)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        code = _run(name, arguments, main)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code]))
        os._exit(code)


def _run(name: str, arguments: list[str], main: object) -> int:
    assert callable(main)
    try:
        if name == "gpt2rt":
            sys.argv = ["gpt2rt", *arguments]
            main()
        else:  # python FILE
            sys.argv = arguments
            code = compile(Path(arguments[0]).read_text(encoding="utf-8"), arguments[0], "exec")
            exec(code, {"__name__": "__main__"})
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _ask(address: str, name: str, arguments: list[str]) -> int:
    """The stub: what the command was given goes over, its exit code comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = json.dumps([name, arguments, dict(os.environ), os.getcwd()]).encode()
        files = array.array("i", [0, 1, 2])
        connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        answer = connection.recv(1)
    return answer[0] if answer else 1


if __name__ == "__main__":
    if sys.argv[2] == "serve":
        _serve(sys.argv[1], sys.argv[3])
    else:
        sys.exit(_ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
