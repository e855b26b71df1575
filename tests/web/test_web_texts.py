"""The page's tokens, scores and texts, in a real browser: the same as in Python."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browsers import new_context
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.sampling.sampling import Sampler
from gpt2rt.scoring.scoring import Passage
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens
from gpt2rt.text.tokenizer import Tokenizer
from hard_texts import TRICKY, TRICKY_SPACES
from pages import SETTINGS, WRITE, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


PROMPTS = [
    "",
    "Once, in a village by the sea",
    "The old fisherman",
    "The king",
    "Odile loved nothing so well as her",
    "a",
    "\n\n",
    "naïve 👩‍👧",
    "It began to sing. Then",
    "One winter morning, while the snow was falling, his heavy coat " * 8,
]


@pytest.fixture(scope="module")
def plain(browser: Browser, address: str) -> Iterator[Page]:
    """A page whose scripts are called."""
    context = new_context(browser)
    page = context.new_page()
    page.goto(address)
    opened(page)
    yield page
    context.close()


def test_greedy_texts_and_scores(plain: Page, gpt2: GPT2) -> None:
    """The text of every prompt, token by token, and the model's own scores of them."""
    found, far = plain.evaluate(WRITE, [PROMPTS, SETTINGS]), list[float]()
    for prompt, told in zip(PROMPTS, found, strict=True):
        wanted = gpt2.generate(prompt or None, SamplingParams(temperature=0), Stopping(40))
        (scored,) = gpt2.score_tokens(
            [Passage((*wanted.prompt_tokens, *wanted.tokens), len(wanted.prompt_tokens))]
        )
        assert told["prompt"] == list(wanted.prompt_tokens)
        assert [token["id"] for token in told["tokens"]] == list(wanted.tokens), prompt
        assert told["text"] == wanted.text
        assert told["end"]["reason"] == wanted.finish_reason
        own = [token["logprob"] for token in told["tokens"]]
        far += np.abs(np.subtract(own, scored.logprobs)).tolist()
        assert all(token["top"][0]["id"] == token["id"] for token in told["tokens"])
    assert np.mean(far) < 0.01
    assert max(far) < 0.2  # where a rounding to 8 bits tips


def test_the_context_ends_a_text(plain: Page, gpt2: GPT2) -> None:
    prompt = "The old fisherman " * 80
    (told,) = plain.evaluate(WRITE, [[prompt], SETTINGS | {"max_tokens": 99, "min_tokens": 99}])
    params = SamplingParams(temperature=0, min_length=99)
    wanted = gpt2.generate(prompt, params, Stopping(99))
    assert told["end"]["reason"] == wanted.finish_reason == "context"
    assert len(told["tokens"]) == len(wanted.tokens) < 99


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 40},
        {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.2, "min_tokens": 30},
    ],
)
def test_a_seed_gives_the_same_text(plain: Page, gpt2: GPT2, settings: dict[str, Any]) -> None:
    prompts = ["", "On the third day of summer"]  # where no rounding to 8 bits tips a draw
    found = plain.evaluate(WRITE, [prompts, SETTINGS | settings | {"seed": 12345}])
    renamed = {"min_length" if k == "min_tokens" else k: v for k, v in settings.items()}
    params = SamplingParams(**renamed, seed=12345)
    for prompt, told in zip(prompts, found, strict=True):
        wanted = gpt2.generate(prompt or None, params, Stopping(40))
        assert told["text"] == wanted.text


ENCODE = """async ([files, texts]) => {
  const { Tokenizer } = await import("./page/tokenizer.js"), tokenizer = new Tokenizer(...files);
  return texts.map(text => { const ids = tokenizer.encode(text);
    return [ids, ids.map(id => [...tokenizer.bytes(id)]).flat()]; }); }"""


