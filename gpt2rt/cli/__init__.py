"""The command `gpt2rt`: thin functions over the library, one file a command."""

import sys


def main() -> None:
    """Run the command line. Exit codes: 0, 1 for an error, 2 for misuse, 130 for Ctrl-C."""
    try:
        from gpt2rt.cli.app import run  # takes half a second, in which Ctrl-C is quiet, too

        run()
    except KeyboardInterrupt:
        sys.exit(130)
