"""10,000 random settings and Unicode prompts: a text or a documented error, never a crash."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from any_settings import any_settings, check_settings
from gpt2rt import GPT2
from models import TINY, LargerWeights, make_bundle

COUNT = 10_000
Settings = dict[str, object]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        model = GPT2(make_bundle(Path(place) / "tiny", LargerWeights(TINY, 0, 12.0), "int8"))
        began = time.perf_counter()

        @any_settings(COUNT)
        def check(prompt: str | None, params: Settings, stopping: Settings) -> None:
            check_settings(model, prompt, params, stopping)

        check()
        print(f"{COUNT} random settings: no crash; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
