"""From a bundle back to the checkpoint that it was made of."""

from __future__ import annotations

import re
from pathlib import Path

from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Manifest
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.fetch.hub import HubModel, fetch
from gpt2rt_export.sources import Checkpoint, RandomCheckpoint, open_checkpoint, trimmed

FROM = ", from "


def origin_of(identity: str, source: str) -> str:
    """What a manifest says of the weights: what they are and, if they were fetched, where from."""
    return f"{identity}{FROM}{source}" if source else identity


def checkpoint_of(manifest: Manifest, given: Path | None = None) -> Checkpoint:
    """The checkpoint of the manifest's origin: in the place `given`, else where the model's name
    says that it lies. Raises `BadCheckpoint` where it is not there, or is another one.
    """
    random = re.fullmatch(r"random weights, seed (\d+)", manifest.origin)
    if random and given is None:
        return RandomCheckpoint(manifest.hparams, int(random[1]))
    wanted, _, source = manifest.origin.partition(FROM)
    place = given or _place(manifest.model, source)
    found = open_checkpoint(place, with_tokenizer=False)
    if (identity := found.identity) != wanted:
        raise BadCheckpoint(
            f"{place}: not what the bundle was made of, which is: {manifest.origin}; this is: "
            f"{identity}; name the right one with --checkpoint DIR"
        )
    found = trimmed(found, manifest.hparams.n_vocab)  # padding, as the export left it out
    if found.hparams != manifest.hparams:
        raise BadCheckpoint(f"{place}: the weights are the bundle's, but not the shape they say")
    return found


def _place(model: str, source: str) -> Path:
    if source:
        return fetch(HubModel.parse(source)).directory
    if model == catalog.DEMO:
        return catalog.demo_checkpoint()
    directory = catalog.checkpoint_directory(model)
    released = any(model == release.name for release in catalog.RELEASES)
    if released and directory.is_dir():
        return directory
    way_out = f"`gpt2rt download {model}`, or " if released else ""
    raise BadCheckpoint(
        f"{model}: its checkpoint is not in the home directory; {way_out}name it with "
        "--checkpoint DIR"
    )
