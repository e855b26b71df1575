"""The bundle: one directory with all that a model needs to run.

    manifest.json   what the bundle is, and size and sha256 of every other file
    model.onnx      the graph; its weights are external data in
    weights.bin
    model.cuda.onnx the graph for CUDA over the same weights; standard bundles have none
    model.portable.onnx  the graph for other execution providers; standard bundles have none
    embed.onnx      the graph of the hidden states, over the same weights; older bundles have none
    encoder.json    OpenAI's tokenizer files
    vocab.bpe
    tokenizer.json  in place of those two, where the vocabulary is not a byte-level BPE; it is read
                    by the library `tokenizers`
    special_tokens.json     where the vocabulary has other special tokens than OpenAI's
    chat_template.jinja  how a conversation is written, for models that were trained on them
    defaults.json   settings for generation that the model's makers recommend, where they did
    parity.json     how closely the bundle reproduced its checkpoint when it was exported; missing
                    after `gpt2rt export --no-verify`

The exporter writes bundles and the runtime reads them. Names of files and the manifest are defined
in `gpt2rt.bundles.manifest` (those of the tokenizer in `gpt2rt.bundles.catalog`), inputs and
outputs of the graphs in `gpt2rt.bundles.interface`. The exporter writes the manifest last, so a
directory with a manifest is a complete bundle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from gpt2rt.bundles import files, remembered, storage
from gpt2rt.bundles.catalog import (
    ENCODER,
    SPECIAL_TOKENS,
    bundles_directory,
    demo_bundle,
    names,
)
from gpt2rt.bundles.external_data import locations
from gpt2rt.bundles.files import file_size, is_broken_link, read_small
from gpt2rt.bundles.manifest import (
    GRAPHS,
    LARGEST_GRAPH,
    LARGEST_TEXT,
    MANIFEST,
    PARITY,
    Manifest,
    bundle_name,
    read_manifest,
)
from gpt2rt.bundles.paths import local
from gpt2rt.errors import BadBundle, reason


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, with a valid manifest and files of the recorded sizes."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> Bundle:
        """Open a bundle: read its manifest and compare the sizes of its files.

        Raises `BadBundle`. The files' sha256 are compared by `check`.
        """
        if is_broken_link(directory):
            raise BadBundle(
                f"{directory}: damaged: a link to what is not there, or to itself; remove the link "
                "and export again"
            )
        bundle = cls(directory, read_manifest(directory / MANIFEST))
        for name, record in bundle.manifest.files.items():
            found = file_size(directory / name)
            if found != record.bytes:
                raise BadBundle(
                    f"{directory / name}: {found} bytes, not the {record.bytes} of the manifest; "
                    f"{bundle.remedy}"
                )
        for name in (ENCODER, SPECIAL_TOKENS):
            if name not in bundle.manifest.files and (directory / name).exists():
                raise BadBundle(f"{directory / name}: no file of this bundle; remove it")
        return bundle

    @property
    def name(self) -> str:
        """Model, precision and an uncommon graph, such as `117M-int8` or `117M-fp32-standard`."""
        return bundle_name(self.manifest.model, self.manifest.precision, self.manifest.graph)

    @property
    def remedy(self) -> str:
        """What the user can do about a damaged file of this bundle, for error messages."""
        m = self.manifest
        if self.directory == demo_bundle():
            return "the package is damaged: install gpt2rt again"
        if self.directory.parent == storage.fetched_directory():
            return f"remove it: `gpt2rt models remove {storage.FETCHED}/{self.directory.name}`"
        if m.model not in names():
            return "export it again from its checkpoint, with --force"
        option = f"--{m.precision}" if m.graph == "fused" else f"--graph {m.graph}"
        place = f" --output {quote(str(self.directory))}"
        if self.directory == bundles_directory() / local(self.name):
            place = ""
        return f"export it again: `gpt2rt export {m.model} {option}{place} --force`"

    @cached_property
    def digest(self) -> str:
        """The sha256 of the manifest, which identifies the bundle's content."""
        return self.manifest.digest

    @property
    def bytes(self) -> int:
        """The size of all files but the manifest."""
        return sum(record.bytes for record in self.manifest.files.values())

    def check(self, names: Iterable[str] | None = None, *, again: bool = True) -> None:
        """Compare the sha256 of the files `names` (None: of all) with the manifest.

        Unless `again`, a file is not hashed if it was before and did not change since
        (`gpt2rt.bundles.remembered`).

        Raises `BadBundle` for a file that differs, and for a graph that reads weights from a file
        outside the bundle.
        """
        for name in self.manifest.files if names is None else names:
            path, wanted = self.directory / name, self.manifest.files[name]
            found = files.sha256(path, wanted.bytes) if again else remembered.sha256(path, wanted)
            if found != wanted.sha256:
                raise BadBundle(
                    f"{path}: sha256 {found[:12]}…, not the {wanted.sha256[:12]}… of the manifest; "
                    f"{self.remedy}"
                )
            if name in GRAPHS:
                self._check_locations(path)

    def _check_locations(self, graph: Path) -> None:
        own = {name.encode() for name in self.manifest.files}
        try:
            elsewhere = [
                place for place in locations(read_small(graph, LARGEST_GRAPH)) if place not in own
            ]
        except (OSError, ValueError, RecursionError) as error:
            raise BadBundle(f"{graph}: no ONNX graph ({reason(error)}); {self.remedy}") from None
        if elsewhere:
            place = elsewhere[0].decode(errors="backslashreplace")
            raise BadBundle(
                f"{graph}: takes weights from {place!a:.200}, no file of this bundle; do not use a "
                f"bundle that reads other files, or {self.remedy}"
            )

    @property
    def verified(self) -> bool:
        """Whether the bundle was compared with its checkpoint when it was exported.

        It was if the manifest lists `parity.json`.
        """
        return PARITY in self.manifest.files

    def parity(self) -> dict[str, Any]:
        """The parsed `parity.json`, or {} for an unverified bundle. Raises `BadBundle`."""
        if not self.verified:
            return {}
        self.check([PARITY])
        path = self.directory / PARITY
        try:
            report = dict(json.loads(read_small(path, LARGEST_TEXT).decode()))
            for name in ("relative", "top1") if "uncached" in report else ():
                if type(report["uncached"][name]) is not float:
                    raise TypeError
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            raise BadBundle(f"{path}: no report of an export; {self.remedy}") from None
        return report
