"""Writes the graphs that travel to a machine with a device: `python -m gpt2rt_bench.gpu.prepare`.

A model of each size is exported with random weights; its graphs and manifest are kept, under 1 MB.
There `random_bundle` makes weights and a vocabulary again. It needs the extra `export`, and takes
some minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import GRAPHS, MANIFEST

MODELS = {"small": "117M", "large": "1542M"}


def strip(bundle: Bundle, directory: Path) -> None:
    """Write the bundle's graphs and manifest into a new directory."""
    directory.mkdir(parents=True)
    for name in (MANIFEST, *(name for name in GRAPHS if name in bundle.manifest.files)):
        shutil.copyfile(bundle.directory / name, directory / name)


def main() -> None:
    from gpt2rt_export.pipeline import export
    from gpt2rt_export.recipe import Recipe

    parser = argparse.ArgumentParser("gpt2rt_bench.gpu.prepare", description=__doc__)
    parser.add_argument("directory", type=Path, help="a new directory")
    parser.add_argument("--tiny", action="store_true", help="both as small as the demo, for --dry")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for size, model in MODELS.items():
            name, place = "demo" if given.tiny else model, Path(work) / size
            recipe = Recipe(name, "fp16", random_seed=0, output=place, verify=False)
            strip(export(recipe), given.directory / size)
    print(f"{given.directory}: ready; measure with python -m gpt2rt_bench.gpu --graphs DIR")


if __name__ == "__main__":
    main()
