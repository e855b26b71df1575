"""`gpt2rt verify`: what an export measures, once more and here, by the package `gpt2rt_export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2rt import GPT2
from gpt2rt.bundles import library
from gpt2rt.bundles.paths import path_text
from gpt2rt.cli import completion
from gpt2rt.cli.commands.export import quietly, shown_stages
from gpt2rt.cli.input import options
from gpt2rt.cli.input.options import check_extra
from gpt2rt.cli.output.parity import show
from gpt2rt.cli.output.printing import print_json
from gpt2rt.cli.output.terminal import escaped
from gpt2rt.errors import ParityFailure

NEEDED = ("tensorflow", "safetensors")


def verify(
    name: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE",
            help="A name (117M-int8, demo) or a bundle's directory.",
            autocompletion=completion.model_names,
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="What the bundle was made of: a directory, or an .npz file.",
            show_default="found by the bundle's manifest",
        ),
    ] = None,
    parity_text: Annotated[
        Path | None,
        typer.Option(
            help="The text that both read, of the model's own kind.",
            show_default="the checkpoint's heldout.txt, else English prose",
        ),
    ] = None,
    provider: options.Provider = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
) -> None:
    """Hold a bundle against its checkpoint: every file's hash, then TensorFlow's logits.

    Nothing is written: `parity.json` stays what was measured when the bundle was made. The exit
    code is 1 where the bundle is further off than its precision may be. With `--provider` the
    logits are those of the bundle's graph for it, computed there.

    Examples:

      gpt2rt verify demo

      gpt2rt verify 117M-int8 --json

      gpt2rt verify my-fine-tune --checkpoint ./my-fine-tune

      gpt2rt verify 117M-int8 --provider openvino
    """
    bundle = library.find(name)
    manifest = bundle.manifest
    check_extra("verifying", NEEDED)
    from gpt2rt_export.verify.gates import check_known, precision_on

    check_known(bundle)
    model = None if provider == "cpu" else GPT2(bundle, provider=provider)
    place = "cpu" if model is None else model.provider
    slots = None if model is None else model.runtime.slots(1)
    precision = precision_on(manifest.precision, place)
    with shown_stages() as stages:
        stages.stage("Check the hashes")
        bundle.check()
        stages.stage("Load TensorFlow")
        with quietly():
            from gpt2rt_export.origin import checkpoint_of
            from gpt2rt_export.verify import parity
            from gpt2rt_export.verify.sample import Sample

        stages.stage("Read the checkpoint")
        source = checkpoint_of(manifest, checkpoint)
        sample = Sample.choose(parity_text, source.tokenizer)
        report = parity.measure(
            bundle.directory, source, manifest.graph, precision, stages, sample, slots
        )
    failures = report.failures()
    if as_json:
        named = {"name": bundle.name, "precision": manifest.precision, "provider": place}
        found = {"passed": not failures, "failures": failures, **report.as_dict()}
        print_json(_finite({**named, **found, "directory": path_text(bundle.directory)}))
    else:
        show(report.as_dict())
    if failures:
        raise ParityFailure(f"{bundle.directory} on {place}: {'; '.join(failures)}")
    if not as_json:
        told = f"on {place} as close to its checkpoint as {precision} has to be"
        print(escaped(f"{bundle.directory}: {told}"))


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
