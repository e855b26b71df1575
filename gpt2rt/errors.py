"""One error tree: everything that gpt2rt raises on purpose descends from `Gpt2rtError`.

A message is one line that states the fact, what was expected and the way out; the command line
prints it as it stands. Bugs are left as ordinary exceptions, with their traceback.
"""

from __future__ import annotations


class Gpt2rtError(Exception):
    """Anything the user can put right."""


class InvalidSetting(Gpt2rtError, ValueError):
    """A parameter that no model could obey; on the command line a usage error (exit code 2)."""


class UnknownModel(Gpt2rtError, LookupError):
    """A model name that the catalogue does not have, or one that is not exported yet."""


class BadCheckpoint(Gpt2rtError):
    """A checkpoint that is missing, damaged, incomplete or at odds with its own `hparams.json`."""


class BadBundle(Gpt2rtError):
    """A bundle without a manifest, of a newer format, or with a file that is not what it was."""


class BadTokenizer(Gpt2rtError):
    """`encoder.json` or `vocab.bpe` missing, damaged or at odds with each other."""


class BadRun(Gpt2rtError):
    """A saved run that cannot be read, or that does not come out again as it did."""


class BadText(Gpt2rtError, ValueError):
    """Text that cannot be encoded, or bytes that are not UTF-8."""


class BadData(Gpt2rtError, ValueError):
    """A data set that is not there, or a file of it that is not in the data set's format."""


class PromptTooLong(Gpt2rtError, ValueError):
    """A prompt that leaves no room in the context of the model."""


class MissingExtra(Gpt2rtError, ImportError):
    """A feature whose optional dependencies are not installed."""


class ProviderMissing(Gpt2rtError):
    """An execution provider that was asked for and cannot be had, or that cannot run a bundle."""


class ParityFailure(Gpt2rtError):
    """An exported bundle that does not reproduce its checkpoint closely enough."""


class BundleExists(Gpt2rtError, FileExistsError):
    """The output of an export is taken, and nobody said that it may be replaced."""


class DownloadFailure(Gpt2rtError):
    """A file that could not be fetched."""


class BadLogits(Gpt2rtError, ArithmeticError):
    """The model produced NaN or infinity where a distribution was expected."""
