"""Recipe -> bundle: every stage in order, published whole by one rename or not at all."""

from __future__ import annotations

import glob
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from filelock import Timeout

from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import (
    GRAPH,
    MANIFEST,
    MOST_NOTES,
    PARITY,
    Bundle,
    Manifest,
    noted,
    record,
)
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.errors import BadCheckpoint, BundleExists, Gpt2rtError, ParityFailure
from gpt2rt_export import model_tokenizer
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.generation_config import write_defaults
from gpt2rt_export.onnx_graph import targets
from gpt2rt_export.onnx_graph.convert import convert
from gpt2rt_export.onnx_graph.genai import write_genai
from gpt2rt_export.onnx_graph.standard import standard
from gpt2rt_export.origin import origin_of
from gpt2rt_export.progress import Progress, Silent
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import (
    Checkpoint,
    RandomCheckpoint,
    open_checkpoint,
)
from gpt2rt_export.verify import parity
from gpt2rt_export.verify.sample import Sample

TOOLS = ("onnx", "onnxruntime", "onnxruntime-gpu", "tensorflow", "tensorflow-cpu", "tf2onnx")


def export(recipe: Recipe, progress: Progress | None = None) -> Bundle:
    """Make the bundle of `recipe`. Raises a `Gpt2rtError`; then nothing was changed."""
    show = progress or Silent()
    recipe.check_sources()
    recipe.check_destination()
    if recipe.parity_text is not None:
        Sample.choose(recipe.parity_text, None)  # a text that cannot be read fails at once
    checkpoint = _checkpoint(recipe, show)
    tokenizer = model_tokenizer.tokenizer_of(recipe.tokenizer, checkpoint)
    checkpoint = model_tokenizer.without_padding(checkpoint, tokenizer)
    with _publishing(recipe, _needed(recipe, checkpoint.hparams)) as work:
        notes = [*checkpoint.notes]
        notes += model_tokenizer.write(tokenizer, checkpoint.hparams.n_vocab, work)
        if recipe.checkpoint is not None:
            notes += write_defaults(recipe.checkpoint, work)
        notes = [noted(text) for text in notes[:MOST_NOTES]]
        for note in notes:
            show.stage(note)
        _graph(recipe, checkpoint, work, show)
        if recipe.verify:
            _verify(recipe, checkpoint, work, show)
        show.stage("Publish")
        _manifest(recipe, checkpoint, tokenizer.origin, notes, work)
    return Bundle.open(recipe.destination)


# ---- the stages


def _checkpoint(recipe: Recipe, show: Progress) -> Checkpoint:
    """The weights, and the shape that goes with the model's name."""
    shape = _shape(recipe)
    if recipe.random_seed is not None and shape is not None:
        return RandomCheckpoint(shape, recipe.random_seed)
    place = recipe.checkpoint
    if place is None:
        place = _downloaded(recipe.namesake, show) if recipe.namesake else catalog.demo_checkpoint()
    show.stage("Read the checkpoint")
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
    """What the model's name promises; None for a name of the user's own."""
    if recipe.model == catalog.DEMO:
        return HParams.read(catalog.demo_checkpoint() / catalog.HPARAMS)
    return recipe.namesake.hparams if recipe.namesake else None


def _downloaded(release: catalog.Release, show: Progress) -> Path:
    """The directory of a release's checkpoint, with whatever it lacked fetched."""
    show.stage(f"Look for the checkpoint of {release.name}")
    return download(release, catalog.checkpoint_directory(release.name)).directory


def _graph(recipe: Recipe, checkpoint: Checkpoint, work: Path, show: Progress) -> None:
    """Trace, convert, take the parts over, attach the weights."""
    hparams = checkpoint.hparams
    show.stage("Trace in TensorFlow and convert to ONNX")
    converted = convert(hparams)
    if recipe.graph == "standard":
        model, weights = standard(converted, hparams)
        models = {GRAPH: model}
    else:
        show.stage("Fuse")
        models, weights = targets.fused(converted, hparams, recipe.precision)
    total = sum(4 * math.prod(shape) for shape in hparams.variables().values())
    advance = show.stage(f"Write {recipe.precision} weights", total)
    targets.write(models, weights, checkpoint, work, advance)
    if recipe.graph == "standard":
        write_genai(models[GRAPH], hparams, work)


def _verify(recipe: Recipe, checkpoint: Checkpoint, work: Path, show: Progress) -> None:
    """Raises `ParityFailure` beyond the gate of the precision."""
    sample = Sample.choose(recipe.parity_text, checkpoint.tokenizer)
    report = parity.measure(work, checkpoint, recipe.graph, recipe.precision, show, sample)
    if failures := report.failures():
        raise ParityFailure(
            f"{recipe.precision} is not close enough to the checkpoint: {'; '.join(failures)}; "
            "the bundle was not published (with --no-verify it is)"
        )
    text = json.dumps(report.as_dict(), indent=2, allow_nan=False)
    (work / PARITY).write_text(text + "\n", encoding="utf-8")


def _manifest(
    recipe: Recipe, checkpoint: Checkpoint, tokenizer: str, notes: list[str], work: Path
) -> None:
    """Written last: a directory with a manifest is whole."""
    manifest = Manifest(
        model=recipe.model,
        precision=recipe.precision,
        graph=recipe.graph,
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


def _needed(recipe: Recipe, hparams: HParams) -> int:
    """Bytes that the bundle will take at most: its weights and, for the rest, 16 MB."""
    numbers = sum(math.prod(shape) for shape in hparams.variables().values())
    padding = hparams.kv_width / hparams.head_width
    return int(numbers * PRECISIONS[recipe.precision].bytes * padding) + (16 << 20)


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise Gpt2rtError(
            f"{directory}: {free / 1e6:,.1f} MB free, the bundle needs up to {needed / 1e6:,.1f} MB"
            "; make room, or choose another place with --output"
        )


def _restore(old: Path, destination: Path) -> None:
    """Put the earlier bundle back where an export ended between its two renames."""
    if old.exists() and not destination.exists():
        old.rename(destination)


@contextmanager
def _publishing(recipe: Recipe, needed: int) -> Iterator[Path]:
    """A directory to work in that becomes the recipe's destination when all has gone well.

    It lies beside the destination, under a hidden name, so that a rename suffices. One export at a
    time may work for a destination; what a killed one left is cleared by the next. `needed` is the
    space that there has to be beforehand, in bytes.
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
            _check_space(parent, needed)
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
