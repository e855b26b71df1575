"""`gpt2rt export`: a checkpoint becomes a bundle, by the package `gpt2rt_export`."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2rt.bundles import catalog
from gpt2rt.bundles.paths import path_text
from gpt2rt.cli.commands.download import bars
from gpt2rt.cli.input.options import check_extra
from gpt2rt.cli.output.parity import show
from gpt2rt.cli.output.terminal import escaped, guard
from gpt2rt.errors import BadCheckpoint, InvalidSetting, UnknownModel

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gpt2rt_export.fetch.hub import HubModel

NEEDED = (
    "tensorflow",
    "tf2onnx",
    "onnx",
    "filelock",
    "google_crc32c",
    "httpx2",
    "safetensors",
    "socksio",
)
ONE_FILE = (".npz", ".pt", ".pth")  # checkpoints that are one file, called by its name


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="117M, 345M, 762M, 1542M (or 124M, ...), demo, or a checkpoint: a directory "
            "of Hugging Face's, OpenAI's or nanoGPT's files, an .npz file, nanoGPT's "
            "ckpt.pt, or hf://owner/model[@revision] of the Hugging Face Hub (extra hub)."
        ),
    ],
    fp32: Annotated[bool, typer.Option("--fp32", help="32-bit weights (the default).")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="16-bit weights; on CUDA 16-bit arithmetic, too.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights and arithmetic.")] = False,
    int4: Annotated[
        bool, typer.Option("--int4", help="4-bit weights: the smallest and, text by text, fastest.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Take MODEL's weights from this checkpoint.", show_default="downloaded"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The bundle's directory.", show_default="in the home directory"),
    ] = None,
    graph: Annotated[
        str, typer.Option(help="fused: fast, for gpt2rt. standard: plain ONNX, float32.")
    ] = "fused",
    kv: Annotated[
        str | None,
        typer.Option(
            help="Keys and values on a CPU: fp16, or fp32 (twice the memory).",
            show_default="fp32 with --fp32, else fp16",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier bundle.")] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The model's shape with random values.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of the random weights.", show_default="0")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="A directory with the tokenizer's files, OpenAI's or Hugging Face's.",
            show_default="the checkpoint's",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Hold the bundle against its checkpoint before it is published."),
    ] = True,
    parity_text: Annotated[
        Path | None,
        typer.Option(
            help="The text for that, of the model's own kind (chess, DNA, Chinese, ...).",
            show_default="the checkpoint's heldout.txt, else English prose",
        ),
    ] = None,
) -> None:
    """Export a GPT-2 checkpoint to a bundle that `gpt2rt generate` runs.

    Examples:

      gpt2rt export 117M --int8

      gpt2rt export 117M --fp16          (for CUDA)

      gpt2rt export ./my-fine-tune --int8

      gpt2rt export hf://owner/model --int8

      gpt2rt export 117M --checkpoint my-fine-tune --output my-bundle

      gpt2rt export 1542M --int8 --random-weights
    """
    asked = {"fp32": fp32, "fp16": fp16, "int8": int8, "int4": int4}
    chosen = [precision for precision, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        raise InvalidSetting(f"--{chosen[0]} and --{chosen[1]} exclude each other")
    if seed is not None and not random_weights:
        raise InvalidSetting("--seed is the seed of --random-weights")
    hub = _hub_model(model)
    name, own = (_bundle_name(hub.name, output), None) if hub else _named(model, output)
    if (own or hub) is not None and (checkpoint is not None or random_weights):
        raise InvalidSetting(f"{model} is a checkpoint itself: leave --checkpoint and such out")
    check_extra("exporting", NEEDED)
    from gpt2rt_export.recipe import Recipe

    recipe = Recipe(
        model=name,
        precision=chosen[0] if chosen else "fp32",
        graph=graph,
        kv=kv,
        checkpoint=own or checkpoint,
        tokenizer=tokenizer,
        random_seed=(seed or 0) if random_weights else None,
        output=output,
        force=force,
        verify=verify,
        parity_text=parity_text,
    )
    recipe.check_sources()
    recipe.check_destination()
    if hub is not None:
        from gpt2rt_export.fetch.hub import fetch

        fetched = fetch(hub)
        recipe = replace(recipe, checkpoint=fetched.directory, source=str(fetched.model))
    if (release := recipe.release) is not None:
        from gpt2rt_export.fetch.download import download

        with bars() as progress:
            download(release, catalog.checkpoint_directory(release.name), progress=progress)
    with shown_stages() as stages:
        stages.stage("Load TensorFlow")
        with quietly():
            from gpt2rt_export import pipeline

        bundle = pipeline.export(recipe, stages)
    made = bundle.name if output is None else bundle.directory
    if bundle.verified:
        show(bundle.parity())
    told = f"{bundle.bytes / 1e6:,.1f} MB{'' if verify else ', not verified'}"
    print(escaped(f"{bundle.directory}: {told}"))
    print(escaped(f"Try it: gpt2rt generate --model {shlex.quote(path_text(made))}"))


def _hub_model(model: str) -> HubModel | None:
    """The model of the Hugging Face Hub that is meant; None where none is."""
    if not model.startswith("hf:"):
        return None
    check_extra("exporting", NEEDED)
    from gpt2rt_export.fetch.hub import HubModel

    return HubModel.parse(model)


def _named(model: str, output: Path | None) -> tuple[str, Path | None]:
    """The model's name and, where `model` is a place, its checkpoint. Raises `UnknownModel`."""
    place = Path(model)
    try:
        return catalog.canonical(model), None
    except UnknownModel as error:
        if not place.exists() and place.name != model:
            raise BadCheckpoint(f"{model}: no such directory; name a checkpoint's") from None
        if not place.exists():
            raise UnknownModel(f"{error}; or name a checkpoint's directory") from None
    found = place.resolve()
    name = found.stem if found.suffix in ONE_FILE else found.name
    return _bundle_name(path_text(name), output), place


