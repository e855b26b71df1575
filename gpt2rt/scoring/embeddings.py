"""Contextual embeddings: hidden states of a layer for the tokens, words or the whole of a text.

Layers are counted as in Transformers' `hidden_states`: 0 is the token and position embeddings, i is
the output of block i, and the last, n_layer, is taken after `ln_f`. As there, no token is put
before the text, so its first token has no context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.checks import check_kind, check_whole
from gpt2rt.engine.runtime import Runtime
from gpt2rt.errors import BadText, InvalidSetting, PromptTooLong
from gpt2rt.generation.batch import Batch
from gpt2rt.scoring.batching import cut, in_order
from gpt2rt.scoring.scoring import windows
from gpt2rt.scoring.state_readers import TextPiece, VectorReader, Vectors, reader_of
from gpt2rt.scoring.token_texts import texts_of
from gpt2rt.text.alignment import Span, occurrences, tokens_in, word_spans
from gpt2rt.text.tokenizer import Encoding
from gpt2rt.text.tokenizers import TextTokenizer

Numbered = tuple[int, TextPiece]

UNITS = ("token", "word", "text")
# The weights of positions 1 to n, not normalised. "weighted" is the position-weighted mean of SGPT
# (Muennighoff 2022), since later tokens have more context.
POOLINGS: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "mean": lambda n: np.ones(n),
    "last": lambda n: np.eye(n)[-1],
    "weighted": lambda n: np.arange(1.0, n + 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The vectors of a text's tokens or words, or one vector of the whole text.

    Attributes:
        text: the text.
        layer: the layer of the hidden states.
        texts: the n tokens or words, or the whole text.
        spans: start and exclusive end of each of them, in characters of `text`.
        vectors: float32 [n, n_embd].
    """

    text: str
    layer: int
    texts: tuple[str, ...]
    spans: tuple[Span, ...]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class EmbedParams:
    """How texts are embedded. Raises `InvalidSetting` for invalid values.

    Tokens that the tokenizer puts around a text have vectors, but are part of no word and not
    pooled.

    Attributes:
        layer: 0 (token and position embeddings) to n_layer; None is the last.
        by: what has a vector: `token`, `word` or `text`. Words are separated by white space.
        pooling: how a word's or text's vector is made of its tokens': `mean`, `last`, `weighted`.
        word: selects all occurrences of this one word, without adjacent punctuation.
        normalize: whether each vector is divided by its Euclidean length.
        stride: tokens by which the window advances over a text longer than the context; None: such
            a text is an error.
        special: whether control tokens are tokens or text (see `TextTokenizer.encode`).
    """

    layer: int | None = None
    by: str = "token"
    pooling: str = "mean"
    word: str | None = None
    normalize: bool = False
    stride: int | None = None
    special: bool | None = None

    def __post_init__(self) -> None:
        for what, value, choices in (
            ("by", self.by, UNITS),
            ("pooling", self.pooling, tuple(POOLINGS)),
        ):
            if value not in choices:
                raise InvalidSetting(f"{what} is {', '.join(choices)}, not {value}")
        check_kind("word", self.word, str, optional=True)
        check_kind("normalize", self.normalize, bool)
        check_kind("special", self.special, bool, optional=True)
        for what, number in (("layer", self.layer), ("stride", self.stride)):
            if number is not None:
                check_whole(what, number)
        if self.word is not None and (self.by != "word" or not self.word.strip()):
            raise InvalidSetting("word names one word, and goes with by word", "word")

    def check(self, hparams: HParams) -> None:
        """Raises `InvalidSetting` for a layer or stride that the model does not allow."""
        if self.layer is not None and not 0 <= self.layer <= hparams.n_layer:
            raise InvalidSetting(
                f"layer must be 0 (the embeddings) to {hparams.n_layer} (the last), "
                f"not {self.layer}",
                "layer",
            )
        if self.stride is not None:
            windows(0, hparams.n_ctx, self.stride)


@dataclass(frozen=True, slots=True)
class Reader:
    """The parts of a model that embedding needs."""

    tokenizer: TextTokenizer
    hparams: HParams
    runtime: Runtime
    shared: Batch


def embed_texts(
    texts: Iterable[str], reader: Reader, params: EmbedParams, batch_size: int | None
) -> Iterator[Embedding]:
    """Embed texts in batches, in their order, between the steps of texts in progress.

    Up to `batch_size` are read side by side (None: as many as are useful). Raises `BadText`,
    `PromptTooLong`, `InvalidSetting`.
    """
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1)
    params.check(reader.hparams)
    return _embed_texts(texts, reader, params, batch_size)


@dataclass(frozen=True, slots=True)
class Text:
    """A text with its tokens and the windows in which they are read (see `_cuts`).

    `wanted` are spans of characters, and `ranges` of tokens, of what has a vector; None: tokens.
    """

    text: str
    encoding: Encoding
    cuts: list[tuple[int, int, int]]
    wanted: list[Span] | None
    ranges: list[Span] | None

    @classmethod
    def of(cls, text: str, reader: Reader, params: EmbedParams) -> Text:
        """A text as `params` asks for it. Raises `BadText`, `PromptTooLong`, `InvalidSetting`."""
        encoding = _encoded(text, reader, params)
        cuts = _cuts(len(encoding.tokens), params.stride, reader.hparams.n_ctx)
        if params.by == "token":
            return cls(text, encoding, cuts, None, None)
        wanted = _wanted(text, params)
        return cls(text, encoding, cuts, wanted, tokens_in(encoding.spans, wanted))

    def pieces(self, pooling: str | None) -> Iterator[TextPiece]:
        """The windows, with the weights of their states in sums by a pooling (None: without)."""
        for start, end, first in self.cuts:
            weights = None
            if pooling is not None and self.ranges is not None:
                weights = np.zeros((len(self.ranges), end - start), np.float32)
                for row, (low, high) in zip(weights, self.ranges, strict=True):
                    begin, stop = max(low, first), min(high, end)
                    if begin < stop:
                        own = _weights(pooling, high - low)[begin - low : stop - low]
                        row[begin - start : stop - start] = own
            yield TextPiece(self.encoding.tokens[start:end], first - start, weights)


