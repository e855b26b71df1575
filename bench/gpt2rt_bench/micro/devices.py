"""Lists the devices that a provider has on this machine.

Run as `python -m gpt2rt_bench.micro.devices PROVIDER`.

It runs in a process of its own: the library of a plug-in may print, or end the process. Prints a
line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2rt.engine.plugins import devices
from gpt2rt.engine.provider_table import TABLE
from gpt2rt.errors import ProviderMissing

PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Devices:
    """A provider's devices, by the names that users write, in words; the problem if there is none.

    `tried`: whether the authors of gpt2rt have run the provider.
    """

    devices: Mapping[str, str]
    problem: str | None = None
    tried: bool = True


def other_devices() -> dict[str, Devices]:
    """The devices of all providers for this system but `cpu` and `cuda`."""
    wanted = [row for row in TABLE.values() if row.graph == "portable"]
    return {row.name: listed(row.name) for row in wanted if sys.platform in row.systems}


def listed(provider: str) -> Devices:
    """The devices of a provider of the table."""
    command = [sys.executable, "-m", "gpt2rt_bench.micro.devices", provider]
    tried = TABLE[provider].tried
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        return Devices(**json.loads(ended.stdout), tried=tried)
    except subprocess.TimeoutExpired:
        problem = f"nothing happened for {PATIENCE:.0f} seconds"
    except ValueError:
        problem = f"the process ended with exit code {ended.returncode}"
    return Devices({}, problem, tried)


def main(provider: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to both
    found: dict[str, Any]
    try:
        found = {"devices": {each.name: each.text for each in devices(TABLE[provider])}}
    except ProviderMissing as error:
        found = {"devices": {}, "problem": str(error)}
    print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
