"""A checkpoint of any origin: hyper-parameters and variables, read one at a time.

Everything that can be known beforehand is checked beforehand, and all that is wrong is told at
once. One origin a file; `formats` knows them all and which of them lies in a directory.
"""

from gpt2rt_export.sources.checkpoint import Array, Checkpoint
from gpt2rt_export.sources.formats import open_checkpoint
from gpt2rt_export.sources.huggingface import HuggingFaceCheckpoint
from gpt2rt_export.sources.nanogpt import NanoGPTCheckpoint
from gpt2rt_export.sources.npz import NpzCheckpoint
from gpt2rt_export.sources.openai import OpenAICheckpoint
from gpt2rt_export.sources.random_weights import RandomCheckpoint
from gpt2rt_export.sources.trimmed import trimmed

__all__ = [
    "Array",
    "Checkpoint",
    "HuggingFaceCheckpoint",
    "NanoGPTCheckpoint",
    "NpzCheckpoint",
    "OpenAICheckpoint",
    "RandomCheckpoint",
    "open_checkpoint",
    "trimmed",
]
