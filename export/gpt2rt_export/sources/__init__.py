"""Reads checkpoints of any format: hyper-parameters, and variables one at a time.

Shapes and names are checked when a checkpoint is opened, and one error lists everything that is
wrong. One format a file; `formats` finds the one of a directory.
"""

from gpt2rt_export.sources.checkpoint import Array, Checkpoint
from gpt2rt_export.sources.formats import open_checkpoint
from gpt2rt_export.sources.huggingface import HuggingFaceCheckpoint
from gpt2rt_export.sources.nanogpt import NanoGPTCheckpoint
from gpt2rt_export.sources.npz import NpzCheckpoint
from gpt2rt_export.sources.openai import OpenAICheckpoint
from gpt2rt_export.sources.random_weights import RandomCheckpoint
from gpt2rt_export.sources.trimmed import trimmed
from gpt2rt_export.sources.wrapped import WrappedCheckpoint

__all__ = [
    "Array",
    "Checkpoint",
    "HuggingFaceCheckpoint",
    "NanoGPTCheckpoint",
    "NpzCheckpoint",
    "OpenAICheckpoint",
    "RandomCheckpoint",
    "WrappedCheckpoint",
    "open_checkpoint",
    "trimmed",
]
