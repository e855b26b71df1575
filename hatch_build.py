"""Compiles the kernels when gpt2rt is installed or a wheel of it is built.

`GPT2RT_KERNELS=off` leaves them out. `GPT2RT_TARGET`, a platform tag of `gpt2rt/kernels/build.py`,
builds the wheel of another platform.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _build_module(root: str) -> ModuleType:
    """`gpt2rt/kernels/build.py`, imported without the package, whose dependencies are not here."""
    place = Path(root, "gpt2rt", "kernels", "build.py")
    spec = importlib.util.spec_from_file_location("gpt2rt_kernels_build", place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled library of kernels into the wheel, which is then for one platform."""

    def dependencies(self) -> list[str]:
        build = _build_module(self.root)
        return [] if _off() else build.requirements(_target(build))

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if _off():
            return
        build = _build_module(self.root)
        target = _target(build)
        native = target.triple is None
        place = Path(self.root, "gpt2rt/kernels" if native else f"build/{target.tag}")
        place.mkdir(parents=True, exist_ok=True)
        library = place / target.library
        try:
            build.compile_library(build.compiler_for(target), library)
        except build.NoCompiler as error:
            if not native:
                raise
            library.unlink(missing_ok=True)  # of other sources
            self.app.display_warning(f"gpt2rt is installed without its kernels: {error}")
            return
        except build.DoesNotCompile as error:
            error.add_note("GPT2RT_KERNELS=off installs gpt2rt without its kernels")
            raise
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{target.tag}"
        build_data["force_include"][str(library)] = f"gpt2rt/kernels/{target.library}"


def _off() -> bool:
    return os.environ.get("GPT2RT_KERNELS") == "off"


def _target(build: ModuleType) -> Any:
    tag = os.environ.get("GPT2RT_TARGET")
    return build.Target.of(tag) if tag else build.Target.here()
