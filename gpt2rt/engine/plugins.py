"""Finds execution providers, built-in ones and plug-ins, and the devices that they have here."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gpt2rt.engine.provider_table import TABLE, Provider
from gpt2rt.errors import InvalidSetting, ProviderMissing, install_command

if TYPE_CHECKING:
    import onnxruntime as ort

SEPARATOR = ":"  # between a provider and one of its devices
LONGEST_REASON = 300  # characters of ONNX Runtime's messages, whose ends say most


@dataclass(frozen=True, slots=True)
class ProviderDevice:
    """A device of a provider on this machine.

    `name` is what users write: `cpu`, `gpu`, `npu`, a second one `gpu.1`. `text` describes it.
    `handle` is ONNX Runtime's object; None for one of a built-in provider.
    """

    name: str
    text: str
    number: int = 0
    handle: ort.OrtEpDevice | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A provider and one of its devices; written `openvino:gpu`, or `openvino` for the first."""

    provider: Provider
    device: ProviderDevice

    def __str__(self) -> str:
        return f"{self.provider.name}{SEPARATOR}{self.device.name}"


def provider_named(text: str) -> tuple[Provider, str]:
    """The row of `openvino` or `openvino:gpu`, and the device (empty: the first one).

    Raises `InvalidSetting` for a name that is not in the table.
    """
    name, _, device = str(text).partition(SEPARATOR)
    if name not in TABLE:
        raise InvalidSetting(f"provider is {', '.join(TABLE)} or auto, not {text!r:.60}")
    return TABLE[name], device


def place_of(text: str) -> Place:
    """The provider and device that a text names.

    Raises `InvalidSetting` for an unknown name or a device that is not there, `ProviderMissing` if
    the provider cannot be had here.
    """
    provider, wanted = provider_named(text)
    found = devices(provider)
    for device in found:
        if wanted in ("", device.name):
            return Place(provider, device)
    there = ", ".join(f"{provider.name}{SEPARATOR}{device.name}" for device in found)
    raise InvalidSetting(f"{provider.name} has no device {wanted!r:.60} here; there is {there}")


def devices(provider: Provider) -> list[ProviderDevice]:
    """The devices of a provider on this machine, at least one. Raises `ProviderMissing`."""
    import onnxruntime as ort

    if built_in(provider):
        return _built_in(provider)
    if not provider.plugin:
        raise ProviderMissing(_not_built_in(provider, ort.__version__))
    register(provider)
    handles = _handles(provider)
    if not handles:
        raise ProviderMissing(
            f"{provider.name} finds no device on this machine; it needs {provider.needs}"
        )
    return _named(handles)


def built_in(provider: Provider) -> bool:
    """Whether the installed ONNX Runtime has a provider without a plug-in.

    A plug-in that is registered is available, too, but its devices name its library.
    """
    import onnxruntime as ort

    if provider.runtime_name not in ort.get_available_providers():
        return False
    return not any("library_path" in handle.ep_metadata for handle in _handles(provider))


def _handles(provider: Provider) -> list[ort.OrtEpDevice]:
    import onnxruntime as ort

    return [handle for handle in ort.get_ep_devices() if handle.ep_name == provider.runtime_name]


def _built_in(provider: Provider) -> list[ProviderDevice]:
    from onnxruntime.capi import _pybind_state

    if hasattr(_pybind_state, "get_available_openvino_device_ids") and provider.name == "openvino":
        names = [*map(str.lower, _pybind_state.get_available_openvino_device_ids())]
        return [ProviderDevice(name, f"OpenVINO's {name.upper()}") for name in names or ["cpu"]]
    if provider.name == "coreml":
        return [ProviderDevice(name, f"Core ML on {name}") for name in ("all", "gpu", "npu", "cpu")]
    return _named(_handles(provider)) or [
        ProviderDevice("cpu" if provider.name == "cpu" else "gpu", "the first")
    ]


def _named(handles: list[ort.OrtEpDevice]) -> list[ProviderDevice]:
    found: list[ProviderDevice] = []
    seen: Counter[str] = Counter()
    for handle in handles:
        kind = handle.ep_metadata.get("ov_device", handle.device.type.name).lower()
        number, seen[kind] = seen[kind], seen[kind] + 1
        text = handle.device.metadata.get("Description", "") or handle.device.vendor
        found.append(ProviderDevice(f"{kind}.{number}" if number else kind, text, number, handle))
    return found


@cache
def register(provider: Provider) -> None:
    """Make a plug-in known to ONNX Runtime, once in a process. Raises `ProviderMissing`."""
    import onnxruntime as ort

    if find_spec(provider.plugin) is None:
        raise ProviderMissing(
            f"{provider.name} is not installed: {way_out(provider)}; it needs {provider.needs}"
        )
    if runtime_version() < provider.least_runtime:
        wanted = ".".join(map(str, provider.least_runtime))
        raise ProviderMissing(
            f"{provider.name} needs ONNX Runtime {wanted} or later, this one is "
            f"{ort.__version__}; upgrade it: {way_out(provider)}"
        )
    try:
        library = importlib.import_module(provider.plugin).get_library_path()
        ort.register_execution_provider_library(provider.runtime_name, library)
    except Exception as error:  # of any package, and ONNX Runtime's have no common base
        raise ProviderMissing(
            f"{provider.package} cannot be used with ONNX Runtime {ort.__version__} "
            f"({reason_of(error)}); upgrade the older of the two"
        ) from error


def runtime_version() -> tuple[int, ...]:
    """The major and the minor version of the installed ONNX Runtime."""
    import onnxruntime as ort

    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def _not_built_in(provider: Provider, version: str) -> str:
    if sys.platform not in provider.systems:
        names = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}
        where = " or ".join(names[system] for system in provider.systems)
        return f"{provider.name} is for {where}"
    return (
        f"this ONNX Runtime ({version}) is built without {provider.name}; install "
        f"{provider.package} in its place"
    )


def way_out(provider: Provider) -> str:
    """The command that installs a provider."""
    return install_command(provider.extra) if provider.extra else f"pip install {provider.package}"


def reason_of(error: Exception) -> str:
    """An error of ONNX Runtime as one line, of which a long one keeps its end."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_REASON else f"… {text[-LONGEST_REASON:]}"
