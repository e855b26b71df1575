"""Devices, or what stands in for one."""

from __future__ import annotations

import pytest

from cuda_device import open_device
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.device import Device
from gpt2rt_export.onnx_graph.cuda import CUDA


@pytest.fixture(params=sorted(CUDA))
def precision(request: pytest.FixtureRequest) -> str:
    """Each precision."""
    return str(request.param)


@pytest.fixture
def device(tiny_bundles: dict[str, Bundle], precision: str) -> Device:
    """The tiny model's, in one precision after the other."""
    return open_device(tiny_bundles[precision])
