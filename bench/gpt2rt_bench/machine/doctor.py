"""Diagnoses what this machine can do for gpt2rt and what is missing, a finding a subject."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

import onnxruntime as ort
import regex

from gpt2rt import GPT2
from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.library import Damaged
from gpt2rt.engine.memory import slot_bytes
from gpt2rt.engine.providers import cuda_libraries
from gpt2rt.errors import Gpt2rtError, install_command
from gpt2rt.kernels.library import Kernels, kernels
from gpt2rt_bench.machine.extras import EXTRAS
from gpt2rt_bench.machine.hardware import Machine, installed, limitation
from gpt2rt_bench.micro.devices import Devices, other_devices
from gpt2rt_bench.micro.opening import Opening, opening

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# Release of Unicode -> a letter that is new in it.
LETTERS = {
    "9": "\U000104b0",
    "10": "\U00011d00",
    "11": "\U00016e40",
    "12": "\U00010fe0",
    "13": "\U00010e80",
    "14": "\U00010570",
    "15": "\U0001e4d0",
    "15.1": "\U0002ebf0",
    "16": "\U000105c0",
    "17": "\U00016ea0",
    "18": "\U0003d000",
}

# bad: broken, and to be mended; note: it works, but is slow, or something optional is missing.
State = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on a subject, its state, and what to do about it (None: nothing)."""

    subject: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics card by NVIDIA's driver; memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Cuda:
    """CUDA on this machine.

    `built` is the version of CUDA that ONNX Runtime was built for (None: it has no CUDA);
    `driver` is NVIDIA's, `supports` the newest CUDA it can run; `missing` are shared libraries
    (None: not known).
    """

    built: str | None
    driver: str | None
    supports: str | None
    gpus: tuple[Gpu, ...]
    missing: tuple[str, ...] | None
    opened: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and the facts behind them."""

    machine: Machine
    providers: dict[str, Opening]
    devices: dict[str, Devices]
    cuda: Cuda
    models: tuple[str, ...]
    unicode: str
    findings: tuple[Finding, ...]

    @property
    def bad(self) -> bool:
        """Whether anything is to be mended."""
        return any(finding.state == "bad" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(models: Sequence[str] = ()) -> Diagnosis:
    """Diagnose this machine; opens each provider of the installed ONNX Runtime once.

    `models` are loaded, by name or directory, to tell how they run here.
    """
    machine = Machine.here()
    libraries = cuda_and_cudnn()
    providers = {}
    for name in ort.get_available_providers():
        providers[name] = opening(name, [*libraries.values()] if name == CUDA else [])
    cuda = _cuda(providers.get(CUDA))
    devices = other_devices()
    bundles = library.exported()
    unicode = unicode_release()
    findings = (
        *processor_findings(machine),
        kernels_finding(kernels()),
        memory_finding(machine),
        _runtime(machine),
        _letters(unicode),
        *_providers(providers),
        *cuda_findings(cuda, providers.get(CUDA)),
        *device_findings(devices),
        _models(bundles),
        _slots(bundles),
        *_damaged(bundles),
        *extras_finding(),
        *(finding for model in models for finding in model_findings(model)),
    )
    names = tuple(bundle.name for bundle in bundles if isinstance(bundle, Bundle))
    return Diagnosis(machine, providers, devices, cuda, names, unicode, findings)


def unicode_release() -> str:
    """The newest release of Unicode in `LETTERS` whose letters the library `regex` knows.

    GPT-2's tokenizer splits texts at letters and digits, so newer letters give other tokens.
    """
    known = [release for release, letter in LETTERS.items() if regex.match(r"\p{L}", letter)]
    return known[-1] if known else "before 9"


def _letters(unicode: str) -> Finding:
    newest = " or newer" if unicode == [*LETTERS][-1] else ""
    version = installed(["regex"]).get("regex", "of unknown version")
    found = f"letters and digits of Unicode {unicode}{newest} (regex {version})"
    return Finding("tokenizer", "good", found)


def cuda_and_cudnn() -> dict[str, str]:
    """The shared libraries of CUDA and cuDNN, under their common names; none without CUDA."""
    libraries = cuda_libraries()
    cudnn = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
    return libraries | {"cuDNN": cudnn} if libraries else {}


def _cuda(tried: Opening | None) -> Cuda:
    built = getattr(ort, "cuda_version", None) or None
    missing, opened = (None, False) if tried is None else (tried.missing, tried.opened)
    driver, supports, gpus = _driver()
    return Cuda(built, driver, supports, gpus, missing, opened)


def _driver() -> tuple[str | None, str | None, tuple[Gpu, ...]]:
    """NVIDIA's driver, the newest CUDA that it runs, its cards; nothing where there is none."""
    if find_spec("pynvml") is None:
        return None, None, ()
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, None, ()
    try:
        newest = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        gpus = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            card = pynvml.nvmlDeviceGetHandleByIndex(number)
            memory = pynvml.nvmlDeviceGetMemoryInfo(card).total
            gpus.append(Gpu(pynvml.nvmlDeviceGetName(card), memory))
        supports = f"{newest // 1000}.{newest % 1000 // 10}"
        return pynvml.nvmlSystemGetDriverVersion(), supports, tuple(gpus)
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def processor_findings(machine: Machine) -> Iterator[Finding]:
    cores = f"{machine.physical_cores or '?'} physical and {machine.logical_cores} logical cores"
    allowed = f"{machine.allowed_cores} allowed, {machine.threads} threads by default"
    where = f"{machine.processor} ({machine.architecture}), {cores}, {allowed}"
    if machine.physical_cores is None:
        yield Finding("processor", "good", where, extra("bench", "tells of physical cores, too"))
    else:
        yield Finding("processor", "good", where)
    if machine.instructions is None:
        remedy = extra("bench", "tells the instruction sets")
        yield Finding("instructions", "note", "not known", remedy)
        return
    sets = ", ".join(machine.instructions) or "none that matters"
    slow = machine.has("AVX2", "NEON") is False
    yield Finding("instructions", "note" if slow else "good", sets)
    for precision in ("int8", "fp16"):
        if note := limitation(precision, "cpu", machine):
            yield Finding(precision, "note", note)


