"""What ONNX Runtime is asked for: execution provider, threads and optimisations.

A provider that was asked for is what runs, or an error says why not. ONNX Runtime itself would fall
back to the CPU and say so in its log only.
"""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from gpt2rt.bundles.bundle import CUDA_GRAPH, GRAPH, Bundle
from gpt2rt.engine.hugepages import on_huge_pages
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing

if TYPE_CHECKING:
    import onnxruntime as ort

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}  # ONNX Runtime's names
MOST_THREADS = 1024

# Read by ONNX Runtime when it opens a session. With AVX-512 plain attention takes half as long as
# its flash attention and, unlike that, gives the same bits wherever a text is cut
# (bench/RESULTS.md).
NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_opening = Lock()

# SkipLayerNormalization on CPU is slower than Add and LayerNormalization from a few rows on.
DISABLED_OPTIMISERS = ("SkipLayerNormFusion",)


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads of a session: `count` (None: one a physical core that this process may use).

    Spinning threads answer sooner and take the cores from everyone else while they wait; they spin
    during a call and never after it.
    """

    count: int | None = None
    spinning: bool = True

    def __post_init__(self) -> None:
        if self.count is not None and not 1 <= self.count <= MOST_THREADS:
            raise InvalidSetting(f"threads must be 1 to {MOST_THREADS}, not {self.count}")


def physical_cores() -> int:
    """Physical cores that this process may use, within its affinity mask and its cgroup's quota.

    Off Linux: the logical ones.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1))
    cores = {_core(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota()))


def _core(cpu: int) -> tuple[str, str]:
    """Package and core of a logical processor; itself where the kernel does not tell."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _quota() -> int:
    """Whole processors that a container's quota (cgroup v2) allows; very many where it has none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16


@cache
def has_avx512() -> bool:
    """Whether the processor has the instructions, as far as the system tells."""
    if os.name == "nt":
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(41))  # type: ignore[attr-defined,unused-ignore]
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@contextmanager
def _attention_for(provider: str) -> Iterator[None]:
    """The kind of attention of the session that is opened meanwhile; what the user chose stands."""
    with _opening:
        chosen = provider != CPU or NO_FLASH in os.environ or not has_avx512()
        if not chosen:
            os.environ[NO_FLASH] = "1"
        try:
            yield
        finally:
            if not chosen:
                del os.environ[NO_FLASH]


def provider_for(bundle: Bundle, provider: str = AUTO) -> str:
    """`cpu` or `cuda`: what `auto` means for this bundle, here. Raises `InvalidSetting` for a name
    that is none, `ProviderMissing` for CUDA where there is none or the bundle cannot use it.
    """
    if provider not in (*PROVIDERS, AUTO):
        raise InvalidSetting(f"provider is {', '.join(PROVIDERS)} or {AUTO}, not {provider!r}")
    if provider == CPU:
        return CPU
    usable = CUDA_GRAPH in bundle.manifest.files
    problem = cuda_problem() if usable or provider == CUDA else None
    if provider == AUTO:
        return CUDA if usable and problem is None else CPU
    if not usable:
        raise ProviderMissing(
            f"{bundle.name} cannot run on CUDA: only fused fp16 and int4 bundles have a graph for "
            f"it; `gpt2rt export {bundle.manifest.model} --fp16` makes one"
        )
    if problem is not None:
        raise ProviderMissing(f"CUDA cannot be had: {problem}")
    return CUDA


def graph_of(bundle: Bundle, provider: str) -> Path:
    """The file of the bundle's graph for `cpu` or `cuda`."""
    return bundle.directory / (CUDA_GRAPH if provider == CUDA else GRAPH)


def cuda_problem() -> str | None:
    """Why CUDA cannot be had, with the way out; None where all that can be seen is there."""
    import onnxruntime as ort

    if PROVIDERS[CUDA] not in ort.get_available_providers():
        return (
            f"this ONNX Runtime ({ort.__version__}) is built without it; "
            "install onnxruntime-gpu in its place (Linux or Windows, x86-64)"
        )
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine; use --provider cpu"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver sees no device; use --provider cpu"
    if problem := _driver_problem(driver, getattr(ort, "cuda_version", "")):
        return problem
    with redirect_stdout(io.StringIO()):  # it prints there what it does not find
        ort.preload_dlls()
    try:
        for library in cuda_libraries().values():
            ctypes.CDLL(library)
    except OSError as error:
        return f'{error}; install CUDA\'s libraries: pip install "gpt2rt[cuda]"'
    return None


