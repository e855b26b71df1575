"""Where the graph for CUDA runs: on a device if there is one, else on the CPU provider."""

from __future__ import annotations

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.memory import CudaMemory, HostMemory
from gpt2rt.engine.providers import Threads, cuda_problem, graph_of, open_session

PROVIDER = "cpu" if cuda_problem() else "cuda"
MEMORY: type[HostMemory | CudaMemory] = HostMemory if PROVIDER == "cpu" else CudaMemory


def open_device(bundle: Bundle) -> Device:
    """A bundle's CUDA graph and its tails."""
    memory = MEMORY()
    session = open_session(graph_of(bundle, "cuda"), Threads(1), PROVIDER, stream=memory.stream)
    return Device(session, bundle.directory, bundle.manifest.hparams, memory)
