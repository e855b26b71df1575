"""The manifest of a bundle: the names of its files, and what `manifest.json` says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpt2rt.bundles.catalog import ENCODER, MERGES, SPECIAL_TOKENS, TOKENIZER
from gpt2rt.bundles.files import FileRecord, read_small
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import CHOICES, SCORE
from gpt2rt.bundles.precision import KV_TYPES
from gpt2rt.errors import BadBundle, BadCheckpoint, reason

FORMAT = "gpt2rt"
VERSION = 2

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
CUDA_GRAPH = "model.cuda.onnx"
PORTABLE_GRAPH = "model.portable.onnx"
EMBED = "embed.onnx"
WEIGHTS = "weights.bin"
PARITY = "parity.json"
DEFAULTS = "defaults.json"
CHAT_TEMPLATE = "chat_template.jinja"
TAILS = {kind: f"{kind}.cuda.onnx" for kind in (*CHOICES, SCORE)}  # they read CUDA_GRAPH's logits
# Hidden states on CUDA, and sums of them; without these files vectors come from the CPU.
STATES = {"states": "embed.cuda.onnx", "pool": "pool.cuda.onnx"}
CUDA_GRAPHS = (CUDA_GRAPH, *TAILS.values(), *STATES.values())
GRAPHS = (GRAPH, PORTABLE_GRAPH, EMBED, *CUDA_GRAPHS)
TOO_WIDE = "No graph for CUDA, whose float16 cannot hold this model's values"  # a note

LARGEST_TEXT = 1 << 20  # bytes of a manifest or a parity report; they have a few thousand
LARGEST_GRAPH = 1 << 26  # bytes, without weights; that of 1542M has 200,000
LONGEST_NAME = 200  # bytes of a model's name: room for the rest within a file name's 255
MOST_NOTES = 64
LONGEST_NOTE = 1000  # characters


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    `kv` is the dtype of keys and values on a CPU; `tokenizer` is `checkpoint`, `directory` or
    `synthetic`; `origin` says where the weights came from; `tools` maps the libraries that made the
    bundle to their versions; `notes` say how the checkpoint was read: arrays left out, zeros for
    missing biases, further tokens that end a text.
    """

    model: str
    precision: str
    graph: str
    kv: str
    hparams: HParams
    tokenizer: str
    origin: str
    tools: Mapping[str, str]
    files: Mapping[str, FileRecord]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The sha256 of the manifest's content, which includes the sha256 of every file."""
        return _digest(self._body())

    def to_json(self) -> str:
        """The text of `manifest.json`, `digest` included."""
        return json.dumps({**self._body(), "digest": self.digest}, indent=2) + "\n"

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_name(text: str) -> bool:
    """Whether `text` may name a bundle: printable, and one part of a path on any system."""
    plain = text.isprintable() and not set(text) & set("/\\:")
    return plain and 0 < len(text.encode()) <= LONGEST_NAME


def bundle_name(model: str, precision: str, graph: str) -> str:
    """The name of a bundle and of its directory, such as `117M-int8` or `117M-fp32-standard`."""
    return f"{model}-{precision}" + ("" if graph == "fused" else f"-{graph}")


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises `BadBundle` if it is not one, or was edited."""
    try:
        body = json.loads(read_small(path, LARGEST_TEXT).decode())
    except FileNotFoundError:
        raise BadBundle(
            f"{path.parent}: no {MANIFEST}, so no bundle; make one with `gpt2rt export`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadBundle(f"{path}: cannot be read as JSON ({reason(error)}); export again") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise BadBundle(f"{path}: not the manifest of a gpt2rt bundle")
    version = body.pop("version", None)
    if version != VERSION:
        newer = type(version) is int and version > VERSION
        remedy = "upgrade gpt2rt or export again" if newer else "export it again"
        raise BadBundle(
            f"{path}: bundle format {version!r:.50}, this gpt2rt reads {VERSION}; {remedy}"
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
    expected = {field.name for field in fields(Manifest)}
    if set(body) != expected:
        odd = ", ".join(sorted(expected ^ set(body)))
        raise BadBundle(f"{path}: fields missing or unknown: {odd:.200}; export again")
    try:
        hparams = HParams.from_dict(body["hparams"], str(path))
        files = {name: FileRecord(**record) for name, record in body["files"].items()}
    except (AttributeError, TypeError, BadCheckpoint) as error:
        raise BadBundle(f"{path}: {error}; export again") from None
    if wrong := _fields_of_wrong_type(body, files):
        name, found = next(iter(wrong.items()))
        raise BadBundle(
            f"{path}: not what it should be: {name!a:.80} is {found!a:.100}; export again"
        )
    _check_files(files, hparams, path)
    notes = tuple(body["notes"])
    return Manifest(**{**body, "hparams": hparams, "files": files, "notes": notes})


def _fields_of_wrong_type(
    body: Mapping[str, Any], files: Mapping[str, FileRecord]
) -> dict[str, object]:
    """The fields, and records of files, whose values have a wrong type or unprintable text."""
    named = ("model", "precision", "graph")
    wrong = [name for name in named if not (_is_text(body[name]) and is_name(body[name]))]
    wrong += [name for name in ("tokenizer", "origin") if not _is_text(body[name])]
    if body["kv"] not in KV_TYPES.values():
        wrong.append("kv")
    tools, notes = body["tools"], body["notes"]
    if type(tools) is not dict or not all(map(_is_text, (*tools, *tools.values()))):
        wrong.append("tools")
    if type(notes) is not list or len(notes) > MOST_NOTES or not all(map(_is_note, notes)):
        wrong.append("notes")
    records = (n for n, f in files.items() if (type(f.bytes), type(f.sha256)) != (int, str))
    return {name: body[name] for name in wrong} | {name: body["files"][name] for name in records}


def _check_files(files: Mapping[str, FileRecord], hparams: HParams, path: Path) -> None:
    """Raises `BadBundle` if a needed file is missing or the weights are too few for `hparams`."""
    foreign = TOKENIZER in files and ENCODER not in files
    vocabulary = {TOKENIZER, SPECIAL_TOKENS} if foreign else {ENCODER, MERGES}
    missing = sorted({GRAPH, WEIGHTS, *vocabulary} - set(files))
    if missing:
        raise BadBundle(f"{path}: lists no {', '.join(missing)}; export again")
    if odd := [name for name in files if not _is_file_name(name)]:
        raise BadBundle(
            f"{path}: lists {odd[0]!a:.80}, which is not the plain name of a file; export again"
        )
    # The least a model can take: 4 bits for each weight of the token embedding, and a byte for
    # each of n_embd in every position and layer.
    rows = hparams.n_vocab // 2 + hparams.n_ctx + hparams.n_layer
    if rows * hparams.n_embd > files[WEIGHTS].bytes:
        raise BadBundle(f"{path}: hparams of a larger model than {WEIGHTS} holds; export again")


def _is_text(value: object) -> bool:
    """Whether `value` is a string of printable characters."""
    return type(value) is str and value.isprintable()


def _is_note(value: object) -> bool:
    return _is_text(value) and value == noted(str(value))


def noted(text: str) -> str:
    """`text` as a note of a manifest: printable characters only, cut at `LONGEST_NOTE`."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= LONGEST_NOTE else f"{shown[: LONGEST_NOTE - 1]}…"


def _is_file_name(text: str) -> bool:
    return is_name(text) and text not in (".", "..")