def _bundle_name(name: str, output: Path | None) -> str:
    """The name for a bundle of the user's own. Raises `InvalidSetting` for one that it cannot have
    in the home directory."""
    if output is None and (not name or name.startswith(".") or _is_taken(name)):
        raise InvalidSetting(f"a bundle cannot be called {name!r}; add --output DIR")
    return name or "model"


def _is_taken(name: str) -> bool:
    """Whether the name, or what stands before its first hyphen, is a released model's."""
    try:
        return bool(catalog.canonical(name.partition("-")[0]))
    except UnknownModel:
        return False


class Stages:
    """Shows each stage of an export with a bar and the time it took, on standard error."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._current: TaskID | None = None

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """Begin a stage of `total` units (None: unknown); returns what is told of units done."""
        self.end()
        task = self._current = self._bars.add_task(title, total=total)
        if not self._bars.console.is_terminal:
            self._bars.console.print(title)
        return lambda done: self._bars.update(task, advance=done)

    def end(self) -> None:
        """The current stage is done."""
        if self._current is not None:
            self._bars.update(self._current, total=1, completed=1)
            self._bars.stop_task(self._current)


@contextmanager
def quietly() -> Iterator[None]:
    """What libraries write past Python to standard error is shown only if all ends with an error.

    TensorFlow greets there, whatever its log level.
    """
    sys.stderr.flush()
    before = os.dup(2)
    with (
        os.fdopen(before, "w", encoding="utf-8", errors="replace") as shown,
        tempfile.TemporaryFile() as said,
    ):
        os.dup2(said.fileno(), 2)
        try:
            with redirect_stderr(guard(shown)):
                yield
        except BaseException:
            said.seek(0)
            guard(shown).write(said.read().decode("utf-8", "replace"))
            raise
        finally:
            shown.flush()
            os.dup2(before, 2)


@contextmanager
def shown_stages() -> Iterator[Stages]:
    from rich.progress import TimeElapsedColumn

    from gpt2rt.cli.output.consoles import progress

    with progress(TimeElapsedColumn()) as bars:
        stages = Stages(bars)
        yield stages
        stages.end()
