"""The bundles on this machine: opened by name or directory, and listed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from gpt2rt.bundles import catalog, fetching, storage
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import is_broken_link
from gpt2rt.bundles.manifest import bundle_name
from gpt2rt.bundles.paths import local, path_text
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.errors import BadBundle, UnknownModel

DEFAULT = "117M"

# The part of a bundle's name after the model -> the option of `gpt2rt export` that makes it.
EXPORTS = {precision: f"--{precision}" for precision in PRECISIONS}
EXPORTS["fp32-standard"] = "--graph standard"


def find(model: str | os.PathLike[str]) -> Bundle:
    """Open a bundle by name (`117M-int8`; `124M`: its best precision), by directory, or by the URL
    of a packed one, which is fetched unless it was before (`gpt2rt.bundles.fetching`).

    Raises `UnknownModel` if there is none, `BadBundle` if it is damaged; for a URL what `fetched`
    does.
    """
    if fetching.is_url(os.fspath(model)):
        return fetching.fetched(os.fspath(model))
    name = local(os.fspath(model))
    directory = _exported(name) or Path(name)
    if name and (_is_directory(directory) or is_broken_link(directory)):
        return Bundle.open(directory)
    if directory.suffix == ".gpt2rt" and directory.is_file():
        raise UnknownModel(f"{name}: a packed bundle; run `gpt2rt unpack {quote(name)}` first")
    raise UnknownModel(_missing(path_text(name)))


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not a valid file name, or in a directory that may not be read
        return False


def default() -> Bundle:
    """Open the default bundle: `$GPT2RT_MODEL`, else an exported 117M, else the embedded demo.

    Raises `UnknownModel`, `BadBundle`.
    """
    chosen = os.environ.get("GPT2RT_MODEL")
    if chosen:
        try:
            return find(chosen)
        except UnknownModel as error:
            raise UnknownModel(f"$GPT2RT_MODEL: {error}") from None
    directory = _exported(DEFAULT)
    return Bundle.open(directory or catalog.demo_bundle())


def names_of(bundle: Bundle) -> list[str]:
    """The names by which `find` opens this very bundle: its own, its model's, its directory's."""
    names = dict.fromkeys((bundle.name, bundle.manifest.model, bundle.directory.name))
    return [name for name in names if _exported(name) == bundle.directory]


def is_embedded(bundle: Bundle) -> bool:
    """Whether `bundle` is the demo that is part of the package."""
    return bundle.directory == catalog.demo_bundle()


@dataclass(frozen=True, slots=True)
class Damaged:
    """A directory with a bundle that cannot be used; `error` says why, in valid Unicode."""

    name: str
    directory: Path
    error: str


def exported() -> list[Bundle | Damaged]:
    """Every bundle of the home directory, and the embedded demo; damaged ones as `Damaged`."""
    home, demo = catalog.bundles_directory(), _opened(catalog.DEMO, catalog.demo_bundle())
    try:
        items = storage.bundles()
    except OSError as error:
        return [Damaged(home.name, home, f"{home}: {error.strerror}"), demo]
    return [*(_opened(item.name, item.directory) for item in items), demo]


def _opened(name: str, directory: Path) -> Bundle | Damaged:
    try:
        bundle = Bundle.open(directory)
        bundle.parity()
    except BadBundle as error:
        return Damaged(name, directory, path_text(str(error)))
    return bundle


def _exported(name: str) -> Path | None:
    """The directory of the bundle called `name`; None: there is none."""
    model, _, rest = name.partition("-")
    try:
        model, rest = catalog.canonical(model), rest.lower()
    except UnknownModel:
        return _own(name)
    names = [f"{model}-{rest}"] if rest else [bundle_name(model, p, "fused") for p in PRECISIONS]
    for candidate in names:
        directory = catalog.bundles_directory() / candidate
        if storage.claims(directory):
            return directory
    embedded = catalog.DEMO, ("", "int8")
    return catalog.demo_bundle() if model == embedded[0] and rest in embedded[1] else None


def _own(name: str) -> Path | None:
    """As `_exported`, for a name that is not one of OpenAI's or the demo's.

    None also if the working directory has a bundle of that name, which takes precedence.
    """
    if not name or Path(name).name != name or name.startswith(".") or storage.claims(Path(name)):
        return None
    names = [name, *(bundle_name(name, p, "fused") for p in PRECISIONS)]
    return next(filter(storage.claims, (catalog.bundles_directory() / n for n in names)), None)


def _missing(name: str) -> str:
    model, _, rest = name.partition("-")
    if os.sep in name:
        return f"{name}: no such directory"
    try:
        model = catalog.canonical(model)
    except UnknownModel as error:
        names = dict.fromkeys(b.name for b in exported() if isinstance(b, Bundle))
        return f"{error}; exported is {', '.join(names) or 'nothing'}; or name a bundle's directory"
    option = EXPORTS.get(rest.lower() or next(iter(PRECISIONS)))
    if option is None:
        kinds = ", ".join(f"{model}-{kind}" for kind in EXPORTS)
        return f"unknown model {name!r}: there can be {kinds}; or name a bundle's directory"
    return f"{name} is not exported yet; run `gpt2rt export {model} {option}`"
