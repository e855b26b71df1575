"""Writes the page as a folder that any host of static files can serve.

index.html, sw.js, model.json    the page, what keeps it, what it knows of its model
page/                            styles and scripts; most are those of `gpt2rt serve`
runtime/                         onnxruntime-web
model/                           the graph, the weights, the tokenizer
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gpt2rt.bundles import files
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import ENCODER, MERGES, SPECIAL_TOKENS
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.bundles.writing import check_space
from gpt2rt.errors import BundleExists, InvalidSetting
from gpt2rt.serving.bodies import CompletionBody
from gpt2rt_export.web import graph, runtime

ABOUT, INDEX, WORKER = "model.json", "index.html", "sw.js"
AT_ROOT = (INDEX, WORKER)
FOLDERS = ("page", "runtime", "model")
OWN = {*AT_ROOT, ABOUT, *FOLDERS}  # what is in a page's folder
# The page of `gpt2rt serve`, of which this one takes a part and the files that it needs.
SERVED = ("dom.js", "icon.svg", "layout.js", "page.css", "settings.js", "tokens.js", "write.js")
SECTION = re.compile(r'<section id="write"[^>]*>(.*?)</section>', re.DOTALL)
TIP = '<div id="tip" hidden></div>'
LIMITS = ("description", "minimum", "maximum", "exclusiveMinimum")
ROOM = 1 << 26  # bytes of all but the weights


def write(bundle: Bundle, directory: Path, package: Path, *, force: bool = False) -> bool:
    """Write the page of a bundle into a directory, whole or not at all; `package` is the runtime's.

    Returns whether there was anything to do: a page of the same bundle and version stays, unless
    `force` writes it anew. Raises `InvalidSetting` for a bundle that no browser runs, `BadBundle`,
    and `BundleExists` unless the directory is new, empty, or has nothing but an earlier page, which
    only `force` replaces.
    """
    check(bundle)
    if not force and _about(directory).get("version") == _version(bundle):
        return False
    if directory.exists() and not (directory.is_dir() and _replaceable(directory, force)):
        raise BundleExists(
            f"{directory}: exists already; choose another place with --output, or replace an "
            "earlier page with --force, where nothing else is beside it"
        )
    bundle.check()
    place = directory.resolve()  # a link stays
    place.parent.mkdir(parents=True, exist_ok=True)
    size = bundle.manifest.files[WEIGHTS].bytes + ROOM
    check_space(place.parent, size, "the page", "make room, or choose another place with --output")
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.partial-", dir=place.parent))
    try:
        _fill(work, bundle, package)
        work.chmod(0o755)  # mkdtemp's directories are private
        if place.exists():
            shutil.rmtree(place)
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def check(bundle: Bundle) -> None:
    """Raises `InvalidSetting` for a bundle that no browser runs."""
    graph.check(bundle)
    if ENCODER not in bundle.manifest.files:
        raise InvalidSetting(
            f"{bundle.name}: its tokenizer is run by the library `tokenizers`; a page has GPT-2's "
            "byte-level BPE only"
        )


def _replaceable(directory: Path, force: bool) -> bool:
    found = {path.name for path in directory.iterdir()}
    return not found or (force and found <= OWN and bool(_about(directory)))


def _about(directory: Path) -> dict[str, Any]:
    """What an earlier page there says of itself; {} if there is none."""
    try:
        read = json.loads(files.read_small(directory / ABOUT, 1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) and "version" in read else {}


def _fill(directory: Path, bundle: Bundle, package: Path) -> None:
    for name in FOLDERS:
        (directory / name).mkdir()
    written = graph.write(bundle, directory / "model")
    runtime.unpack(package, directory / "runtime", written.graphs)
    for name in (ENCODER, MERGES, SPECIAL_TOKENS):
        if name in bundle.manifest.files:
            shutil.copyfile(bundle.directory / name, directory / "model" / name)
    pages = _pages()
    for name, text in pages.items():
        if name != WORKER:
            (directory / name).write_text(text, encoding="utf-8")
    about = _known(bundle) | {
        "columns": written.columns,
        "tiles": written.tiles,
        "devices": {
            device: {"runtime": f"runtime/{runtime.MODULES[device]}", "graph": f"model/{name}"}
            for device, name in written.graphs.items()
        },
        "version": _version(bundle),
    }
    about["files"] = {name: asdict(_record(directory / name)) for name in sorted(_heavy(directory))}
    (directory / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    light = [*pages, ABOUT, *(f"runtime/{path.name}" for path in _parts(directory, ".mjs"))]
    listed = ", ".join(json.dumps(name) for name in light if name != WORKER)
    kept = "".join(files.sha256(directory / name, 1 << 30) for name in light if name != WORKER)
    version = hashlib.sha256(kept.encode()).hexdigest()
    worker = pages[WORKER].replace("/* version */", version).replace("/* files */", listed)
    (directory / WORKER).write_text(worker, encoding="utf-8")


def _heavy(directory: Path) -> list[str]:
    """The files that the page fetches itself, and shows how far it is."""
    return [
        *(f"runtime/{path.name}" for path in _parts(directory, ".wasm")),
        *(f"model/{path.name}" for path in (directory / "model").iterdir()),
    ]


def _parts(directory: Path, ending: str) -> list[Path]:
    """The runtime's files of a kind."""
    return sorted((directory / "runtime").glob("*" + ending))


def _record(path: Path) -> files.FileRecord:
    size = path.stat().st_size
    return files.FileRecord(size, files.sha256(path, size))


def _known(bundle: Bundle) -> dict[str, Any]:
    """What the page has to know of a model and its settings."""
    hparams = bundle.manifest.hparams
    return {
        "name": bundle.name,
        "precision": bundle.manifest.precision,
        "hparams": asdict(hparams),
        "kv_width": hparams.kv_width,
        "fields": _fields(),
    }


def _fields() -> dict[str, Any]:
    """The settings of a continuation, in the words of the server's endpoint."""
    schema = CompletionBody.model_json_schema()
    found = {}
    for name, field in schema["properties"].items():
        whole = field | next((one for one in field.get("anyOf", ()) if "type" in one), {})
        found[name] = {key: whole[key] for key in LIMITS if key in whole}
        found[name]["whole"] = whole.get("type") == "integer"
    found["max_tokens"] |= {"minimum": 1, "description": "The most new tokens."}
    return found


def _version(bundle: Bundle) -> str:
    """Changes with the bundle, the runtime and the page's own files."""
    parts = [bundle.digest, runtime.SHA512, *(text for text in _pages().values())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _pages() -> dict[str, str]:
    """Path -> text of the page's own files, of which the worker is not finished."""
    served = resources.files("gpt2rt.serving").joinpath("page")
    own = resources.files("gpt2rt_export.web").joinpath("page")
    found = {f"page/{name}": served.joinpath(name).read_text("utf-8") for name in SERVED}
    for file in own.iterdir():
        place = file.name if file.name in AT_ROOT else f"page/{file.name}"
        found[place] = file.read_text("utf-8")
    found[INDEX] = _index(found[INDEX], served)
    return dict(sorted(found.items()))


def _index(text: str, served: Traversable) -> str:
    """The page, with what it has from the one of `gpt2rt serve`."""
    section = SECTION.search(served.joinpath(INDEX).read_text("utf-8"))
    assert section is not None
    write = f'<section id="write" class="split" aria-label="Write">{section[1]}</section>'
    return text.replace("<!-- write -->", write).replace("<!-- tip -->", TIP)
