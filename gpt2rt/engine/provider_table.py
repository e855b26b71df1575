"""The table of execution providers: what each is called, needs, takes, and cannot do.

A provider is built into the installed ONNX Runtime, or a plug-in: a package of its own, whose
library is registered when it is asked for (`gpt2rt.engine.plugins`). Some are to be had either way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles.precision import PRECISIONS

ALL = tuple(PRECISIONS)
GPUS = ("linux", "win32")
EVERYWHERE = ("linux", "win32", "darwin")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session is opened with.

    Attributes:
        device: The device's name, as users write it.
        number: The device's number among those of its kind.
        built_in: Whether the provider is built into ONNX Runtime.
        threads: The threads that compute.
        precision: That of the bundle's weights.
        cache: A directory for what the provider compiles.
    """

    device: str
    number: int
    built_in: bool
    threads: int
    precision: str
    cache: Path


Options = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Provider:
    """A row of the table.

    Attributes:
        name: What users write.
        runtime_name: ONNX Runtime's name.
        graph: The kind of graph that it runs of a fused bundle: `fused`, `cuda` or `portable`.
        package: The package of ONNX Runtime that has it built in, or its plug-in's.
        plugin: The module of the plug-in; empty where there is none.
        extra: The extra of gpt2rt that installs it; empty where there is none.
        least_runtime: The oldest ONNX Runtime that its plug-in works with; major, minor.
        systems: The systems (`sys.platform`) for which there are packages.
        precisions: The bundles that it runs.
        few_shapes: Whether it compiles a program for every shape.
        caches: Whether it stores what it compiled.
        options: Its options for a session.
        needs: The hardware that it needs.
        limits: What it cannot do, in words; empty: nothing of note.
        tried: Whether the authors of gpt2rt have run it.
        most_elsewhere: The largest share of a graph's nodes that may run on the CPU in its place.
    """

    name: str
    runtime_name: str
    graph: str
    package: str
    plugin: str = ""
    extra: str = ""
    least_runtime: tuple[int, int] = (1, 24)
    systems: tuple[str, ...] = EVERYWHERE
    precisions: tuple[str, ...] = ALL
    few_shapes: bool = False
    caches: bool = False
    options: Callable[[Wish], Options] = lambda wish: {}
    needs: str = ""
    limits: str = ""
    tried: bool = True
    most_elsewhere: float = 0.1


WHOLE_ROW = 2**64 - 1  # OpenVINO's largest group of activations that share a scale


def openvino(wish: Wish) -> Options:
    """On processors float32 sums; with int8 weights activations are rounded row by row, as gpt2rt's
    kernels do. With 4-bit weights that would cost more than rounding the weights did.
    """
    device = wish.device.upper()
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        settings["INFERENCE_NUM_THREADS"] = str(wish.threads)
        groups = str(WHOLE_ROW if wish.precision == "int8" else 0)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = groups
    if not wish.built_in:
        settings["CACHE_DIR"] = str(wish.cache)
    options = {"load_config": json.dumps({device: settings})}
    own = {"device_type": device, "cache_dir": str(wish.cache)}
    return options | (own if wish.built_in else {})


def cuda(wish: Wish) -> Options:
    return {"device_id": str(wish.number), "enable_cuda_graph": "1", "use_tf32": "0"}


def tensorrt_rtx(wish: Wish) -> Options:
    return {"nv_runtime_cache_path": str(wish.cache)}


def directml(wish: Wish) -> Options:
    return {"device_id": str(wish.number)}


def coreml(wish: Wish) -> Options:
    units = {"cpu": "CPUOnly", "gpu": "CPUAndGPU", "npu": "CPUAndNeuralEngine"}
    return {
        "ModelFormat": "MLProgram",
        "MLComputeUnits": units.get(wish.device, "ALL"),
        "ModelCacheDirectory": str(wish.cache),
    }


HOST = "keys and values travel to the device at every step"

TABLE = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "fused", "onnxruntime", most_elsewhere=0),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "cuda",
            "onnxruntime-gpu",
            extra="cuda",
            systems=GPUS,
            options=cuda,
            most_elsewhere=0,
        ),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            "portable",
            "onnxruntime-ep-openvino",
            plugin="onnxruntime_ep_openvino",
            extra="openvino",
            systems=GPUS,
            caches=True,
            options=openvino,
            needs="an Intel device, or onnxruntime-openvino in place of onnxruntime",
        ),
        Provider(
            "webgpu",
            "WebGpuExecutionProvider",
            "portable",
            "onnxruntime-ep-webgpu",
            plugin="onnxruntime_ep_webgpu",
            extra="webgpu",
            # Older ones compute as well, but list only the nodes that are not on WebGPU.
            least_runtime=(1, 31),
            few_shapes=True,
            needs="a GPU with a driver for Vulkan, Metal or Direct3D 12",
            limits=f"{HOST}; int8 weights become floats at every step",
        ),
        Provider(
            "tensorrt-rtx",
            "NvTensorRTRTXExecutionProvider",
            "portable",
            "onnxruntime-ep-nv-tensorrt-rtx",
            plugin="onnxruntime_ep_nv_tensorrt_rtx",
            extra="tensorrt-rtx",
            systems=GPUS,
            precisions=("fp32", "fp16", "int8"),
            few_shapes=True,
            caches=True,
            options=tensorrt_rtx,
            needs="an NVIDIA RTX card, Ampere or later",
            limits=f"{HOST}; no int4",
            tried=False,
        ),
        Provider(
            "directml",
            "DmlExecutionProvider",
            "portable",
            "onnxruntime-directml",
            systems=("win32",),
            few_shapes=True,
            options=directml,
            needs="a GPU with Direct3D 12",
            limits=HOST,
            tried=False,
        ),
        Provider(
            "coreml",
            "CoreMLExecutionProvider",
            "portable",
            "onnxruntime",
            systems=("darwin",),
            precisions=("fp32", "fp16", "int8"),
            few_shapes=True,
            caches=True,
            options=coreml,
            needs="a Mac",
            limits=f"{HOST}; no int4",
            tried=False,
        ),
    )
}
