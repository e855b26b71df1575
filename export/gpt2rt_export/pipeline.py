"""Exports a bundle: runs every stage of a recipe and publishes the result by one rename."""

from __future__ import annotations

import glob
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from filelock import Timeout

from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import (
    CUDA_GRAPHS,
    GRAPH,
    MANIFEST,
    MOST_NOTES,
    PARITY,
    TOO_WIDE,
    Manifest,
    noted,
)
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.bundles.writing import check_space
from gpt2rt.errors import BadCheckpoint, BundleExists, Gpt2rtError, ParityFailure
from gpt2rt_export import model_tokenizer
from gpt2rt_export.chat_template import write_chat_template
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.generation_config import write_defaults
from gpt2rt_export.onnx_graph import targets
from gpt2rt_export.onnx_graph.convert import convert
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.genai import write_genai
from gpt2rt_export.onnx_graph.standard import standard
from gpt2rt_export.origin import origin_of
from gpt2rt_export.progress import NoProgress, Progress
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.smoothing import smoothed
from gpt2rt_export.sources import (
    Checkpoint,
    RandomCheckpoint,
    open_checkpoint,
)
from gpt2rt_export.verify import parity
from gpt2rt_export.verify.sample import Sample

ROOM = "make room, or choose another place with --output"
TOOLS = ("onnx", "onnxruntime", "onnxruntime-gpu", "tensorflow", "tensorflow-cpu", "tf2onnx")


def export(recipe: Recipe, progress: Progress | None = None) -> Bundle:
    """Make the bundle of `recipe` and return it.

    Raises a `Gpt2rtError`; nothing is changed then.
    """
    progress = progress or NoProgress()
    recipe.check_sources()
    recipe.check_destination()
    if recipe.parity_text is not None:
        Sample.choose(recipe.parity_text, None)  # a text that cannot be read fails at once
    checkpoint = read_checkpoint(recipe, progress)
    tokenizer = model_tokenizer.tokenizer_of(recipe.tokenizer, checkpoint)
    checkpoint = model_tokenizer.without_padding(checkpoint, tokenizer)
    with _publishing(recipe, bytes_needed(recipe, checkpoint.hparams)) as work:
        notes = [*checkpoint.notes]
        notes += model_tokenizer.write(tokenizer, checkpoint.hparams.n_vocab, work)
        if recipe.checkpoint is not None:
            notes += write_defaults(recipe.checkpoint, work)
            notes += write_chat_template(recipe.checkpoint, work)
        notes = [noted(text) for text in notes[: MOST_NOTES - 1]]  # `verify` may add one
        for note in notes:
            progress.stage(note)
        _graph(recipe, checkpoint, work, progress)
        if recipe.verify:
            notes += verify(recipe, checkpoint, work, progress)
        progress.stage("Publish")
        _manifest(recipe, checkpoint, tokenizer.origin, notes, work)
    return Bundle.open(recipe.destination)


# ---- the stages


def read_checkpoint(recipe: Recipe, progress: Progress) -> Checkpoint:
    """The checkpoint that a recipe names, downloaded where it is a release that is not there.

    Raises `BadCheckpoint` where its shape is not that of the release it is named after.
    """
    shape = _shape(recipe)
    if recipe.random_seed is not None and shape is not None:
        return RandomCheckpoint(shape, recipe.random_seed)
    place = recipe.checkpoint
    if place is None:
        place = (
            _downloaded(recipe.namesake, progress) if recipe.namesake else catalog.demo_checkpoint()
        )
    progress.stage("Read the checkpoint")
    checkpoint = open_checkpoint(place, with_tokenizer=recipe.tokenizer is None)
    if shape not in (None, checkpoint.hparams) and recipe.output is None:
        raise BadCheckpoint(
            f"{place}: {_difference(checkpoint.hparams, shape)}, unlike {recipe.model}; "
            "a model of another shape needs a place of its own: add --output DIR"
        )
    return checkpoint


def _difference(found: HParams, wanted: HParams | None) -> str:
    other = wanted.as_dict() if wanted else {}
    return ", ".join(f"{name} {v}" for name, v in found.as_dict().items() if v != other.get(name))


def _shape(recipe: Recipe) -> HParams | None:
    """The shape of the release or demo of that name; None for a name of the user's own."""
    if recipe.model == catalog.DEMO:
        return HParams.read(catalog.demo_checkpoint() / catalog.HPARAMS)
    return recipe.namesake.hparams if recipe.namesake else None


def _downloaded(release: catalog.Release, progress: Progress) -> Path:
    """The directory of a release's checkpoint; missing files are downloaded."""
    progress.stage(f"Look for the checkpoint of {release.name}")
    return download(release, catalog.checkpoint_directory(release.name)).directory


