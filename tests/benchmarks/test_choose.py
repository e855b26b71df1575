"""`gpt2rt bench --provider all` and `--choose`, over stand-ins that are the CPU by other names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("psutil")

from command_line import Command
from gpt2rt import GPT2, Bundle
from gpt2rt.engine.chosen import chosen
from gpt2rt.engine.provider_table import TABLE, Provider
from gpt2rt.engine.providers import Threads
from gpt2rt_bench import choose as module
from gpt2rt_bench.choose import choose, plan_of, wrong

STAND_IN = Provider("stand-in", "CPUExecutionProvider", "portable", "onnxruntime")
MISSING = Provider("missing", "NoSuchProvider", "portable", "no-such-package", needs="a moon")


@pytest.fixture(autouse=True)
def small_table(home: Path) -> Iterator[None]:
    whole = dict(TABLE)
    for name in set(TABLE) - {"cpu"}:
        del TABLE[name]
    TABLE.update({row.name: row for row in (STAND_IN, MISSING)})
    yield
    TABLE.clear()
    TABLE.update(whole)


def faked(plan: object, rounds: int, advance: object) -> list[SimpleNamespace]:
    """Rows in which the stand-in takes half the time of the CPU."""
    return [
        SimpleNamespace(
            result=SimpleNamespace(case=case),
            summary=SimpleNamespace(
                step_ms=SimpleNamespace(median=2.0 if own.provider == "cpu" else 1.0)
            ),
        )
        for case in plan.cases  # type: ignore[attr-defined]
        for own in [case.configuration]
    ]


def test_all_is_every_row_that_can_be_had(tiny_bundles: dict[str, Bundle]) -> None:
    plan = plan_of(str(tiny_bundles["int8"].directory), 1)
    assert [*plan.providers.values()] == ["cpu", "stand-in:cpu"]
    (reason,) = plan.left_out
    assert "on missing (this ONNX Runtime" in reason
    assert "without missing; install no-such-package" in reason


def test_the_fastest_is_chosen_and_taken(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run", faked)
    bundle = tiny_bundles["int8"]
    found = choose(plan_of(str(bundle.directory), 1))
    assert found.choice.provider == "stand-in:cpu"
    assert found.choice.step_ms == {"cpu": 2.0, "stand-in:cpu": 1.0}
    assert chosen(bundle) == found.choice
    assert GPT2(bundle, Threads(1)).provider == "stand-in:cpu"


def test_wrong_logits_do_not_count_however_fast(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run", faked)
    real = module.logits
    for factor, what in ((-1.0, "deviations"), (np.nan, "nan")):
        monkeypatch.setattr(
            module,
            "logits",
            lambda bundle, provider, by=factor: (
                real(bundle, provider) * (1 if provider == "cpu" else by)
            ),
        )
        found = choose(plan_of(str(tiny_bundles["fp32"].directory), 1))
        assert found.choice.provider == "cpu"
        assert any(what in reason for reason in found.left_out)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_right_logits_count(precision: str, tiny_bundles: dict[str, Bundle]) -> None:
    assert wrong(tiny_bundles[precision], "stand-in:cpu") is None
    TABLE["stand-in"] = replace(STAND_IN, precisions=())
    assert "takes bundles in" in str(wrong(tiny_bundles[precision], "stand-in"))


def test_the_command_line_tells_what_it_took(
    command: Command, tiny_bundles: dict[str, Bundle]
) -> None:
    del TABLE["stand-in"]  # a worker would not know it
    bundle = tiny_bundles["fp32"].directory
    ended = command("bench", bundle, "--choose", "--rounds", "1", "--threads", "1", "--json")
    assert [row["provider"] for row in ended.records] == ["cpu"]
    assert f"{bundle}: --provider auto takes cpu from now on" in ended.err
    assert chosen(tiny_bundles["fp32"]) is not None
