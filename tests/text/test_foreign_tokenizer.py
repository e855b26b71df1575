"""Tokenizers of the `tokenizers` library: its tokens and texts, from export to generation."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from checkpoints import huggingface_config
from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import MANIFEST, Manifest
from gpt2rt.errors import BadBundle, BadText, BadTokenizer, InvalidSetting, MissingExtra
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.text.foreign_tokenizer import ForeignTokenizer
from gpt2rt.text.tokenizers import read_tokenizer
from gpt2rt_export.onnx_graph import targets
from gpt2rt_export.tokenizers.foreign import is_foreign, write_foreign
from models import LargerWeights, skeleton

N_VOCAB = 300
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHINESE = "今天气很好，。"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "sat", "##s", "##ing", "don", "'", "t", ".", "!"]
WORDS += [*CHINESE, *(f"##{letter}" for letter in "abcdeg"), *"abcd"]
TEXTS = [
    "the cat sat.",
    "The CATS, sitting  on\tthe mat!",
    "今天天气很好。the cat",
    "don't sat",
    "caté ab",
    "①ﬁ the",
]


def wordpiece() -> Tokenizer:
    """BERT's tokenizer, as Transformers makes it from a `vocab.txt`."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.add_special_tokens(SPECIAL)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def unigram() -> Tokenizer:
    """A tokenizer like SentencePiece's: NFKC, white space as a symbol, byte fallback."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in (0xE2, 0x82, 0xAC, 0x41))]
    pieces += ["▁", "▁the", "▁cat", "s", "▁sat", *CHINESE, *LETTERS, ".", "!", ",", "'", "1"]
    scores = [(piece, -float(len(pieces) - i) / len(piece)) for i, piece in enumerate(pieces)]
    made = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["</s>"])
    return made


def metaspace() -> Tokenizer:
    made = unigram()
    pieces = [(p, s) for p, s in json.loads(made.to_str())["model"]["vocab"]]
    made.model = models.Unigram(pieces, unk_id=0)
    made.decoder = decoders.Metaspace()
    return made


def whitespace_bpe() -> Tokenizer:
    """BPE over words, without bytes; its decoder joins by spaces."""
    symbols = ["<unk>", "<eos>", *LETTERS, *CHINESE, *".,!'", "th", "the", "ca", "cat"]
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t")]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens(["<eos>"])
    return made


def split_byte_level() -> Tokenizer:
    """Byte-level BPE that splits texts differently from GPT-2."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*"!',.", *LETTERS, "Ġ", *sorted(set(symbols) - {*LETTERS, *"!',.", "Ġ"})]
    made = Tokenizer(models.BPE({s: i for i, s in enumerate(["<eos>", *symbols])}, []))
    steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<eos>"])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": wordpiece,
    "unigram": unigram,
    "metaspace": metaspace,
    "whitespace bpe": whitespace_bpe,
    "split byte-level": split_byte_level,
}


def rows(made: Tokenizer) -> int:
    return max(N_VOCAB, made.get_vocab_size())


def save(folder: Path, made: Tokenizer, **settings: Any) -> Path:
    """A directory as Transformers saves a model's tokenizer."""
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = huggingface_config(SHAPE, eos_token_id=1, **settings)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def exported(folder: Path, n_vocab: int = N_VOCAB, own: bool = True) -> ForeignTokenizer:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    assert is_foreign(folder)
    write_foreign(folder, n_vocab, work, own=own)
    found = read_tokenizer(work)
    assert isinstance(found, ForeignTokenizer)
    return found


