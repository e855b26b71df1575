"""The bundle: one directory in which the exporter and the runtime meet. This module is the
contract.

    manifest.json   what the bundle is, and size and sha256 of every other file
    model.onnx      the graph; its weights are external data in
    weights.bin
    model.cuda.onnx the graph for CUDA over the same weights, where the precision has one
    embed.onnx      the graph of the hidden states, over the same weights; older bundles have none
    encoder.json    OpenAI's tokenizer files
    vocab.bpe
    tokenizer.json  in their place, where the vocabulary is no byte-level BPE: the library
                    `tokenizers` reads it
    special_tokens.json     where the vocabulary has other special tokens than OpenAI's
    defaults.json   settings that the model's makers would generate with, where they named some
    parity.json     how closely the bundle reproduced its checkpoint when it was made; none: nobody
                    looked (`gpt2rt export --no-verify`)

File names and the manifest are defined here and nowhere else; inputs and outputs of the graphs in
`gpt2rt.bundles.interface`. A directory is a bundle
once it has a manifest, which is therefore written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from io import BufferedReader
from pathlib import Path
from shlex import quote
from typing import Any

from gpt2rt.bundles.catalog import (
    ENCODER,
    MERGES,
    SPECIAL_TOKENS,
    TOKENIZER,
    bundles_directory,
    demo_bundle,
    names,
)
from gpt2rt.bundles.external_data import locations
from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadBundle, BadCheckpoint

FORMAT = "gpt2rt"
VERSION = 1

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
CUDA_GRAPH = "model.cuda.onnx"
EMBED = "embed.onnx"
WEIGHTS = "weights.bin"
PARITY = "parity.json"
DEFAULTS = "defaults.json"
GRAPHS = (GRAPH, CUDA_GRAPH, EMBED)

LARGEST_TEXT = 1 << 20  # bytes of a manifest or a parity report; they have a few thousand
LARGEST_GRAPH = 1 << 26  # bytes, without weights; that of 1542M has 200,000
CHUNK = 1 << 20  # bytes read at a time
LONGEST_NAME = 200  # bytes of a model's name: room for the rest within a file name's 255
MOST_NOTES = 64
LONGEST_NOTE = 1000  # characters


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of the bundle must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    `tokenizer` is `checkpoint`, `directory` or `synthetic`; `origin` says where the weights came
    from; `tools` maps the libraries that made the bundle to their versions; `notes` say how the
    checkpoint was read: arrays left out, zeros for biases, tokens that end a text besides.
    """

    model: str
    precision: str
    graph: str
    hparams: HParams
    tokenizer: str
    origin: str
    tools: Mapping[str, str]
    files: Mapping[str, FileRecord]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of all that the manifest says, so of every file's sha256, too."""
        return _digest(self._body())

    def to_json(self) -> str:
        """The text of `manifest.json`, `digest` included."""
        return json.dumps({**self._body(), "digest": self.digest}, indent=2) + "\n"

    def _body(self) -> dict[str, Any]:
        body = asdict(self)
        if not self.notes:  # as in bundles of before there were notes, whose digests stay
            del body["notes"]
        return {"format": FORMAT, "version": VERSION, **body}


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest is sound and whose files have the recorded sizes."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> Bundle:
        """Read the manifest and compare file sizes. Raises `BadBundle`; hashes are `check`'s."""
        bundle = cls(directory, read_manifest(directory / MANIFEST))
        for name, record in bundle.manifest.files.items():
            found = file_size(directory / name)
            if found != record.bytes:
                raise BadBundle(
                    f"{directory / name}: {found} bytes, not the {record.bytes} of the manifest; "
                    f"{bundle.way_out}"
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
    def way_out(self) -> str:
        """What to do about a damaged file of this bundle."""
        m = self.manifest
        if self.directory == demo_bundle():
            return "the package is damaged: install gpt2rt again"
        if m.model not in names():
            return "export it again from its checkpoint, with --force"
        option = f"--{m.precision}" if m.graph == "fused" else f"--graph {m.graph}"
        place = f" --output {quote(str(self.directory))}"
        if self.directory == bundles_directory() / self.name:
            place = ""
        return f"export it again: `gpt2rt export {m.model} {option}{place} --force`"

    @property
    def digest(self) -> str:
        """What tells this bundle from every other."""
        return self.manifest.digest

    @property
    def bytes(self) -> int:
        return sum(record.bytes for record in self.manifest.files.values())

    def check(self, names: Iterable[str] | None = None) -> None:
        """Compare the sha256 of the files (None: of all). Raises `BadBundle` at the first other,
        and for a graph that takes weights from any file but the bundle's own.
        """
        for name in self.manifest.files if names is None else names:
            path, wanted = self.directory / name, self.manifest.files[name]
            found = sha256(path, wanted.bytes)
            if found != wanted.sha256:
                raise BadBundle(
                    f"{path}: sha256 {found[:12]}…, not the {wanted.sha256[:12]}… of the manifest; "
                    f"{self.way_out}"
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
            raise BadBundle(f"{graph}: no ONNX graph ({error}); {self.way_out}") from None
        if elsewhere:
            place = elsewhere[0].decode(errors="backslashreplace")
            raise BadBundle(
                f"{graph}: takes weights from {place!a:.200}, no file of this bundle; do not use a "
                f"bundle that reads other files, or {self.way_out}"
            )

    @property
    def verified(self) -> bool:
        """Whether it was held against its checkpoint when it was made.

        The manifest says so by listing `parity.json`: a field of its own could contradict that.
        """
        return PARITY in self.manifest.files

    def parity(self) -> dict[str, Any]:
        """What the exporter measured, or {} where it was not asked to. Raises `BadBundle`."""
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
            raise BadBundle(f"{path}: no report of an export; {self.way_out}") from None
        return report


def is_name(text: str) -> bool:
    """Whether it may name a bundle: seen in a terminal, and one part of a path on any system."""
    plain = text.isprintable() and not set(text) & set("/\\:")
    return plain and 0 < len(text.encode()) <= LONGEST_NAME


def bundle_name(model: str, precision: str, graph: str) -> str:
    """The name by which such a bundle is asked for, and of its directory."""
    return f"{model}-{precision}" + ("" if graph == "fused" else f"-{graph}")


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises `BadBundle` for one that is no manifest, or was changed."""
    try:
        body = json.loads(read_small(path, LARGEST_TEXT).decode())
    except FileNotFoundError:
        raise BadBundle(
            f"{path.parent}: no {MANIFEST}, so no bundle; make one with `gpt2rt export`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadBundle(f"{path}: cannot be read as JSON ({error}); export again") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise BadBundle(f"{path}: not the manifest of a gpt2rt bundle")
    version = body.pop("version", None)
    if version != VERSION:
        raise BadBundle(
            f"{path}: bundle format {version!r:.50}, this gpt2rt reads {VERSION}; "
            "upgrade gpt2rt or export again"
        )
    digest = body.pop("digest", None)
    try:
        found = _digest({**body, "version": version})
    except RecursionError:
        raise BadBundle(f"{path}: nested too deeply for a manifest; export again") from None
    if digest != found:
        raise BadBundle(f"{path}: edited or damaged (its digest does not fit); export again")
    return _parse(body, path)


def _parse(body: dict[str, Any], path: Path) -> Manifest:
    del body["format"]
    wanted = {field.name for field in fields(Manifest)}
    notes = body.setdefault("notes", [])
    if set(body) != wanted:
        odd = ", ".join(sorted(wanted ^ set(body)))
        raise BadBundle(f"{path}: fields missing or unknown: {odd:.200}; export again")
    try:
        hparams = HParams.from_dict(body["hparams"], str(path))
        files = {name: FileRecord(**record) for name, record in body["files"].items()}
    except (AttributeError, TypeError, BadCheckpoint) as error:
        raise BadBundle(f"{path}: {error}; export again") from None
    named = ("model", "precision", "graph")
    wrong = [name for name in named if not (_is_text(body[name]) and is_name(body[name]))]
    wrong += [name for name in ("tokenizer", "origin") if not _is_text(body[name])]
    wrong += [n for n, f in files.items() if (type(f.bytes), type(f.sha256)) != (int, str)]
    tools = body["tools"]
    if type(tools) is not dict or not all(map(_is_text, (*tools, *tools.values()))):
        wrong.append("tools")
    if type(notes) is not list or len(notes) > MOST_NOTES or not all(map(_is_note, notes)):
        wrong.append("notes")
    if wrong:
        raise BadBundle(f"{path}: not what it should be: {', '.join(wrong)!a:.200}; export again")
    foreign = TOKENIZER in files and ENCODER not in files
    vocabulary = {TOKENIZER, SPECIAL_TOKENS} if foreign else {ENCODER, MERGES}
    missing = sorted({GRAPH, WEIGHTS, *vocabulary} - set(files))
    if missing or not all(map(_is_file_name, files)):
        raise BadBundle(f"{path}: lists no {', '.join(missing) or 'plain file names'}")
    # However few bits a weight has: a token takes at least 4 times n_embd of them.
    rows = hparams.n_vocab // 2 + hparams.n_ctx + hparams.n_layer
    if rows * hparams.n_embd > files[WEIGHTS].bytes:
        raise BadBundle(f"{path}: hparams of a larger model than {WEIGHTS} holds; export again")
    return Manifest(**{**body, "hparams": hparams, "files": files, "notes": tuple(notes)})


def _is_text(value: object) -> bool:
    """Whether it is a string that a terminal shows as it is."""
    return type(value) is str and value.isprintable()


def _is_note(value: object) -> bool:
    return _is_text(value) and value == noted(str(value))


def noted(text: str) -> str:
    """`text` as a manifest may hold it: of a bounded length, and shown by a terminal as it is."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= LONGEST_NOTE else f"{shown[: LONGEST_NOTE - 1]}…"


def _is_file_name(text: str) -> bool:
    return is_name(text) and text not in (".", "..")


def open_regular(path: Path) -> BufferedReader:
    """A regular file, or a link to one, open for reading. Raises `OSError`.

    A pipe, socket or device is refused: before it is opened, and again once it is, unblocked, in
    case that another took the file's place meanwhile.
    """
    _check_regular(path.stat().st_mode, path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def _check_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(0, "no regular file", str(path))


def file_size(path: Path) -> int:
    """Bytes of a bundle's file. Raises `BadBundle` where there is no regular file."""
    try:
        found = path.stat()
        _check_regular(found.st_mode, path)
    except OSError as error:
        raise BadBundle(f"{path}: {error.strerror}; export again") from None
    return found.st_size


def read_small(path: Path, most: int) -> bytes:
    """All of a regular file. Raises `OSError`, also where it has more than `most` bytes."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(0, f"more than {most:,} bytes", str(path))
    return data


def sha256(path: Path, most: int | None = None) -> str:
    """Hexadecimal sha256 of a regular file. Raises `BadBundle`, also where the file has more than
    `most` bytes by now: no more are read.
    """
    digest, done = hashlib.sha256(), 0
    try:
        with open_regular(path) as file:
            while part := file.read(CHUNK):
                digest.update(part)
                done += len(part)
                if most is not None and done > most:
                    raise OSError(0, f"more than the {most:,} bytes of the manifest")
    except OSError as error:
        raise BadBundle(f"{path}: {error.strerror}; export again") from None
    return digest.hexdigest()


def record(path: Path) -> FileRecord:
    """The record of a file as it now is."""
    return FileRecord(file_size(path), sha256(path))
