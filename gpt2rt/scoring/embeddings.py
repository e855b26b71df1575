"""Contextual embeddings: hidden states of a layer for the tokens, words or the whole of a text.

Layers are counted as in Transformers' `hidden_states`: 0 is the token and position embeddings, i is
the output of block i, and the last, n_layer, is taken after `ln_f`. As there, no token is put
before the text, so its first token has no context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.checks import check_kind, check_whole
from gpt2rt.engine.runtime import HiddenStep, Runtime
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadText, InvalidSetting, PromptTooLong
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.client import Client
from gpt2rt.scoring.batching import batches, groups_of_tokens
from gpt2rt.scoring.scoring import windows
from gpt2rt.text.alignment import Span, occurrences, tokens_in, word_spans
from gpt2rt.text.tokenizer import Encoding
from gpt2rt.text.tokenizers import TextTokenizer

Vectors = NDArray[np.float32]
TOKENS = 256  # most tokens in a step; more would not be faster
BATCH_SIZE = 32  # most texts in a batch, by default

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
    texts: Iterable[str], reader: Reader, params: EmbedParams, batch_size: int
) -> Iterator[Embedding]:
    """Embed texts in batches, in their order, between the steps of texts in progress.

    Raises `BadText`, `PromptTooLong`, `InvalidSetting`.
    """
    check_whole("batch_size", batch_size, 1)
    params.check(reader.hparams)
    return _embed_texts(texts, reader, params, batch_size)


def _embed_texts(
    texts: Iterable[str], reader: Reader, params: EmbedParams, batch_size: int
) -> Iterator[Embedding]:
    layer = reader.hparams.n_layer if params.layer is None else params.layer
    encoded = ((text, _encoded(text, reader, params)) for text in texts)
    for group in groups_of_tokens(encoded, lambda pair: len(pair[1].tokens)):
        cuts = [
            _cuts(len(encoding.tokens), params.stride, reader.hparams.n_ctx)
            for _, encoding in group
        ]
        pieces = [
            encoding.tokens[start:end]
            for (_, encoding), parts in zip(group, cuts, strict=True)
            for start, end, _ in parts
        ]
        found = _states(pieces, layer, reader, batch_size)
        for (text, encoding), parts in zip(group, cuts, strict=True):
            states = [next(found)[first - start :] for start, _, first in parts]
            yield _embedding(text, encoding, np.concatenate(states), layer, reader, params)


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


def _states(
    pieces: list[tuple[int, ...]], layer: int, reader: Reader, batch_size: int
) -> Iterator[Vectors]:
    """The hidden states, float32 [length, n_embd], of each sequence of tokens, in their order."""
    runtime, shared = reader.runtime, reader.shared
    count = min(batch_size, max(len(pieces), 1))
    step = runtime.hidden_step(count, layer)

    def size() -> int:
        return min(TOKENS, shared.slice) if runtime.embeds_in_slices else reader.hparams.n_ctx

    with shared.client(0) as client:
        for batch in batches(pieces, len, size, count):
            if len(batch) > 1:
                lengths = [len(piece) for piece in batch]
                parts = [_part(slot, 0, piece) for slot, piece in enumerate(batch)]
                yield from np.split(_read(client, step, parts), np.cumsum(lengths)[:-1])
            else:
                found, start = [], 0
                while start < len(batch[0]):
                    part = _part(0, start, batch[0][start : start + size()])
                    found.append(_read(client, step, [part]))
                    start = part.end
                yield np.concatenate(found)


def _part(slot: int, start: int, tokens: tuple[int, ...]) -> Part:
    return Part(slot, start, tokens, len(tokens))


def _read(client: Client, step: HiddenStep, parts: list[Part]) -> Vectors:
    """A step between two of the batch."""
    return np.array(client.call(lambda: step(parts)))


def _embedding(
    text: str,
    encoding: Encoding,
    states: Vectors,
    layer: int,
    reader: Reader,
    params: EmbedParams,
) -> Embedding:
    spans: Sequence[Span] = encoding.spans
    texts, vectors = [reader.tokenizer.decode([token]) for token in encoding.tokens], states
    if params.by != "token":
        wanted = _wanted(text, params)
        ranges = tokens_in(spans, wanted)
        pooled = [_pool(states[first:last], params.pooling) for first, last in ranges]
        vectors = np.array(pooled, np.float32).reshape(-1, states.shape[1])
        spans, texts = wanted, [text[start:end] for start, end in wanted]
    if params.normalize:
        vectors = normalized(vectors)
    return Embedding(text, layer, tuple(texts), tuple(spans), vectors)


def _wanted(text: str, params: EmbedParams) -> list[Span]:
    if params.by == "text":
        return [(0, len(text))]
    if params.word is None:
        return word_spans(text)
    found = occurrences(text, params.word)
    if not found:
        raise BadText(f"{params.word!r} is no word of the text {text[:60]!r}")
    return found


def _pool(states: Vectors, pooling: str) -> Vectors:  # [n,D] -> [D]
    weights = POOLINGS[pooling](len(states))
    return np.asarray(weights / weights.sum() @ states.astype(np.float64), np.float32)


def normalized(vectors: Vectors) -> Vectors:  # [n,D] -> [n,D]
    """Each vector divided by its Euclidean length; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def cosine(a: Vectors, b: Vectors) -> float:
    """The cosine similarity of two vectors [D]; 0 if one of them is zero."""
    pair = normalized(np.stack([a, b])).astype(np.float64)
    return float(np.clip(pair[0] @ pair[1], -1, 1))
