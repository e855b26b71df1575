"""`gpt2rt embed`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from command_line import TEXT, Command
from gpt2rt import GPT2, EmbedParams
from gpt2rt.bundles.catalog import demo_bundle
from gpt2rt.scoring.embeddings import cosine


def test_vectors_in_every_format(command: Command, model: Path, gpt2: GPT2, tmp_path: Path) -> None:
    texts = [TEXT, "second one"]
    found = list(gpt2.embed_batch(texts, EmbedParams(layer=2, by="word", normalize=True)))
    vectors = np.concatenate([embedding.vectors for embedding in found])
    options = ("--layer", "2", "--by", "word", "--normalize", "-m", model)
    for suffix in ("npy", "npz"):
        ended = command("embed", *texts, *options, "-o", tmp_path / f"v.{suffix}")
        assert (ended.code, ended.out) == (0, f"{len(vectors)} vectors of 32 numbers, layer 2\n")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    with np.load(tmp_path / "v.npz") as arrays:
        np.testing.assert_array_equal(arrays["vectors"], vectors)
        for number, start, end, piece in zip(
            *(arrays[name].tolist() for name in ("text", "start", "end", "piece")), strict=True
        ):
            assert texts[number][start:end] == piece
        assert arrays["texts"].tolist() == texts
    records = command("embed", *texts, *options, "--json").records
    np.testing.assert_array_equal(np.array([r["vector"] for r in records], np.float32), vectors)
    assert [texts[r["row"] - 1][r["start"] : r["end"]] for r in records] == [
        r["text"] for r in records
    ]


def test_cosine_of_one_word_in_two_texts(command: Command, model: Path, gpt2: GPT2) -> None:
    texts = ["money in this bank", "along the river bank, he"]
    params = EmbedParams(by="word", word="bank")
    u, v = (gpt2.embed(text, params).vectors[0] for text in texts)
    arguments = ("embed", *texts, "--word", "bank", "--cosine", "-m", model)
    (record,) = command(*arguments, "--json").records
    assert record["cosine"] == pytest.approx(cosine(u, v))
    assert (record["a"], record["b"]) == ("money in this [bank]", "along the river [bank], he")
    assert f"{record['cosine']:.4f}" in command(*arguments).out
    (whole,) = command("embed", *texts, "--cosine", "-m", model, "--json").records
    assert [whole["a"], whole["b"]] == texts


def test_embed_prints_a_table(command: Command, model: Path) -> None:
    ended = command("embed", "a b", "-m", model, "--by", "word")
    assert len(ended.out.splitlines()) == 1 + 2 + 2


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("a", "--layer", "4"), "layer must be 0 (the embeddings) to 3", 2),
        (("a", "--layer", "-1"), "layer must be 0", 2),
        (("a", "--stride", "0"), "stride must be 1", 2),
        (("a", "--cosine"), "two vectors or more", 2),
        (("a", "--word", "b"), "'b' is no word", 1),
        (("a " * 60,), "give a stride", 1),
        (("a", "-o", "v.txt"), "ends in .npy, .npz", 2),
        (("a", "-o", "no/such/v.npy"), "directory does not exist", 1),
    ],
)
def test_embed_refuses_in_one_line(
    command: Command, model: Path, arguments: tuple[str, ...], words: str, code: int
) -> None:
    ended = command("embed", *arguments, "-m", model)
    assert ended.code == code
    assert words in ended.in_one_line()


def test_the_page_shows_what_its_example_prints(command: Command) -> None:
    page = (Path(__file__).parents[2] / "docs" / "embed.md").read_text("utf-8")
    (example,) = re.findall(r"^gpt2rt (embed .* --cosine) --model demo$", page, re.MULTILINE)
    (told,) = re.findall(r"^(\d\.\d{4})  ", page, re.MULTILINE)
    (record,) = command(*shlex.split(example), "-m", demo_bundle(), "--json").records
    assert record["cosine"] == pytest.approx(float(told), abs=1e-3)
