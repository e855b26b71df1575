"""onnxruntime-web: the npm package that runs the model in a browser.

It is fetched once, and never but in one version, whose sha512 is known; or it is a file that the
user names, as `npm pack onnxruntime-web@1.30.0` makes it.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from pathlib import Path

import httpx2 as httpx

from gpt2rt.bundles import catalog
from gpt2rt.errors import DownloadFailure, InvalidSetting, reason
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.fetch.network import Network
from gpt2rt_export.fetch.partial import Partial
from gpt2rt_export.fetch.transfer import Wanted, failure_of, fetch
from gpt2rt_export.progress import DownloadProgress

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
FILE = f"onnxruntime-web-{VERSION}.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{FILE}"
BYTES = 33_106_585
SHA512 = (  # as the registry has it
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
# Of each device. For WebGPU there is also `.jspi`, which is smaller, and not for every browser.
MODULES = {"wasm": "ort-wasm-simd-threaded", "webgpu": "ort-wasm-simd-threaded.asyncify"}
ENDINGS = (".mjs", ".wasm")


def runtime(given: Path | None, network: Network, progress: DownloadProgress) -> Path:
    """The package's file: the one that is `given`, else that of the home directory, or fetched.

    Raises `InvalidSetting` for a given file that is another one, `DownloadFailure`.
    """
    if given is not None:
        if not _is_right(given):
            raise InvalidSetting(
                f"{given}: not the file of {PACKAGE}; `npm pack {PACKAGE}` makes it"
            )
        return given
    place = catalog.home() / "runtimes" / FILE
    if not _is_right(place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with lock_of(place):
                _fetch(place, network, progress)
        except OSError as error:
            raise DownloadFailure(
                f"{place}: {reason(error)}; fetch {URL} by hand and name the file with --runtime"
            ) from None
    return place


def unpack(package: Path, directory: Path, devices: Iterable[str]) -> None:
    """Write the package's files for some devices into a directory."""
    names = [MODULES[device] + ending for device in devices for ending in ENDINGS]
    missing = {f"package/dist/{name}": name for name in names}
    with tarfile.open(package, "r:gz") as archive:
        for member in archive:  # by name, all of the package would be read
            if name := missing.pop(member.name, None):
                content = archive.extractfile(member)
                assert content is not None, "the sha512 says that it is a file"
                (directory / name).write_bytes(content.read())
            if not missing:
                return


def _fetch(place: Path, network: Network, progress: DownloadProgress) -> None:
    if _is_right(place):  # another process fetched it meanwhile
        return
    if network.offline:
        raise DownloadFailure(
            f"{place}: is not there, and offline nothing is fetched; put the file there that "
            f"`npm pack {PACKAGE}` makes, or name it with `gpt2rt web --runtime`"
        )
    wanted = Wanted(FILE, Partial(place), [(httpx.URL(URL),)], BYTES)
    if fetch([wanted], network, progress):
        raise failure_of([wanted])
    if not _is_right(wanted.partial.path):
        wanted.partial.restart()
        raise DownloadFailure(f"{URL}: not the file that it was; fetch {PACKAGE} by other means")
    wanted.partial.publish()


def _is_right(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != BYTES:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest() == SHA512
