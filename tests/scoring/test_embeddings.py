"""Embeddings: equal to the oracle's hidden states, for tokens, words and texts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import reference
from command_line import Edit
from gpt2rt import GPT2, EmbedParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import EMBED
from gpt2rt.errors import BadBundle, BadText, InvalidSetting, PromptTooLong
from gpt2rt.generation import batch
from gpt2rt.scoring.embeddings import cosine
from models import NOISE, REPEATABLE, TINY, LargerWeights, assert_same

TEXTS = ["the cat sat", "naïve 🦊 co-op\r\n ends ", "x", "a b", "many words " * 3, "y z"]
LONG = "a long text of more tokens than the context of the model has room for, " * 2


@pytest.mark.slow
@pytest.mark.parametrize("layer", range(TINY.n_layer + 1))
@pytest.mark.parametrize("text", TEXTS)
def test_token_vectors_equal_oracle(
    tiny: GPT2, tiny_weights: LargerWeights, layer: int, text: str
) -> None:
    found = tiny.embed(text, EmbedParams(layer=layer))
    tokens = tiny.tokenizer.encode(text)
    oracle = reference.hidden(tiny_weights.read, TINY, tokens)[layer]
    assert found.vectors.dtype == np.float32
    noise = NOISE[tiny.bundle.manifest.precision]
    np.testing.assert_allclose(found.vectors, oracle, atol=noise)
    assert found.texts == tuple(tiny.tokenizer.decode([token]) for token in tokens)


def test_the_last_layer_is_the_default(tiny: GPT2) -> None:
    last = tiny.embed("a b c", EmbedParams(layer=TINY.n_layer))
    np.testing.assert_array_equal(tiny.embed("a b c").vectors, last.vectors)
    assert tiny.embed("a b c").layer == TINY.n_layer


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", REPEATABLE)
def test_a_text_is_bit_equal_whatever_its_batch_mates(
    tiny_bundles: dict[str, Bundle], precision: str, threads: int, batch_size: int
) -> None:
    model = GPT2.load(tiny_bundles[precision].directory, threads=threads)
    together = list(model.embed_batch(TEXTS, batch_size=batch_size))
    assert [found.text for found in together] == TEXTS
    for found in together:
        np.testing.assert_array_equal(found.vectors, model.embed(found.text).vectors)


@pytest.mark.parametrize("layer", [0, 1, TINY.n_layer])
def test_beside_texts_vectors_are_the_same_in_smaller_slices(
    tiny: GPT2, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    params = EmbedParams(layer=layer)
    wanted = list(tiny.embed_batch(TEXTS, params))
    monkeypatch.setattr(batch, "SLICE_BESIDE", 3)
    text = tiny.stream([1], stopping=Stopping(40, end_of_text=False))
    next(text)
    precision = tiny.bundle.manifest.precision
    for ours, theirs in zip(tiny.embed_batch(TEXTS, params), wanted, strict=True):
        assert ours.text == theirs.text
        assert_same(ours.vectors, theirs.vectors, precision)
    assert list(text)


def test_words_lie_where_they_are_and_own_their_tokens(tiny: GPT2) -> None:
    text = "\n  naïve 🦊 co-op\r\n ends "
    tokens = tiny.embed(text)
    words = tiny.embed(text, EmbedParams(by="word"))
    assert words.texts == ("naïve", "🦊", "co-op", "ends")
    assert [text[start:end] for start, end in words.spans] == list(words.texts)
    for (start, end), vector in zip(words.spans, words.vectors, strict=True):
        inside = [i for i, (a, b) in enumerate(tokens.spans) if b > start and a < end]
        mean = tokens.vectors[inside].astype(float).mean(axis=0)
        np.testing.assert_allclose(vector, mean, atol=1e-5)


def test_one_word_wherever_it_stands(tiny: GPT2) -> None:
    text = "the (cat) sat; cats, a cat."
    found = tiny.embed(text, EmbedParams(by="word", word="cat"))
    assert [text[start:end] for start, end in found.spans] == ["cat", "cat"]
    tokens = tiny.embed(text)
    for (start, end), vector in zip(found.spans, found.vectors, strict=True):
        inside = [i for i, (a, b) in enumerate(tokens.spans) if b > start and a < end]
        mean = tokens.vectors[inside].astype(float).mean(axis=0)
        np.testing.assert_allclose(vector, mean, atol=1e-5)
    with pytest.raises(BadText, match="'dog' is no word"):
        tiny.embed(text, EmbedParams(by="word", word="dog"))


def test_poolings_are_their_definitions(tiny: GPT2) -> None:
    states = tiny.embed("some words here").vectors.astype(float)
    ranks = np.arange(1, len(states) + 1)
    wanted = {
        "mean": states.mean(axis=0),
        "last": states[-1],
        "weighted": (states * ranks[:, None]).sum(axis=0) / ranks.sum(),
    }
    for pooling, vector in wanted.items():
        found = tiny.embed("some words here", EmbedParams(by="text", pooling=pooling))
        np.testing.assert_allclose(found.vectors, [vector], atol=1e-5)
        assert found.texts == ("some words here",)
        unit = EmbedParams(by="text", pooling=pooling, normalize=True)
        length = np.linalg.norm(tiny.embed("some words here", unit).vectors)
        assert length == pytest.approx(1, abs=1e-6)


def test_long_texts_are_read_in_windows(tiny: GPT2, tiny_weights: LargerWeights) -> None:
    tokens = tiny.tokenizer.encode(LONG)
    assert len(tokens) > 2 * TINY.n_ctx
    with pytest.raises(PromptTooLong, match=f"{len(tokens)} tokens.*stride"):
        tiny.embed(LONG)
    found = tiny.embed(LONG, EmbedParams(stride=20)).vectors
    assert len(found) == len(tokens)
    noise = NOISE[tiny.bundle.manifest.precision]
    done = 0
    for end in [*range(TINY.n_ctx, len(tokens), 20), len(tokens)]:
        read = tokens[max(0, end - TINY.n_ctx) : end]
        oracle = reference.hidden(tiny_weights.read, TINY, read)[-1][done - end :]
        np.testing.assert_allclose(found[done:end], oracle, atol=noise)
        done = end


def test_cosine() -> None:
    a, b = np.array([1, 2, 3], np.float32), np.array([-2, 1, 0], np.float32)
    assert cosine(a, 7 * a) == pytest.approx(1)
    assert cosine(a, -a) == pytest.approx(-1)
    assert cosine(a, b) == pytest.approx(0, abs=1e-7)
    assert cosine(a, 0 * b) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": TINY.n_layer + 1}, f"layer.*{TINY.n_layer}"),
        ({"layer": -1}, "layer"),
        ({"stride": 0}, "stride"),
        ({"stride": TINY.n_ctx + 1}, "stride"),
        ({"by": "letter"}, "by is token, word, text"),
        ({"pooling": "max"}, "pooling is mean"),
        ({"by": "text", "word": "a"}, "by word"),
        ({"by": "word", "word": " "}, "one word"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    tiny: GPT2, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidSetting, match=words):
        tiny.embed("a", EmbedParams(**settings))  # type: ignore[arg-type]


def test_an_empty_text_is_refused(tiny: GPT2) -> None:
    with pytest.raises(BadText, match="empty"):
        tiny.embed("")


def test_an_older_bundle_says_how_it_can_embed(
    tiny_bundles: dict[str, Bundle], tmp_path: Path, edit_manifest: Edit
) -> None:
    shutil.copytree(tiny_bundles["int8"].directory, tmp_path / "old")
    old = Bundle.open(tmp_path / "old")
    (old.directory / EMBED).unlink()
    files = {name: record for name, record in old.manifest.files.items() if name != EMBED}
    edit_manifest(old, files=files)
    model = GPT2.load(old.directory)
    assert model.score("it still scores").tokens
    with pytest.raises(BadBundle, match="could embed; export it again"):
        model.embed("a")
