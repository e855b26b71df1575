"""What has to come of damage to the files of a bundle or a checkpoint.

Of a damaged bundle nothing may come but an error or the very outputs of the whole one: its manifest
has a hash of every file. Checkpoints promise as much as their formats can:

- OpenAI's: the index has a crc32c of every variable, so weights are right or refused.
- .npz: the zip has a crc32 of every array; the same.
- safetensors has no checksums: weights are refused, or exactly what the file now says.
- hparams.json, config.json and tokenizers have none either: refused, or taken as they now read.

What a checkpoint's files now say is read a second time here, by other code than the exporter's.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import onnx
from numpy.typing import NDArray

from checkpoints import huggingface_tensors, save_huggingface, save_npz, save_openai, values_of
from damage import damage
from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import SHAPE as NUMBERS
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.bundles.packing import pack, unpack
from gpt2rt.engine.slots import Part
from gpt2rt.errors import Gpt2rtError
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export import model_tokenizer, pipeline
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.genai import tokenizer_files
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import open_checkpoint
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary
from models import LargerWeights, make_bundle, skeleton

SHAPE = HParams(n_vocab=280, n_ctx=8, n_embd=16, n_head=2, n_layer=1)
ARRAYS = LargerWeights(SHAPE, seed=3)
OTHERS = LargerWeights(SHAPE, seed=4)

Values = dict[str, NDArray[np.float32]]
NOTHING = np.zeros((1, 1, 1), np.float32)


# ---- checkpoints


@dataclass(frozen=True)
class Read:
    """All that an export takes from a checkpoint."""

    hparams: HParams
    values: Mapping[str, bytes]
    tokenizer: Mapping[str, bytes]


def read(place: Path, work: Path) -> Read:
    """As the exporter does, all but TensorFlow's conversion. Raises a `Gpt2rtError`."""
    checkpoint = open_checkpoint(place)
    work.mkdir()
    files = model_tokenizer.tokenizer_of(None, checkpoint)
    model_tokenizer.write(files, checkpoint.hparams.n_vocab, work)
    model, weights = fuse(
        skeleton(checkpoint.hparams), checkpoint.hparams, STORAGE["fp32"], "float32"
    )
    values: dict[str, bytes] = {}

    class Recorded:
        """The checkpoint; remembers what was read."""

        hparams, origin, identity = checkpoint.hparams, checkpoint.origin, checkpoint.identity
        tokenizer, notes = checkpoint.tokenizer, checkpoint.notes
        files, unused = checkpoint.files, checkpoint.unused

        def read(self, name: str) -> NDArray[np.float32]:
            array = checkpoint.read(name)
            values[name] = array.tobytes()
            return array

    attach([model], weights, Recorded(), work / WEIGHTS)
    assert isinstance(model, onnx.ModelProto)
    written = {path.name: path.read_bytes() for path in work.iterdir() if path.name != WEIGHTS}
    return Read(checkpoint.hparams, values, written)


@dataclass(frozen=True)
class Format:
    """A format: how to save it, and how to read what its files say, by other means."""

    save: Callable[[Path, LargerWeights], Path]
    values: Callable[[Path], Values] | None  # None: the format's checksums hold the weights


def _save_openai(folder: Path, weights: LargerWeights) -> Path:
    return save_openai(folder, values_of(weights), SHAPE)


def _save_huggingface(folder: Path, weights: LargerWeights) -> Path:
    return save_huggingface(folder, SHAPE, huggingface_tensors(values_of(weights)), shards=2)


def _save_fast(folder: Path, weights: LargerWeights) -> Path:
    """With `tokenizer.json` in place of `vocab.json` and `merges.txt`, without the prefix."""
    words = folder.with_name(f"{folder.name}-words")
    words.mkdir()
    write_vocabulary(words, *synthetic_vocabulary(SHAPE.n_vocab))
    save_huggingface(folder, SHAPE, huggingface_tensors(values_of(weights), prefix=""))
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    for name, body in tokenizer_files(words, Tokenizer.read(words)).items():
        (folder / name).write_text(json.dumps(body))
    return folder


def _save_npz(folder: Path, weights: LargerWeights) -> Path:
    return save_npz(folder, SHAPE, values_of(weights)).parent


def _safetensors(folder: Path) -> Values:
    """Name -> values of every tensor, straight from the bytes."""
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    found: Values = {}
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                count = math.prod(entry["shape"])
                at = 8 + length + entry["data_offsets"][0]
                if entry["dtype"] == "BF16":
                    wide = np.frombuffer(data, "<u2", count, at).astype(np.uint32) << 16
                    found[name] = wide.view(np.float32)
                else:
                    numbers = np.frombuffer(data, kinds[entry["dtype"]], count, at)
                    found[name] = numbers.astype(np.float32)
    return found


FORMATS = {
    "openai": Format(_save_openai, None),
    "huggingface": Format(_save_huggingface, _safetensors),
    "huggingface-fast": Format(_save_fast, _safetensors),
    "npz": Format(_save_npz, None),
}


def try_checkpoint(name: str, folder: Path, whole: Read, others: Read, work: Path) -> str:
    """Read a damaged checkpoint; returns `detected`, `harmless` or `as the files say`."""
    try:
        found = read(folder, work)
    except Gpt2rtError as error:
        assert_clear(error)
        return "detected"
    if found == whole:
        return "harmless"
    if found.values != whole.values:
        said = FORMATS[name].values
        wanted = others.values if said is None else _named(said(folder), found.hparams)
        assert found.values == wanted, "weights that nobody saved"
    if found.hparams != whole.hparams:
        assert _stated(folder) >= _numbers(found.hparams), "a shape that no file says"
    if found.tokenizer != whole.tokenizer:
        _check_tokenizer(folder, found.tokenizer)
    return "as the files say"


