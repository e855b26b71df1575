"""What the actors of a cluster compute on."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

import ray

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.ray_data import shared
from gpt2rt.engine import providers
from gpt2rt.engine.providers import provider_for


def test_auto_is_on_a_cluster_what_it_is_on_a_machine(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run that goes on without the cluster makes the same bytes."""
    monkeypatch.setattr(providers, "cuda_problem", lambda: None)
    for gpus in (0.0, 2.0):
        monkeypatch.setattr(ray, "cluster_resources", lambda gpus=gpus: {"GPU": gpus})
        for bundle in tiny_bundles.values():
            wanted = provider_for(bundle, "auto") if gpus else "cpu"
            assert shared(Loading(provider="auto"), bundle).provider == wanted
            assert shared(Loading(provider="cuda"), bundle).provider == "cuda"
