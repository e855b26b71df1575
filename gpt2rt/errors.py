"""The errors of gpt2rt, all subclasses of `Gpt2rtError`.

A message is one line that says what happened, what was expected and what to do about it; the
command line prints it unchanged. Bugs show as other exceptions, with a traceback.
"""

from __future__ import annotations


class Gpt2rtError(Exception):
    """An error that the user can do something about; the base of all others."""


class InvalidSetting(Gpt2rtError, ValueError):
    """A parameter with an invalid value; on the command line a usage error (exit code 2).

    Attributes:
        setting: the name of the parameter, where it is known.
    """

    def __init__(self, message: str = "", setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


class UnknownModel(Gpt2rtError, LookupError):
    """A name that is no model's, or a model that is not exported yet."""


class BadCheckpoint(Gpt2rtError):
    """A checkpoint that is missing, damaged, incomplete or does not fit its `hparams.json`."""


class BadBundle(Gpt2rtError):
    """A bundle without a manifest, of a newer format, or with a damaged file."""


class BadTokenizer(Gpt2rtError):
    """Tokenizer files that are missing, damaged or contradict each other."""


class BadRun(Gpt2rtError):
    """A saved run that cannot be read, or whose replay gives other texts."""


class BadText(Gpt2rtError, ValueError):
    """Text that cannot be encoded, or bytes that are not UTF-8."""


class BadData(Gpt2rtError, ValueError):
    """A data set that is missing or not in the expected format."""


class PromptTooLong(Gpt2rtError, ValueError):
    """A text or prompt with more tokens than fit the model's context."""


class MissingExtra(Gpt2rtError, ImportError):
    """A feature whose optional dependencies are not installed."""


def reason(error: Exception) -> str:
    """What an exception says, for messages: an `OSError` without its number and path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def install_command(extra: str) -> str:
    """The command that installs an extra of gpt2rt, for messages."""
    return f'pip install "gpt2rt[{extra}]"'


def missing_extra(extra: str, what: str) -> MissingExtra:
    """The error for an extra that is not installed; `what` says what needs which library."""
    return MissingExtra(f"{what}: {install_command(extra)}")


class ProviderMissing(Gpt2rtError):
    """A requested execution provider that is not available or cannot run the bundle."""


class OutOfMemory(Gpt2rtError):
    """Too little memory is left on the CUDA device."""


class ParityFailure(Gpt2rtError):
    """An exported bundle whose outputs differ too much from its checkpoint's."""


class BundleExists(Gpt2rtError, FileExistsError):
    """An output of an export, pack or unpack that exists and may not be replaced."""


class DownloadFailure(Gpt2rtError):
    """A file that could not be downloaded."""


class QueueFull(Gpt2rtError):
    """More texts wait for a model than its queue holds."""


class StepFailed(Gpt2rtError):
    """A step of the model that failed, for the other texts that shared it."""


class BadLogits(Gpt2rtError, ArithmeticError):
    """Logits that are not finite (NaN or infinity), from a damaged model."""


class ClusterFailure(Gpt2rtError):
    """A cluster that breaks, or whose nodes do not fit each other."""
