"""gpt2rt: OpenAI's GPT-2 on ONNX Runtime, exact and fast, with no deep-learning framework.

A public name is imported when it is first used, so `import gpt2rt` takes no time.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2rt import errors as errors
    from gpt2rt.asynchronous import AsyncGPT2 as AsyncGPT2
    from gpt2rt.bundles.bundle import Bundle as Bundle
    from gpt2rt.bundles.hparams import HParams as HParams
    from gpt2rt.engine.providers import Threads as Threads
    from gpt2rt.errors import Gpt2rtError as Gpt2rtError
    from gpt2rt.generation.beams import Beams as Beams
    from gpt2rt.generation.completion import Completion as Completion
    from gpt2rt.generation.completion import Piece as Piece
    from gpt2rt.generation.completion import Timing as Timing
    from gpt2rt.generation.defaults import Defaults as Defaults
    from gpt2rt.generation.request import Request as Request
    from gpt2rt.generation.stopping import Stopping as Stopping
    from gpt2rt.model import GPT2 as GPT2
    from gpt2rt.sampling.constraint import Constraint as Constraint
    from gpt2rt.sampling.params import SamplingParams as SamplingParams
    from gpt2rt.scoring.document import Document as Document
    from gpt2rt.scoring.embeddings import Embedding as Embedding
    from gpt2rt.scoring.embeddings import EmbedParams as EmbedParams
    from gpt2rt.scoring.embeddings import cosine as cosine
    from gpt2rt.scoring.score import Score as Score
    from gpt2rt.scoring.score import TokenScore as TokenScore
    from gpt2rt.scoring.score import WordScore as WordScore
    from gpt2rt.scoring.scoring import Passage as Passage
    from gpt2rt.scoring.scoring import TokenScores as TokenScores
    from gpt2rt.text.tokenizer import Tokenizer as Tokenizer
    from gpt2rt.text.tokenizers import TextTokenizer as TextTokenizer

__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime's packages report to Microsoft what they run, on Linux and macOS, too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The modules that define the public names; type checkers read the imports above instead.
_NAMES = {
    "asynchronous": ("AsyncGPT2",),
    "bundles.bundle": ("Bundle",),
    "bundles.hparams": ("HParams",),
    "engine.providers": ("Threads",),
    "errors": ("Gpt2rtError",),
    "generation.beams": ("Beams",),
    "generation.completion": ("Completion", "Piece", "Timing"),
    "generation.defaults": ("Defaults",),
    "generation.request": ("Request",),
    "generation.stopping": ("Stopping",),
    "model": ("GPT2",),
    "sampling.constraint": ("Constraint",),
    "sampling.params": ("SamplingParams",),
    "scoring.document": ("Document",),
    "scoring.embeddings": ("EmbedParams", "Embedding", "cosine"),
    "scoring.score": ("Score", "TokenScore", "WordScore"),
    "scoring.scoring": ("Passage", "TokenScores"),
    "text.tokenizer": ("Tokenizer",),
    "text.tokenizers": ("TextTokenizer",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name == "errors":
        return import_module("gpt2rt.errors")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next time this function is not asked
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "errors"})