def save_wordpiece(folder: Path, **settings: object) -> Path:
    """A Chinese GPT-2 in the published form: `vocab.txt` and `config.json`."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    config = huggingface_config(SHAPE, eos_token_id=50256, bos_token_id=50256)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


SHAPE = HParams(n_vocab=N_VOCAB, n_ctx=32, n_embd=32, n_head=2, n_layer=1)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, ForeignTokenizer]:
    """A tokenizer of the library, and the tokenizer that is exported from it."""
    made = KINDS[request.param]()
    return made, exported(save(tmp_path / "model", made), rows(made))


# ---- ids, spans, texts


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_spans_are_the_librarys(
    pair: tuple[Tokenizer, ForeignTokenizer], text: str
) -> None:
    made, found = pair
    wanted = made.encode(text, add_special_tokens=False)
    assert found.encode(text) == wanted.ids
    encoding = found.encode_spans(text)
    assert list(encoding.tokens) == wanted.ids
    assert list(encoding.spans) == wanted.offsets
    assert found.decode(wanted.ids) == made.decode(wanted.ids, skip_special_tokens=False)
    assert [*found.before, *wanted.ids, *found.after] == made.encode(text).ids


def test_strings_of_a_stream_are_the_text(pair: tuple[Tokenizer, ForeignTokenizer]) -> None:
    """For any tokens, including invalid sequences of bytes."""
    made, found = pair
    chance = random.Random(5)
    for _ in range(60):
        tokens = chance.choices(range(made.get_vocab_size()), k=12)
        if chance.random() < 0.5:
            tokens[3:6] = chance.choices(range(min(8, made.get_vocab_size())), k=3)
        cut = chance.randrange(6)
        stream = found.stream()
        assert "".join([*map(stream.push, tokens), stream.close()]) == found.decode(tokens)
        stream = found.stream(tokens[:cut])
        text = "".join(map(stream.push, tokens[cut:-1])) + stream.push(tokens[-1], True)
        if not found.is_open(tokens[max(0, cut - 1)]) and "\ufffd" not in found.decode(tokens):
            assert found.decode(tokens[:cut]) + text == found.decode(tokens)


def test_bytes_of_tokens_are_what_they_add(pair: tuple[Tokenizer, ForeignTokenizer]) -> None:
    made, found = pair
    for text in TEXTS:
        tokens = made.encode(f"a {text}", add_special_tokens=False).ids
        first = found.decode_bytes(tokens[:1])
        joined = b"".join(map(found.token_bytes, tokens[1:]))
        assert first + joined == found.decode_bytes(tokens)


def test_a_token_the_model_does_not_have(pair: tuple[Tokenizer, ForeignTokenizer]) -> None:
    _, found = pair
    for token in (-1, found.n_vocab):
        with pytest.raises(InvalidSetting, match=f"token {token} is not in the vocabulary"):
            found.decode([token])
    with pytest.raises(BadText, match=r"half a surrogate pair, U\+D800, at position 1"):
        found.encode("a\ud800")
    assert found.decode([found.n_vocab - 1]) is not None  # an id without a symbol


# ---- BERT's


def test_vocab_txt_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    found, made = exported(save_wordpiece(tmp_path / "model")), wordpiece()
    for text in TEXTS:
        wanted = made.encode(text)
        assert [*found.before, *found.encode(text), *found.after] == wanted.ids
        assert found.decode(wanted.ids) == made.decode(wanted.ids, skip_special_tokens=False)
    assert (found.start_of_text, found.end_of_text, found.before, found.after) == (2, 3, (2,), (3,))
    assert found.ends == ()  # 50256, which config.json names, is none


def test_values_of_transformers_itself(tmp_path: Path) -> None:
    """`BertTokenizer(vocab_file).encode` of transformers 5.24, without the last token."""
    found = exported(save_wordpiece(tmp_path / "model"))
    wanted = [2, 15, 16, 16, 17, 18, 19, 21, 5, 6, 1, 6, 8, 10, 11, 12]
    assert [*found.before, *found.encode("今天天气很好。The CÁT Straße cats don't")] == wanted


def test_settings_of_vocab_txt(tmp_path: Path) -> None:
    cased = exported(save_wordpiece(tmp_path / "cased", do_lower_case=False))
    assert cased.encode("The cat") == [1, 6]
    joined = exported(save_wordpiece(tmp_path / "joined", tokenize_chinese_chars=False))
    assert joined.encode("今天") == [1]
    folder = save_wordpiece(tmp_path / "more", eos_token="[PAD]")
    (folder / "added_tokens.json").write_text(json.dumps({"<user>": 40, "wow": 41}))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": ["<user>"]})
    )
    more = exported(folder)
    assert more.end_of_text == 0
    assert more.encode("the<user>wow cat") == [5, 40, 41, 6]
    assert 40 not in more.encode("<user>", special=False)
    assert more.encode("wow", special=False) == [41]


def test_control_tokens_are_text_where_asked(tmp_path: Path) -> None:
    found = exported(save_wordpiece(tmp_path / "model"))
    assert found.encode("the [SEP]") == [5, 3]
    assert 3 not in found.encode("the [SEP]", special=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unk_token": "<unk>"}, "has no <unk>.*as unk_token"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer.*save_pretrained"),
    ],
)
def test_what_vocab_txt_cannot_say(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    folder = save_wordpiece(tmp_path / "model", **change)
    with pytest.raises(BadTokenizer, match=reason):
        exported(folder)


def test_sentencepiece_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\n")
    with pytest.raises(BadTokenizer, match=r"SentencePiece \(spiece.model\).*save_pretrained"):
        exported(tmp_path)


# ---- sizes and damage


def test_a_token_without_a_row_is_refused_by_name(tmp_path: Path) -> None:
    made = wordpiece()
    made.add_tokens([AddedToken("wow")])
    n_vocab = made.get_vocab_size() - 3
    folder = save(tmp_path / "model", made)
    found = exported(folder, n_vocab)
    assert found.encode("the wow") != made.encode("the wow", add_special_tokens=False).ids
    with pytest.raises(BadText, match=rf"has 'd', token {n_vocab + 1}.*{n_vocab} tokens only"):
        found.encode("the d")
    assert not found.decode(range(n_vocab)).endswith("d")


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTokenizer, match="name the model's own tokenizer"):
        exported(save(tmp_path / "model", wordpiece()), 5000, own=False)


def test_a_character_without_a_symbol_is_not_dropped(tmp_path: Path) -> None:
    made = whitespace_bpe()
    body = json.loads(made.to_str())
    body["model"]["unk_token"] = None
    found = exported(save(tmp_path / "model", Tokenizer.from_str(json.dumps(body))))
    assert found.encode("the  cat") == made.encode("the  cat").ids
    with pytest.raises(BadText, match="no token for 'é'"):
        found.encode("cafés")


@pytest.mark.parametrize(
    "added",
    [
        7,
        "abc",
        {"a": 1},
        ["abc"],
        [None],
        [{}],
        [{"id": 1}],
        [{"id": "1", "content": "a"}],
        [{"id": -1, "content": "a"}],
        [{"id": None, "content": ""}],
    ],
)
def test_damaged_added_tokens_are_told(tmp_path: Path, added: object) -> None:
    folder = save(tmp_path / "model", wordpiece())
    body = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**body, "added_tokens": added}))
    with pytest.raises(BadTokenizer, match=r"tokenizer\.json: "):
        exported(folder)


def test_damage_is_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", wordpiece())
    body = json.loads((folder / "tokenizer.json").read_text())
    body["model"]["vocab"] = 7
    (folder / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(BadTokenizer, match=r"tokenizer\.json: not a tokenizer that"):
        exported(folder)
    (folder / "special_tokens.json").unlink(missing_ok=True)
    with pytest.raises(BadTokenizer, match=r"special_tokens\.json: no such file"):
        read_tokenizer(folder)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "model", wordpiece())
    exported(folder)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r'pip install "gpt2rt\[tokenizers\]"'):
        read_tokenizer(folder / "work")
    with pytest.raises(MissingExtra, match=r'pip install "gpt2rt\[tokenizers\]"'):
        exported(folder)


# ---- a model over them


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