def kernels_finding(found: Kernels) -> Finding:
    if found.problem is None:
        return Finding("kernels", "good", f"gpt2rt's own, for {found.instructions}")
    slower = f"{found.problem}; models run on ONNX Runtime's kernels, which is slower"
    return Finding("kernels", "note", slower, found.remedy)


def memory_finding(machine: Machine) -> Finding:
    if machine.memory is None or machine.free_memory is None:
        return Finding("memory", "note", "not known", extra("bench", "tells it"))
    free = f"{machine.memory / 1e9:.1f} GB, {machine.free_memory / 1e9:.1f} GB of it free"
    return Finding("memory", "good" if machine.free_memory > 1e9 else "note", free)


def _runtime(machine: Machine) -> Finding:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    both = {"onnxruntime", "onnxruntime-gpu"} <= set(machine.versions)
    found = f"{versions}; Python {machine.python}; {machine.system}"
    if both:
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        return Finding("versions", "bad", f"{found}; two packages of ONNX Runtime", remedy)
    return Finding("versions", "good", found)


def _providers(providers: dict[str, Opening]) -> Iterator[Finding]:
    for name, tried in providers.items():
        subject = name.removesuffix("ExecutionProvider")
        if tried.opened:
            yield Finding(subject, "good", "can be opened")
        else:
            state: State = "bad" if name == CPU else "note"
            yield Finding(subject, state, f"cannot be opened: {tried.reason}")


def device_findings(found: dict[str, Devices]) -> Iterator[Finding]:
    """The devices of each provider that others bring, or why there is none."""
    for provider, each in found.items():
        named = [f"{name} ({text})" if text else name for name, text in each.devices.items()]
        untried = "" if each.tried else "; not run by the authors of gpt2rt"
        if named:
            yield Finding(provider, "good", f"{', '.join(named)}{untried}")
        else:
            yield Finding(provider, "note", f"{each.problem}{untried}")