def encoded(page: Page, directory: Path, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """The ids of each text, and their bytes, by the page's tokenizer with these files."""
    paths = [directory / name for name in ("encoder.json", "vocab.bpe", "special_tokens.json")]
    files = [path.read_text(encoding="utf-8") if path.exists() else None for path in paths]
    found: list[tuple[list[int], list[int]]] = page.evaluate(ENCODE, [files, texts])
    return found


def hard_texts() -> list[str]:
    bits = [*TRICKY.split(), *TRICKY_SPACES, "  ", "   ", "\r\n", "\n\n", "don't", "DON'T"]
    chosen = np.random.default_rng(5).integers(0, len(bits), (400, 12))
    texts = ["".join(bits[i] for i in row) for row in chosen]
    return ["", *bits, *texts, "ab" * 4000, "x" * 5000, " " * 3000 + "y"]


def test_ids_of_hard_texts(plain: Page, demo: Bundle) -> None:
    tokenizer, texts = Tokenizer.read(demo.directory), hard_texts()
    found = encoded(plain, demo.directory, texts)
    for text, (ids, data) in zip(texts, found, strict=True):
        assert ids == tokenizer.encode(text)
        assert bytes(data) == text.encode()


DRAW = """async ([rows, size, params]) => {
  const { draw } = await import("./page/sampler.js");
  const bytes = Uint8Array.from(atob(rows), character => character.charCodeAt());
  const all = new Float32Array(bytes.buffer), drawn = [];
  for (let n = 0; n * size < all.length; n++)
    drawn.push(draw(all.subarray(n * size, (n + 1) * size), params, n));
  return drawn; }"""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.3},
        {"top_k": 7},
        {"top_p": 0.9},
        {"top_p": 0.1},
        {"min_p": 0.05},
        {"min_p": 0.2, "top_p": 0.6},
        {"typical_p": 0.8},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.02, "typical_p": 0.9, "temperature": 1.3},
    ],
)
@pytest.mark.parametrize("size", [300, 9000])
def test_draws_are_those_of_python(plain: Page, settings: dict[str, Any], size: int) -> None:
    rows = np.random.default_rng(3).normal(0, 3, (40, size)).astype(np.float32)
    params = SamplingParams(**settings, seed=99)
    sampler = Sampler(params, 99, 0)
    wanted = [sampler.draw(row) for row in rows]
    data = base64.b64encode(rows.tobytes()).decode()
    drawing = SETTINGS | {"temperature": 1.0} | settings | {"seed": 99}
    found = plain.evaluate(DRAW, [data, size, drawing])
    assert found == wanted
    assert len(set(wanted)) > 20


def test_penalties_are_those_of_python(plain: Page, gpt2: GPT2) -> None:
    settings = {
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.4,
        "presence_penalty": -0.2,
        "no_repeat_ngram": 2,
    }
    (told,) = plain.evaluate(WRITE, [["Odile"], SETTINGS | settings])
    params = SamplingParams(temperature=0, **settings)  # type: ignore[arg-type]
    assert told["text"] == gpt2.generate("Odile", params, Stopping(40)).text


def test_a_text_ends_before_a_stop_text(plain: Page, gpt2: GPT2) -> None:
    text = gpt2.generate("Odile", SamplingParams(temperature=0), Stopping(40)).text
    for stop in ([text[20:23]], [text[9:30], text[25:28]], ["never", text[30:33] + "?"]):
        (told,) = plain.evaluate(WRITE, [["Odile"], SETTINGS | {"stop": stop}])
        wanted = gpt2.generate("Odile", SamplingParams(temperature=0), Stopping(40, stop))
        assert (told["text"], told["end"]["by"]) == (wanted.text, wanted.stopped_by)


@pytest.fixture
def fine_tune(demo: Bundle, tmp_path: Path) -> Path:
    """The demo's vocabulary with control tokens, added words, and a space before every text."""
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(demo.directory / name, tmp_path / name)
    added = (
        SpecialToken(1257, "<|user|>"),
        SpecialToken(1258, "<|bot|>", rstrip=True),
        SpecialToken(1259, "word", special=False, single_word=True),
        SpecialToken(1260, "[x]", special=False, lstrip=True, normalized=True),
        SpecialToken(1261, "[x]y", special=False, normalized=True),
        SpecialToken(1262, "unseen", matched=False),
    )
    special = SpecialTokens(1263, 1257, 1256, added, prefix_space=True)
    (tmp_path / "special_tokens.json").write_text(special.to_json(), encoding="utf-8")
    return tmp_path


def test_a_fine_tunes_tokens(plain: Page, fine_tune: Path) -> None:
    tokenizer = Tokenizer.read(fine_tune)
    assert tokenizer.has_control_tokens
    bits = ["<|user|>", "<|bot|>", "word", "[x]", "[x]y", "unseen", " ", "  ", "é", "a", "\n", "_"]
    chosen = np.random.default_rng(5).integers(0, len(bits), (200, 8))
    texts = ["", *("".join(bits[i] for i in row) for row in chosen)]
    found = encoded(plain, fine_tune, texts)
    assert [ids for ids, _ in found] == [tokenizer.encode(text) for text in texts]
