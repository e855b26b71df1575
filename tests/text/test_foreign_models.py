"""Models with a tokenizer of the `tokenizers` library, from bundle to text."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from foreign_tokenizers import KINDS, N_VOCAB, SHAPE, save, save_wordpiece, wordpiece
from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import MANIFEST, Manifest
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt.sampling.constraint import Constraint
from gpt2rt_export.onnx_graph import targets
from gpt2rt_export.tokenizers.foreign import write_foreign
from models import LargerWeights, skeleton


def bundle_of(tokenizer: Path, folder: Path, hparams: HParams) -> Bundle:
    """A small model's bundle with the tokenizer of a directory."""
    folder.mkdir()
    models, weights = targets.fused(skeleton(hparams), hparams, "fp32", "float32")
    targets.write(models, weights, LargerWeights(hparams, seed=3), folder)
    write_foreign(tokenizer, hparams.n_vocab, folder)
    files = {path.name: record(path) for path in sorted(folder.iterdir())}
    manifest = Manifest("tiny", "fp32", "fused", "float32", hparams, "directory", "test", {}, files)
    (folder / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(folder)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, GPT2]:
    made = KINDS[request.param]()
    hparams = HParams(made.get_vocab_size() + 2, 32, 32, 2, 1)
    bundle = bundle_of(save(tmp_path / "model", made), tmp_path / "bundle", hparams)
    return made, GPT2.load(bundle.directory, threads=1)


def test_a_model_reads_and_writes_them(model: tuple[Tokenizer, GPT2]) -> None:
    made, gpt2 = model
    text = "the cat sat"
    ids = made.encode(text, add_special_tokens=False).ids
    before, after = gpt2.tokenizer.before, gpt2.tokenizer.after
    stopping = Stopping(length=9, end_of_text=False)
    params = SamplingParams(temperature=0)
    done = gpt2.generate(text, params, stopping)
    assert done.prompt_tokens == (*before, *ids, *after)
    known = made.decode([*before, *ids, *after], skip_special_tokens=False)
    every = made.decode([*before, *ids, *after, *done.tokens], skip_special_tokens=False)
    assert known + done.text == every
    assert done.text
    assert "".join(gpt2.stream(text, params, stopping)) == done.text
    score = gpt2.score(text)
    assert [token.token for token in score.tokens] == ids
    assert [text[token.start : token.end].strip() for token in score.tokens]
    assert [word.text for word in score.words] == text.split()


def test_a_bundle_lists_the_one_file_or_the_other(tmp_path: Path) -> None:
    made = wordpiece()
    folder = bundle_of(save(tmp_path / "m", made), tmp_path / "b", HParams(N_VOCAB, 32, 32, 2, 1))
    (folder.directory / "encoder.json").write_text("{}")
    with pytest.raises(BadBundle, match=r"encoder\.json: no file of this bundle"):
        GPT2.load(folder.directory)


SPELLED = [r" ?[a-z ]{4,20}", r"( ?[今天气]){3}", r"the cat", r" (the|今) ?[a-c]{2}\."]


@pytest.mark.slow
@pytest.mark.parametrize("expression", SPELLED)
def test_a_constraint_holds_or_is_refused(model: tuple[Tokenizer, GPT2], expression: str) -> None:
    """WordPiece cannot continue a word with `the`; the error says so."""
    pytest.importorskip("llguidance")
    _, gpt2 = model
    constraint, stopping = Constraint(regex=expression), Stopping(length=12)
    for seed in range(3):
        params = SamplingParams(seed=seed)
        try:
            done = gpt2.generate("the", params, stopping, constraint=constraint)
        except InvalidSetting as error:
            if "vocabulary can spell" not in str(error) or expression in SPELLED[:2]:
                raise
        else:
            assert re.fullmatch(expression, done.text)


def test_a_chinese_model_as_transformers_reads_it(tmp_path: Path) -> None:
    """Values of transformers 5.24: GPT2LMHeadModel over the same weights (`save_huggingface`), and
    BertTokenizer over the same `vocab.txt`, its `[SEP]` left out."""
    bundle = bundle_of(save_wordpiece(tmp_path / "model"), tmp_path / "bundle", SHAPE)
    gpt2 = GPT2.load(bundle.directory, threads=1)
    assert gpt2.prompt_tokens("今天the cat") == (2, 15, 16, 5, 6, 3)
    prompt = [2, 15, 16, 5, 6]
    done = gpt2.generate(prompt, SamplingParams(temperature=0), Stopping(length=8))
    assert done.prompt_tokens == tuple(prompt)
    assert done.tokens == (92, 190, 261, 89, 153, 153, 153, 285)
    bits = [-token.logprob / math.log(2) for token in gpt2.score("今天 the cats").tokens]
    assert bits == pytest.approx([9.626, 7.036, 9.227, 10.3, 7.236], abs=2e-3)
    words = gpt2.score("今天 the cats").words
    assert [word.text for word in words] == ["今天", "the", "cats"]


def test_spans_of_vectors_leave_white_space_out(tmp_path: Path) -> None:
    """Characters without tokens do not shift the spans of others."""
    bundle = bundle_of(save_wordpiece(tmp_path / "model"), tmp_path / "bundle", SHAPE)
    gpt2 = GPT2.load(bundle.directory, threads=1)
    spans = gpt2.embed("今天  the cats").spans
    assert [span for span in spans if span[0] < span[1]] == [
        (0, 1),
        (1, 2),
        (4, 7),
        (8, 11),
        (11, 12),
    ]
