"""gpt2rt: OpenAI's GPT-2 on ONNX Runtime, exact and fast, with no deep-learning framework."""

from gpt2rt.beams import Beams
from gpt2rt.bundle import Bundle
from gpt2rt.completion import Completion, Piece, Timing
from gpt2rt.constraint import Constraint
from gpt2rt.embeddings import Embedding, EmbedParams
from gpt2rt.errors import Gpt2rtError
from gpt2rt.hparams import HParams
from gpt2rt.model import GPT2
from gpt2rt.params import SamplingParams
from gpt2rt.request import Request
from gpt2rt.score import Score, TokenScore, WordScore
from gpt2rt.scoring import Passage, TokenScores
from gpt2rt.stopping import Stopping
from gpt2rt.tokenizer import Tokenizer

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