def assert_clear(error: Gpt2rtError) -> None:
    assert "\n" not in str(error), str(error)


def _named(said: Values, hparams: HParams) -> dict[str, bytes]:
    """What the file says of each variable, by OpenAI's names."""
    own = {name: next(iter(huggingface_tensors({name: NOTHING}))) for name in hparams.variables()}
    plain = {name.removeprefix("transformer."): array for name, array in said.items()}
    return {name: plain[o.removeprefix("transformer.")].tobytes() for name, o in own.items()}


def _check_tokenizer(folder: Path, found: Mapping[str, bytes]) -> None:
    """The vocabulary of the bundle is that of the files: the very bytes, or the same entries."""
    if (folder / "encoder.json").is_file():
        assert all((folder / name).read_bytes() == data for name, data in found.items())
        return
    fast = folder / "tokenizer.json"
    if fast.is_file():
        model = json.loads(fast.read_text())["model"]
        vocabulary, merges = model["vocab"], model["merges"]
    else:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        merges = (folder / "merges.txt").read_text().split("\n")
    if "tokenizer.json" in found:  # what is there now is another kind of vocabulary
        assert json.loads(found["tokenizer.json"])["model"]["vocab"] == vocabulary
        return
    assert json.loads(found["encoder.json"]).items() <= vocabulary.items()
    lines = found["vocab.bpe"].decode().split("\n")[1:]
    assert [m for m in lines if m] == [m for m in merges if m and not m.startswith("#version")]


def _numbers(hparams: HParams) -> set[int]:
    return {getattr(hparams, name) for name in NUMBERS}


def _stated(folder: Path) -> set[int]:
    """Every whole number in the JSON objects of a directory's configuration, and defaults."""
    found: set[int] = {12, 768, 1024, 50257}
    for name in ("hparams.json", "config.json"):
        if (folder / name).is_file():
            body = json.loads((folder / name).read_text())
            found |= {value for value in body.values() if type(value) is int}
    return found


# ---- bundles


def save_bundle(folder: Path, weights: LargerWeights, kind: str) -> Bundle:
    """A bundle of the small model; the standard graph needs TensorFlow."""
    if kind != "standard":
        return make_bundle(folder, weights, "int8")
    npz = save_npz(folder.with_name(f"{folder.name}-checkpoint"), SHAPE, values_of(weights))
    return pipeline.export(Recipe("fuzz", graph="standard", checkpoint=npz, output=folder))


def outputs(directory: Path) -> tuple[object, ...]:
    """What a bundle computes: tokens of a text and the greedy continuation, bit for bit."""
    model = GPT2.load(directory, threads=1)
    drawn = model.generate("a b", SamplingParams(temperature=0), Stopping(4, end_of_text=False))
    scores = np.asarray(model.new_slots(1).step([Part(0, 0, [1, 2, 3])]))
    return drawn.prompt_tokens, drawn.tokens, drawn.text, scores.tobytes()


def try_bundle(folder: Path, whole: tuple[object, ...]) -> str:
    try:
        found = outputs(folder)
    except Gpt2rtError as error:
        assert_clear(error)
        return "detected"
    assert found == whole, "other outputs than the whole bundle's"
    return "harmless"


def try_packed(file: Path, place: Path, whole: Mapping[str, bytes]) -> str:
    try:
        found = unpack(file, place)
    except Gpt2rtError as error:
        assert_clear(error)
        return "detected" if not place.exists() else "left something behind"
    assert contents(found.directory) == whole, "other files than were packed"
    return "harmless"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# ---- subjects


class DamagedSubject:
    """Something whole, and how one random damage to it turns out."""

    def __init__(self, name: str, home: Path) -> None:
        """Makes the whole thing and another of its kind in `home`."""
        self.name = name
        self._home = home
        self._whole, self._other = home / "whole", home / "other"
        if name in FORMATS:
            for folder, weights in ((self._whole, ARRAYS), (self._other, OTHERS)):
                FORMATS[name].save(folder, weights)
            self._expected = [
                read(place, home / f"{place.name}-read") for place in (self._whole, self._other)
            ]
            return
        kind = name.removeprefix("bundle-")
        bundles = [
            save_bundle(folder, weights, "fused" if kind == "packed" else kind)
            for folder, weights in ((self._whole, ARRAYS), (self._other, OTHERS))
        ]
        if kind == "packed":
            self._contents = contents(self._whole)
            for bundle in bundles:
                place = home / f"{bundle.directory.name}-packed"
                place.mkdir()
                pack(bundle, place / "x.gpt2rt")
            self._whole, self._other = home / "whole-packed", home / "other-packed"
        else:
            self._outputs = outputs(self._whole)

    def trial(self, seed: int) -> tuple[str, str]:
        """What was done, and how it turned out; an exception is a failure of the project's."""
        random = Random(f"{self.name} {seed}")
        place, work = self._home / f"{seed}", self._home / f"{seed}-work"
        shutil.copytree(self._whole, place)
        try:
            done = damage(place, self._other, random)
            return done, self._outcome(place, work)
        finally:
            shutil.rmtree(place)
            shutil.rmtree(work, ignore_errors=True)

    def _outcome(self, place: Path, work: Path) -> str:
        if self.name in FORMATS:
            return try_checkpoint(self.name, place, self._expected[0], self._expected[1], work)
        if self.name == "bundle-packed":
            if not (place / "x.gpt2rt").exists():
                return "detected"
            if contents(place) == contents(self._other):
                return "as the files say"  # another bundle, whole
            return try_packed(place / "x.gpt2rt", work, self._contents)
        return try_bundle(place, self._outputs)


SUBJECTS = (*FORMATS, "bundle-fused", "bundle-standard", "bundle-packed")