def _driver_problem(driver: ctypes.CDLL, built: str) -> str | None:
    """A driver runs its own version of CUDA, older ones, and newer ones of the same major."""
    newest = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(newest))
    major, minor = newest.value // 1000, newest.value % 1000 // 10
    if not built or major >= int(built.partition(".")[0]):
        return None
    return (
        f"the NVIDIA driver runs CUDA up to {major}.{minor}, ONNX Runtime is built for {built}; "
        "update the driver"
    )


def cuda_libraries() -> dict[str, str]:
    """The shared libraries that ONNX Runtime's CUDA provider needs, under their common names; none
    where it is built without CUDA.

    The provider's own library is not for us to load: it takes from ONNX Runtime, while it loads,
    what only ONNX Runtime can have prepared.
    """
    import onnxruntime as ort

    major = (getattr(ort, "cuda_version", "") or "").partition(".")[0]
    if not major:
        return {}
    names = {
        "CUDA runtime": ("cudart", major),
        "cuBLAS": ("cublas", major),
        "cuBLASLt": ("cublasLt", major),
        "cuRAND": ("curand", "10"),
    }
    form = "{}64_{}.dll" if os.name == "nt" else "lib{}.so.{}"
    return {common: form.format(*name) for common, name in names.items()}


def cuda_runtime() -> ctypes.CDLL:
    """CUDA's runtime library, the one that ONNX Runtime computes with."""
    return ctypes.CDLL(cuda_libraries()["CUDA runtime"])


class _NativePath(os.PathLike[Any]):
    """A path as the system has it. ONNX Runtime takes strings for UTF-8, which a path need not be:
    in a locale without UTF-8 none beyond ASCII is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str | bytes:
        return str(self._path) if os.name == "nt" else os.fsencode(self._path)


def open_session(
    graph: Path, threads: Threads, provider: str = CPU, *, prepack: bool = True
) -> ort.InferenceSession:
    """An ONNX Runtime session for the graph file, on `cpu` or `cuda`. Raises `BadBundle`, or
    `ProviderMissing` where ONNX Runtime would run it on another one.

    With `prepack` it keeps its own copy of the weights in the kernels' order, which one-token steps
    want; without, it opens at once and reads them from the mapped file, which calls of many tokens
    hardly notice.
    """
    import onnxruntime as ort

    from gpt2rt.engine.forks import Session

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.count or physical_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised, and told by us
    spinning = "1" if threads.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    disabled = list(DISABLED_OPTIMISERS) if provider == CPU else []
    chosen: list[object] = [PROVIDERS[CPU]]
    if provider == CUDA:
        chosen.insert(0, (PROVIDERS[CUDA], {"enable_cuda_graph": "1"}))
    try:
        pages = on_huge_pages() if provider == CPU and prepack else nullcontext()
        with _attention_for(provider), pages:
            session = Session(
                _NativePath(graph),
                options,
                providers=chosen,
                disabled_optimizers=disabled,
                enable_fallback=0,  # it would tell on standard output, and go on without CUDA
            )
    except Exception as error:  # ONNX Runtime has a type per failure and no common base
        reason = " ".join(str(error).split())[:300]
        if provider == CUDA:
            raise ProviderMissing(
                f"{graph}: ONNX Runtime {ort.__version__} cannot run the graph on CUDA ({reason})"
            ) from error
        raise BadBundle(
            f"{graph}: ONNX Runtime {ort.__version__} cannot load the graph ({reason})"
        ) from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderMissing(
            f"{graph}: ONNX Runtime could not start {provider} and would have run on "
            f"{session.get_providers()[0]}; `gpt2rt doctor` says what is missing"
        )
    return session
