"""Finds the checkpoint that a bundle was made of."""

from __future__ import annotations

import re
from pathlib import Path

from gpt2rt.bundles import catalog
from gpt2rt.bundles.manifest import Manifest
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.fetch.hub import HubModel, fetch
from gpt2rt_export.sources import Checkpoint, RandomCheckpoint, open_checkpoint, trimmed

FROM = ", from "


def origin_of(identity: str, source: str) -> str:
    """The origin for a manifest: the identity of the weights and, if fetched, their address."""
    return f"{identity}{FROM}{source}" if source else identity


def checkpoint_of(manifest: Manifest, given: Path | None = None) -> Checkpoint:
    """The checkpoint that a bundle with this manifest was made of.

    It is looked for in the place `given`, else in the home directory under the model's name, or
    fetched from the Hub where it is from there. Raises `BadCheckpoint` where it is missing or not
    the same; `DownloadFailure`.
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
    """Where a model's checkpoint is, by its name or its address on the Hub."""
    if source:
        return fetch(HubModel.parse(source)).directory
    if model == catalog.DEMO:
        return catalog.demo_checkpoint()
    directory = catalog.checkpoint_directory(model)
    released = any(model == release.name for release in catalog.RELEASES)
    if released and directory.is_dir():
        return directory
    remedy = f"`gpt2rt download {model}`, or " if released else ""
    raise BadCheckpoint(
        f"{model}: its checkpoint is not in the home directory; {remedy}name it with "
        "--checkpoint DIR"
    )