def _graph(recipe: Recipe, checkpoint: Checkpoint, work: Path, progress: Progress) -> None:
    """Write the graphs and their weights: trace, convert, fuse, smooth, attach."""
    hparams = checkpoint.hparams
    progress.stage("Trace in TensorFlow and convert to ONNX")
    converted = convert(hparams)
    if recipe.graph == "standard":
        model, weights = standard(converted, hparams)
        models = {GRAPH: model}
    else:
        progress.stage("Fuse")
        models, weights = targets.fused(converted, hparams, recipe.precision, recipe.kv_type)
        if STORAGE[recipe.precision].linear.integer:
            progress.stage("Smooth the channels")
            checkpoint = smoothed(checkpoint)
    total = sum(4 * math.prod(shape) for shape in hparams.variables().values())
    advance = progress.stage(f"Write {recipe.precision} weights", total)
    targets.write(models, weights, checkpoint, work, advance)
    if recipe.graph == "standard":
        write_genai(models[GRAPH], hparams, work)


def verify(recipe: Recipe, checkpoint: Checkpoint, work: Path, progress: Progress) -> list[str]:
    """Measure the bundle in `work`, and write the report; returns notes on it.

    The graphs for CUDA go where float16 cannot hold the model's values. Raises `ParityFailure`
    beyond the gate of the precision.
    """
    sample, notes = Sample.choose(recipe.parity_text, checkpoint.tokenizer), []
    report = parity.measure(work, checkpoint, recipe.graph, recipe.precision, progress, sample)
    if report.too_wide_for_cuda:
        report, notes = replace(report, cuda=None), [TOO_WIDE]
        progress.stage(TOO_WIDE)
        for name in CUDA_GRAPHS:
            (work / name).unlink()
    if failures := report.failures():
        raise ParityFailure(
            f"{recipe.precision} is not close enough to the checkpoint: {'; '.join(failures)}; "
            "the bundle was not published (with --no-verify it is)"
        )
    text = json.dumps(report.as_dict(), indent=2, allow_nan=False)
    (work / PARITY).write_text(text + "\n", encoding="utf-8")
    return notes


def _manifest(
    recipe: Recipe, checkpoint: Checkpoint, tokenizer: str, notes: list[str], work: Path
) -> None:
    """Write the manifest, after every other file: a directory that has one is complete."""
    manifest = Manifest(
        model=recipe.model,
        precision=recipe.precision,
        graph=recipe.graph,
        kv=recipe.kv_type,
        hparams=checkpoint.hparams,
        tokenizer=tokenizer,
        origin=origin_of(checkpoint.identity, recipe.source),
        tools=_versions(),
        files={path.name: record(path) for path in sorted(work.iterdir())},
        notes=tuple(notes),
    )
    (work / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# ---- publishing


def bytes_needed(recipe: Recipe, hparams: HParams) -> int:
    """Upper bound of the bundle's size in bytes: its weights, and 16 MB for all other files."""
    numbers = sum(math.prod(shape) for shape in hparams.variables().values())
    padding = hparams.kv_width / hparams.head_width
    return int(numbers * PRECISIONS[recipe.precision].bytes * padding) + (16 << 20)


def _restore(old: Path, destination: Path) -> None:
    """Put the earlier bundle back where an export was killed between its two renames."""
    if old.exists() and not destination.exists():
        old.rename(destination)


@contextmanager
def _publishing(recipe: Recipe, needed: int) -> Iterator[Path]:
    """A directory to work in that becomes the recipe's destination unless an error is raised.

    It is beside the destination, under a hidden name, so that a rename is enough. One export at a
    time may work for a destination; the files of a killed one are removed by the next. `needed`:
    the bytes that must be free on the disk beforehand.
    """
    destination = recipe.destination
    parent = destination.absolute().parent
    hidden = f".{destination.name}"
    old = parent / f"{hidden}.old"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with lock_of(destination).acquire(timeout=0):
            _restore(old, destination)
            for stale in (old, *parent.glob(f"{glob.escape(hidden)}.partial-*")):
                shutil.rmtree(stale, ignore_errors=True)
            check_space(parent, needed, "the bundle", ROOM)
            work = Path(tempfile.mkdtemp(prefix=f"{hidden}.partial-", dir=parent))
            try:
                yield work
                recipe.check_destination()
                work.chmod(0o755)  # mkdtemp's directories are private
                if destination.exists():
                    destination.rename(old)
                work.rename(destination)
            finally:
                _restore(old, destination)
                shutil.rmtree(work, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
    except Timeout:
        raise BundleExists(f"{destination}: another export is at work on it; wait for it") from None
    except OSError as error:
        place, reason = error.filename or destination, error.strerror or error
        raise Gpt2rtError(f"{place}: {reason}; the bundle was not made") from None
