"""Tokenizers whose tokens a constraint allows or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2rt import Tokenizer
from gpt2rt.bundles import catalog
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The demo model's."""
    return Tokenizer.read(catalog.demo_bundle())


@pytest.fixture(scope="session")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary of the 256 bytes and a few more tokens."""
    directory = tmp_path_factory.mktemp("bytes")
    write_vocabulary(directory, *synthetic_vocabulary(300))
    return Tokenizer.read(directory)


@pytest.fixture(scope="session")
def real(real_vocabulary: Path) -> Tokenizer:
    """GPT-2's."""
    return Tokenizer.read(real_vocabulary)


@pytest.fixture(params=["tokenizer", "bytewise", "real"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Tokenizer)
    return found
