"""A language model whose every probability is written down, for tests of what is made of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt_evals.model import Decoding

RARE = 1e-6  # probability of a token that nothing was said about
PIECE = re.compile(r" ?\S+|\s")

Predict = Callable[[str], Mapping[str, float]]


class Oracle:
    """Its tokens are words with the space before them, and single stretches of whitespace.

    `predict` maps the text read so far (less `<|endoftext|>`) to probabilities of next tokens;
    `say` maps a prompt to the text that follows it.
    """

    def __init__(
        self,
        predict: Predict = lambda text: {},
        say: Callable[[str], str] = lambda prompt: "",
        n_ctx: int = 1024,
        rare: float = RARE,
    ) -> None:
        self.tokens = 0
        self.n_ctx = n_ctx
        self.start_of_text = 0
        self.prompts: list[str] = []
        self.decodings: list[Decoding] = []
        self.passages: list[Passage] = []
        self._predict, self._say, self._rare = predict, say, rare
        self._pieces = [""]
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self._id(piece) for piece in PIECE.findall(text)]

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return "".join(self._pieces[token] for token in tokens).encode()

    def score(self, passages: Iterable[Passage], top: int = 0) -> Iterator[TokenScores]:
        for passage in passages:
            assert len(passage.tokens) <= self.n_ctx + 1
            self.passages.append(passage)
            self.tokens += len(passage.tokens) - 1
            places = range(passage.first, len(passage.tokens))
            rows = [self._place(passage.tokens, place, top) for place in places]
            logprobs, ranks, ids = zip(*rows, strict=True)
            best = np.array(ids, np.int32)
            yield TokenScores(
                np.array(logprobs, np.float32),
                np.array(ranks, np.int32),
                best,
                np.zeros(best.shape, np.float32),
            )

    def _place(self, tokens: Sequence[int], place: int, top: int) -> tuple[float, int, list[int]]:
        said = self._predict(self.decode_bytes(tokens[:place]).decode())
        chances = {self._id(piece): chance for piece, chance in said.items()}
        mine = chances.get(tokens[place], self._rare)
        ordered = sorted(chances, key=lambda token: -chances[token])
        ids = (ordered + [self.start_of_text] * top)[:top]
        return math.log(mine), sum(chance > mine for chance in chances.values()), ids

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        assert all(len(self.encode(p)) + decoding.length <= self.n_ctx for p in prompts)
        self.prompts += prompts
        self.decodings.append(decoding)
        made = [self._say(prompt) for prompt in prompts]
        for stop in decoding.stops:
            made = [text.split(stop)[0] for text in made]
        return made
