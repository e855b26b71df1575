"""The command `gpt2rt`: thin functions over the library."""

import gc
import os
import sys

BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main() -> None:
    """Run the command line. Exit codes: 0, 1 for an error, 2 for misuse, 130 for Ctrl-C."""
    try:
        gc.disable()  # `run` enables it, when all is imported
        _import_numpy()
        from gpt2rt.cli.app import run  # takes a while, in which Ctrl-C is quiet, too

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.enable()


def _import_numpy() -> None:
    """Import NumPy without threads for products of matrices.

    They take 30 ms to start, and memory; no command needs them. ONNX Runtime has its own.
    """
    if BLAS_THREADS in os.environ:
        return
    os.environ[BLAS_THREADS] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[BLAS_THREADS]  # processes that a command starts choose for themselves
