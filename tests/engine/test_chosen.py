"""What `auto` takes: the provider that was measured, on the machine where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpt2rt import GPT2, Bundle
from gpt2rt.bundles.notes import MOST
from gpt2rt.engine import chosen as module
from gpt2rt.engine.chosen import NOTES, Preference, chosen, machine, remember
from gpt2rt.engine.provider_table import TABLE, Provider
from gpt2rt.engine.providers import Threads

STAND_IN = Provider("stand-in", "CPUExecutionProvider", "portable", "onnxruntime")


@pytest.fixture
def choice() -> Preference:
    return Preference("stand-in:cpu", {"cpu": 2.0, "stand-in:cpu": 1.5}, machine())


def test_auto_takes_what_was_chosen(
    home: Path, choice: Preference, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLE, STAND_IN.name, STAND_IN)
    bundle = tiny_bundles["int8"]
    assert chosen(bundle) is None
    assert GPT2(bundle, Threads(1)).provider == "cpu"
    assert remember(bundle, choice) == NOTES.place
    assert chosen(bundle) == choice
    assert GPT2(bundle, Threads(1)).provider == "stand-in:cpu"
    assert GPT2(bundle, Threads(1), "cpu").provider == "cpu"
    assert GPT2(tiny_bundles["fp32"], Threads(1)).provider == "cpu"
    remember(bundle, replace(choice, provider="cpu"))
    assert GPT2(bundle, Threads(1)).provider == "cpu"


def test_a_provider_that_is_gone_was_not_chosen(
    home: Path, choice: Preference, tiny_bundles: dict[str, Bundle]
) -> None:
    for gone in ("stand-in:cpu", "openvino:gpu.7", "", "auto"):
        remember(tiny_bundles["int8"], replace(choice, provider=gone))
        assert GPT2(tiny_bundles["int8"], Threads(1)).provider == "cpu"


def test_another_machine_has_chosen_nothing(
    home: Path, choice: Preference, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(tiny_bundles["int8"], choice)
    monkeypatch.setattr(module, "physical_cores", lambda: 999)
    assert chosen(tiny_bundles["int8"]) is None


@pytest.mark.parametrize("damage", ["", "[]", '{"a": ', '{"%s": 3}', '{"%s": {"provider": "cpu"}}'])
def test_damaged_notes_are_no_notes(
    damage: str, home: Path, choice: Preference, tiny_bundles: dict[str, Bundle]
) -> None:
    bundle, choice = tiny_bundles["int8"], replace(choice, provider="cpu")
    place = remember(bundle, choice)
    place.write_text(damage.replace("%s", bundle.manifest.digest))
    assert chosen(bundle) is None
    remember(bundle, choice)
    assert chosen(bundle) == choice


def test_the_oldest_are_forgotten(
    home: Path, choice: Preference, tiny_bundles: dict[str, Bundle]
) -> None:
    first, choice = tiny_bundles["int8"], replace(choice, provider="cpu")
    remember(first, choice)
    assert chosen(first) == choice
    for number in range(MOST):
        manifest = replace(first.manifest, model=f"model{number}")
        remember(replace(first, manifest=manifest), choice)
    assert chosen(first) is None