def cuda_findings(cuda: Cuda, tried: Opening | None) -> Iterator[Finding]:
    """The findings on the graphics card and on CUDA's libraries."""
    if find_spec("pynvml") is None:
        yield Finding("graphics card", "note", "not known", extra("bench", "asks NVIDIA's driver"))
    elif cuda.driver is None:
        remedy = "with an NVIDIA card: install its driver, see https://www.nvidia.com/drivers"
        yield Finding("graphics card", "note", "NVIDIA's driver was not found", remedy)
    else:
        cards = ", ".join(f"{gpu.name} ({gpu.memory / 1e9:.0f} GB)" for gpu in cuda.gpus)
        found = f"{cards or 'no card'}; driver {cuda.driver}, CUDA up to {cuda.supports}"
        if cuda.built and cuda.supports and _major(cuda.supports) < _major(cuda.built):
            found += f", where ONNX Runtime is built for {cuda.built}"
            yield Finding("graphics card", "bad", found, "update NVIDIA's driver")
        else:
            yield Finding("graphics card", "good" if cuda.gpus else "note", found)
    if tried is None:
        found = "the installed ONNX Runtime has no CUDA"
        yield Finding("CUDA libraries", "note", found, extra("cuda", "brings one that has"))
    elif cuda.missing:
        found = f"not found: {', '.join(cuda.missing)} (ONNX Runtime is made for CUDA {cuda.built})"
        yield Finding("CUDA libraries", "note", found, extra("cuda", "brings them"))
    elif cuda.missing is not None:
        yield Finding("CUDA libraries", "good", f"CUDA {cuda.built} and cuDNN 9 were found")


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _models(bundles: list[Bundle | Damaged]) -> Finding:
    names = [b.name for b in bundles if isinstance(b, Bundle) and not library.is_embedded(b)]
    if not names:
        return Finding("models", "note", "only the embedded demo", "gpt2rt export 117M --int8")
    return Finding("models", "good", ", ".join(names))


def _slots(bundles: list[Bundle | Damaged]) -> Finding:
    """The memory that each text of a batch needs at full length."""
    whole = [bundle for bundle in bundles if isinstance(bundle, Bundle)]
    costs = (
        f"{b.name} {slot_bytes(b.manifest.hparams, b.manifest.kv) / 1e6:.0f} MB" for b in whole
    )
    return Finding("a text of a batch", "good", f"up to {', '.join(costs) or '38 MB for 117M'}")


def _damaged(bundles: list[Bundle | Damaged]) -> Iterator[Finding]:
    for bundle in bundles:
        if isinstance(bundle, Damaged):
            yield Finding("models", "bad", bundle.error)


def model_findings(name: str) -> Iterator[Finding]:
    """How a model runs here, and each reason why it is slower than it could be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes say the same
            model = GPT2.load(name)
    except Gpt2rtError as error:
        yield Finding(name, "bad", str(error))
        return
    with model:
        runtime = model.runtime
        kernels = f", kernels for {runtime.kernels}" if runtime.kernels else ""
        where = f"{runtime.provider}, threads {runtime.threads}{kernels}"
        yield Finding(name, "good", f"runs on {where}; loaded in {model.load_ms / 1e3:.1f} s")
        for note in runtime.notes:
            yield Finding(name, "note", note)


def extras_finding() -> Iterator[Finding]:
    there = [name for name, needs in EXTRAS.items() if all(map(find_spec, needs))]
    rest = [name for name in EXTRAS if name not in there]
    found = f"{', '.join(there) or 'none'} installed"
    if rest:
        yield Finding("extras", "note", f"{found}; not {', '.join(rest)}", extra(",".join(rest)))
    else:
        yield Finding("extras", "good", found)


def extra(name: str, what: str = "") -> str:
    """The command that installs an extra, and its use in words."""
    command = install_command(name)
    return f"{command} {what}" if what else command
