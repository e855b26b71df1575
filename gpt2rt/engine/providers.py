"""Opens ONNX Runtime sessions: execution provider, threads and optimisations.

A session runs on the requested provider, or an error says why not. ONNX Runtime itself would fall
back to the CPU with only a line in its log.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH, GRAPH, TAILS, TOO_WIDE
from gpt2rt.bundles.paths import native
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.checks import whole
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing, install_command
from gpt2rt.kernels.library import Kernels, has_kernels, kernels

if TYPE_CHECKING:
    import onnxruntime as ort

    from gpt2rt.engine.forks import ForkAwareSession

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}  # ONNX Runtime's names
MOST_THREADS = 1024
XQA = "ORT_ENABLE_XQA"  # the environment variable by which ONNX Runtime chooses attention kernels


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of a session. Raises `InvalidSetting` for an invalid `count`.

    `count` None is one for each physical core that this process may use. `spinning` threads wait
    for work in a loop, which is faster but occupies their cores; they do so only during a call.
    """

    count: int | None = None
    spinning: bool = True

    def __post_init__(self) -> None:
        if self.count is not None and not (whole(self.count) and 1 <= self.count <= MOST_THREADS):
            raise InvalidSetting(f"threads must be 1 to {MOST_THREADS}, not {self.count}")


def physical_cores() -> int:
    """The number of physical cores within the affinity mask and cgroup quota of this process.

    On other systems than Linux it is the number of logical cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1))
    cores = {_core(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota()))


def _core(cpu: int) -> tuple[str, str]:
    """The package and core of a logical processor; its own number if they are not known."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _quota() -> int:
    """The whole processors within the cgroup's quota (version 2); 65,536 without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16


def provider_for(bundle: Bundle, provider: str = AUTO) -> str:
    """The provider to run a bundle on, `cpu` or `cuda`; `auto` prefers CUDA if it is usable and
    loses nothing that the bundle was made for.

    Raises `InvalidSetting` for another name, `ProviderMissing` if `cuda` is not available or the
    bundle cannot run on it.
    """
    if provider not in (*PROVIDERS, AUTO):
        raise InvalidSetting(f"provider is {', '.join(PROVIDERS)} or {AUTO}, not {provider!r}")
    if provider == CPU:
        return CPU
    if provider == AUTO:
        return CUDA if better_on_cpu(bundle) is None and cuda_problem() is None else CPU
    if (unfit := unfit_for_cuda(bundle)) is not None:
        raise ProviderMissing(unfit)
    if (problem := cuda_problem()) is not None:
        raise ProviderMissing(f"CUDA cannot be had: {problem}")
    return CUDA


def unfit_for_cuda(bundle: Bundle) -> str | None:
    """Why a bundle cannot run on CUDA, whatever the machine, and what can; None: it can."""
    manifest = bundle.manifest
    if CUDA_GRAPH not in manifest.files:
        if TOO_WIDE in manifest.notes:
            return f"{bundle.name} cannot run on CUDA, whose float16 cannot hold its values"
        if manifest.graph != "fused":
            return (
                f"{bundle.name} cannot run on CUDA, for which only fused bundles have a graph; "
                f"`gpt2rt export {manifest.model} --{manifest.precision}` makes one"
            )
        return (
            f"{bundle.directory}: has no graph for CUDA, which a bundle of {manifest.precision} "
            f"gets today; {bundle.remedy}"
        )
    if not set(TAILS.values()) <= set(manifest.files):
        return (
            f"{bundle.directory}: its graph for CUDA was made before tokens were chosen by graphs "
            f"of their own; {bundle.remedy}"
        )
    return None


def better_on_cpu(bundle: Bundle) -> str | None:
    """Why a bundle is better run on the CPU, whatever the machine; None: it is not."""
    manifest = bundle.manifest
    precision = PRECISIONS.get(manifest.precision)
    if precision is not None and precision.rounded_on_cuda and TOO_WIDE not in manifest.notes:
        return (
            f"{bundle.name} runs on the CPU, since CUDA would round it to float16; "
            f"`gpt2rt export {manifest.model} --fp16` makes one for CUDA"
        )
    return unfit_for_cuda(bundle)


def passed_over(bundle: Bundle) -> str | None:
    """Why `auto` runs a bundle on the CPU though this machine has CUDA; None: it does not."""
    reason = better_on_cpu(bundle)
    return None if reason is None or cuda_problem() is not None else reason


def graph_of(bundle: Bundle, provider: str) -> Path:
    """The file of the bundle's graph for `cpu` or `cuda`."""
    return bundle.directory / (CUDA_GRAPH if provider == CUDA else GRAPH)


def provider_of(session: ort.InferenceSession) -> str:
    """The provider that a session runs on, `cpu` or `cuda`."""
    return next(name for name in PROVIDERS if PROVIDERS[name] == session.get_providers()[0])


