"""Small checkpoints, as the programs write them that people have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import small_huggingface
import small_openai
from checkpoints import huggingface_tensors, save_huggingface, save_openai
from small_openai import Save, Values


@pytest.fixture
def huggingface(tmp_path: Path) -> Path:
    """A directory of Transformers, to be damaged."""
    tensors = huggingface_tensors(small_huggingface.VALUES)
    return save_huggingface(tmp_path / "model", small_huggingface.SHAPE, tensors)


@pytest.fixture(scope="session")
def save() -> Save:
    """Writes variables with TensorFlow 1's Saver, as OpenAI did, and the files beside them."""
    pytest.importorskip("tensorflow")

    def save(folder: Path, values: Values, name: str = "model.ckpt", **options: object) -> Path:
        return save_openai(folder, values, small_openai.SHAPE, name, **options)

    return save


@pytest.fixture(scope="session")
def published(save: Save, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's files, of which a test may take a copy."""
    return save(tmp_path_factory.mktemp("checkpoint") / "model", small_openai.VALUES)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """OpenAI's files, to be damaged."""
    return Path(shutil.copytree(published, tmp_path / "model"))