def _embed_texts(
    texts: Iterable[str], reader: Reader, params: EmbedParams, batch_size: int | None
) -> Iterator[Embedding]:
    layer = reader.hparams.n_layer if params.layer is None else params.layer
    waiting: deque[Text] = deque()

    def pieces(pooling: str | None) -> Iterator[TextPiece]:
        for text in texts:
            waiting.append(Text.of(text, reader, params))
            yield from waiting[-1].pieces(pooling)

    with reader_of(reader.runtime, reader.shared, reader.hparams, layer) as states:
        numbered = enumerate(pieces(params.pooling if states.sums else None))
        cuts = cut(numbered, _length, states, batch_size or states.most)
        found = in_order(states.run(partial(_read, states, batch) for batch in cuts))
        for part in found:
            text = waiting.popleft()
            parts = [part, *islice(found, len(text.cuts) - 1)]
            yield _embedding(text, parts, layer, reader, params, summed=states.sums)


def _length(numbered: Numbered) -> int:
    return len(numbered[1].tokens)


def _read(states: VectorReader, batch: list[Numbered]) -> list[tuple[int, Vectors]]:
    found = states.read([piece for _, piece in batch])
    return [(number, vectors) for (number, _), vectors in zip(batch, found, strict=True)]


def _encoded(text: str, reader: Reader, params: EmbedParams) -> Encoding:
    """The tokens of a text and those that the tokenizer puts around it, which have empty spans."""
    tokenizer = reader.tokenizer
    found = tokenizer.encode_spans(text, special=params.special)
    if not found.tokens or not (tokenizer.before or tokenizer.after):
        return found
    end = len(text)
    around = ((0, 0),) * len(tokenizer.before), ((end, end),) * len(tokenizer.after)
    return Encoding(
        (*tokenizer.before, *found.tokens, *tokenizer.after), (*around[0], *found.spans, *around[1])
    )


def _cuts(count: int, stride: int | None, n_ctx: int) -> list[tuple[int, int, int]]:
    """Windows over `count` tokens: start, end, and the first token whose vector is used."""
    if not count:
        raise BadText("a text is empty: there is nothing to embed")
    if stride is None and count > n_ctx:
        raise PromptTooLong(
            f"a text has {count} tokens, the context holds {n_ctx}; shorten it, or give a stride "
            "so that it is read in windows"
        )
    # Windows for scoring have one more token, which is not an input.
    found = windows(count + 1, n_ctx, stride or n_ctx)
    return [(start, end - 1, first - 1) for start, end, first in found]


def _embedding(
    text: Text, parts: list[Vectors], layer: int, reader: Reader, params: EmbedParams, summed: bool
) -> Embedding:
    """The vectors of a text, of whose windows `parts` are the states, or sums where `summed`."""
    if text.wanted is None or text.ranges is None:
        spans: Sequence[Span] = text.encoding.spans
        texts = texts_of(reader.tokenizer, text.encoding.tokens)
        vectors = _joined(text, parts)
    else:
        spans, texts = text.wanted, [text.text[start:end] for start, end in text.wanted]
        vectors = np.sum(parts, 0) if summed else _pooled(text, _joined(text, parts), params)
    if params.normalize:
        vectors = normalized(vectors)
    return Embedding(text.text, layer, tuple(texts), tuple(spans), vectors)


def _joined(text: Text, parts: list[Vectors]) -> Vectors:
    """The states of all tokens, from those of the windows."""
    cuts = zip(text.cuts, parts, strict=True)
    return np.concatenate([states[first - start :] for (start, _, first), states in cuts])


def _pooled(text: Text, states: Vectors, params: EmbedParams) -> Vectors:  # [n,D] -> [P,D]
    found = [
        _weights(params.pooling, last - first) @ states[first:last].astype(np.float64)
        for first, last in text.ranges or ()
    ]
    return np.array(found, np.float32).reshape(-1, states.shape[1])


def _weights(pooling: str, count: int) -> NDArray[np.float64]:
    """The weights of so many states in their sum."""
    weights = POOLINGS[pooling](count)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _wanted(text: str, params: EmbedParams) -> list[Span]:
    if params.by == "text":
        return [(0, len(text))]
    if params.word is None:
        return word_spans(text)
    found = occurrences(text, params.word)
    if not found:
        raise BadText(f"{params.word!r} is no word of the text {text[:60]!r}")
    return found


def normalized(vectors: Vectors) -> Vectors:  # [n,D] -> [n,D]
    """Each vector divided by its Euclidean length; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def cosine(a: Vectors, b: Vectors) -> float:
    """The cosine similarity of two vectors [D]; 0 if one of them is zero."""
    pair = normalized(np.stack([a, b])).astype(np.float64)
    return float(np.clip(pair[0] @ pair[1], -1, 1))
