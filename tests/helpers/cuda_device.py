"""Where the graph for CUDA runs: on a device if there is one, else on the CPU provider."""

from __future__ import annotations

from gpt2rt.engine.cuda_memory import CudaMemory, HostMemory
from gpt2rt.engine.providers import cuda_problem

PROVIDER = "cpu" if cuda_problem() else "cuda"
MEMORY: type[HostMemory | CudaMemory] = HostMemory if PROVIDER == "cpu" else CudaMemory