def cuda_problem() -> str | None:
    """Why CUDA is not usable, and what to do about it; None: no problem was found."""
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
    if problem := driver_problem(driver, getattr(ort, "cuda_version", "")):
        return problem
    with redirect_stdout(io.StringIO()):  # it prints the libraries that it does not find
        ort.preload_dlls()
    try:
        for library in cuda_libraries().values():
            ctypes.CDLL(library)
    except OSError as error:
        return f"{error}; install CUDA's libraries: {install_command('cuda')}"
    return None


def driver_problem(driver: ctypes.CDLL, built: str) -> str | None:
    """Why the NVIDIA driver cannot run CUDA of the version `built`; None: it can.

    A driver runs its own version, older ones, and newer ones with the same major number.
    """
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
    """The shared libraries that ONNX Runtime's CUDA provider needs: common name -> file name.

    There are none if ONNX Runtime is built without CUDA. The provider's own library is not among
    them, since only ONNX Runtime can load it.
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


@functools.cache
def cuda_runtime() -> ctypes.CDLL:
    """The CUDA runtime library that ONNX Runtime uses. Raises `ProviderMissing`."""
    try:
        return ctypes.CDLL(cuda_libraries()["CUDA runtime"])
    except (KeyError, OSError) as error:
        raise ProviderMissing(
            f"CUDA's runtime library is missing ({error}); `gpt2rt doctor` says what else is"
        ) from error


class NativePath(os.PathLike[Any]):
    """A path that ONNX Runtime understands in every locale."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str | bytes:
        return native(self._path)


def session_options(threads: Threads, prepack: bool) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.count or physical_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal: other errors are raised as exceptions
    for name, on in {
        "session.intra_op.allow_spinning": threads.spinning,
        "session.force_spinning_stop": True,
        "session.disable_prepacking": not prepack,
        "session.record_ep_graph_assignment_info": True,
    }.items():
        options.add_session_config_entry(name, "1" if on else "0")
    return options


def kernels_for(graph: Path, provider: str) -> Kernels:
    """The kernels that compute a graph file's functions on a provider, if there are any."""
    return kernels() if provider == CPU and has_kernels(graph) else Kernels()


@contextmanager
def _attention(xqa: bool) -> Iterator[None]:
    """Whether sessions that are opened meanwhile use the XQA kernels for attention on CUDA.

    The flash kernels need fewer launches a step. The user's own setting stays.
    """
    if xqa or XQA in os.environ:
        yield
        return
    os.environ[XQA] = "0"
    try:
        yield
    finally:
        del os.environ[XQA]


def _providers(provider: str, stream: int | None) -> list[object]:
    """The providers of a session on `cpu` or `cuda`, with settings, as ONNX Runtime takes them."""
    if provider == CPU:
        return [PROVIDERS[CPU]]
    settings = {"enable_cuda_graph": "1", "use_tf32": "0"}
    if stream is not None:
        settings["user_compute_stream"] = str(stream)
    return [(PROVIDERS[CUDA], settings), PROVIDERS[CPU]]


def open_session(
    graph: Path,
    threads: Threads,
    provider: str = CPU,
    *,
    prepack: bool = True,
    fold: bool = True,
    xqa: bool = False,
    stream: int | None = None,
) -> ForkAwareSession:
    """Open a graph file in an ONNX Runtime session on `cpu` or `cuda`.

    Kernels of gpt2rt read the weights where the file is mapped. Without them, `prepack` gives the
    session its own copy of the weights, which makes decode steps fast; without that it opens at
    once, and is as fast for calls of many tokens. Without `fold` what a graph computes of its
    weights alone, as wider ones, is computed in every call and given back: it takes little memory.
    `xqa`: ONNX Runtime chooses the attention kernels on CUDA. `stream` is the address of the CUDA
    stream on which it computes (None: one of its own).

    Raises `BadBundle`, or `ProviderMissing` if ONNX Runtime cannot run the graph on the provider.
    """
    import onnxruntime as ort

    from gpt2rt.engine.forks import ForkAwareSession

    own = kernels_for(graph, provider)
    options = session_options(threads, prepack and own.path is None)
    options.enable_cpu_mem_arena = fold
    if own.path is not None:
        options.register_custom_ops_library(native(own.path))
    try:
        with _attention(xqa or provider != CUDA):
            session = ForkAwareSession(
                NativePath(graph),
                options,
                kernels=own.instructions,
                providers=_providers(provider, stream),
                disabled_optimizers=None if fold else ["ConstantFolding"],
                enable_fallback=0,  # otherwise it prints a message and runs on the CPU
            )
    except Exception as error:  # ONNX Runtime's errors have no common base
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
