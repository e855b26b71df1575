"""gpt2rt: OpenAI's GPT-2 on ONNX Runtime, exact and fast, with no deep-learning framework."""

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.beams import Beams
from gpt2rt.generation.completion import Completion, Piece, Timing
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import Stopping
from gpt2rt.model import GPT2
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.embeddings import Embedding, EmbedParams
from gpt2rt.scoring.score import Score, TokenScore, WordScore
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.text.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "GPT2",
    "Beams",
    "Bundle",
    "Completion",
    "Constraint",
    "EmbedParams",
    "Embedding",
    "Gpt2rtError",
    "HParams",
    "Passage",
    "Piece",
    "Request",
    "SamplingParams",
    "Score",
    "Stopping",
    "Timing",
    "TokenScore",
    "TokenScores",
    "Tokenizer",
    "WordScore",
]
