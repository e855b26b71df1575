"""The models that OpenAI released: names, shapes, files; and the directories gpt2rt keeps them in.

Nothing here opens a file.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.paths import path_text
from gpt2rt.errors import UnknownModel

DEMO = "demo"
STATE = "checkpoint"  # TensorFlow's file with the checkpoint's file name prefix
HPARAMS = "hparams.json"
ENCODER = "encoder.json"
MERGES = "vocab.bpe"
SPECIAL_TOKENS = "special_tokens.json"
TOKENIZER = "tokenizer.json"  # in place of ENCODER and MERGES for other than byte-level BPE
TOKENIZER_FILES = (ENCODER, MERGES, TOKENIZER, SPECIAL_TOKENS)
DATA = "model.ckpt.data-00000-of-00001"
INDEX = "model.ckpt.index"
META = "model.ckpt.meta"
CHECKPOINT_FILES = (STATE, ENCODER, HPARAMS, DATA, INDEX, META, MERGES)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """The size in bytes and the hexadecimal sha256 of a published file."""

    bytes: int
    sha256: str


# Each sha256 was computed from a public copy of OpenAI's checkpoints (icemagno/ai-models on GitHub;
# it does not have the weights of 117M), and agrees with a second source:
#   encoder.json, vocab.bpe    OpenAI's tiktoken (tiktoken_ext/openai_public.py)
#   checkpoint, 117M           the checksums in MontrealAI/AGI-Alpha-Agent-v0; for the weights also
#                              the container image alexgshaw/gpt2-codegolf
#   345M                       the Git LFS pointers of hobg0blin/ganterbury-tales
#   1542M                      no other sha256; issue 245 of openai/gpt-2 quotes a checksum from the
#                              index, and this index contains it
# `hparams.json` needs none, since its values are checked. No copy of 762M was found.
SHARED = {
    ENCODER: KnownFile(
        1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
    MERGES: KnownFile(456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    STATE: KnownFile(77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"),
}
KNOWN_117M = {
    INDEX: KnownFile(5_215, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
    META: KnownFile(471_155, "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b"),
    DATA: KnownFile(
        497_759_232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"
    ),
}
KNOWN_345M = {
    INDEX: KnownFile(10_399, "4490e7b1f5ec0abfc1e111fcd27cdda7cb280c597ba0a885c364134e62ce43aa"),
    META: KnownFile(926_519, "06e1a92057d2a4fbdc483bd1f61a26cc274f1c999b84c6d9e9c50aa8d5ead44a"),
}
KNOWN_1542M = {
    INDEX: KnownFile(20_724, "3a968cd212647a6007ddf7d6c9f52c9b158d0e9aabc9206390709c37d4175e5e"),
    META: KnownFile(1_837_247, "0bba0140dbafca5282c11610908aebcfec35070973c87836a81b985d2f620817"),
}


@dataclass(frozen=True, slots=True)
class Release:
    """One of OpenAI's four sizes: its first name, its later name, its shape and its files.

    `data_bytes` is the size of the file with the weights. `known` has the files whose sha256 is
    known; the others are checked by their content.
    """

    name: str
    alias: str
    hparams: HParams
    data_bytes: int
    known: Mapping[str, KnownFile] = field(default_factory=lambda: SHARED)

    def size(self, file: str) -> int | None:
        """The size in bytes of one of `CHECKPOINT_FILES`; None: not known."""
        if file == DATA:
            return self.data_bytes
        return self.known[file].bytes if file in self.known else None

    @property
    def unpinned(self) -> tuple[str, ...]:
        """Files without any published checksum, so that only the server vouches for them.

        The weights need none if the index has one: it holds a checksum of each variable.
        """
        vouched = {*self.known, STATE, HPARAMS, *([DATA] if INDEX in self.known else ())}
        return tuple(name for name in CHECKPOINT_FILES if name not in vouched)


RELEASES = (
    Release(
        "117M",
        "124M",
        HParams(50257, 1024, 768, 12, 12),
        497_759_232,
        {**SHARED, **KNOWN_117M},
    ),
    Release(
        "345M",
        "355M",
        HParams(50257, 1024, 1024, 16, 24),
        1_419_292_672,
        {**SHARED, **KNOWN_345M},
    ),
    Release("762M", "774M", HParams(50257, 1024, 1280, 20, 36), 3_096_120_320),
    Release(
        "1542M",
        "1558M",
        HParams(50257, 1024, 1600, 25, 48),
        6_230_444_800,
        {**SHARED, **KNOWN_1542M},
    ),
)

# The names of the same four on the Hugging Face Hub.
HUGGING_FACE = {"gpt2": "117M", "gpt2-medium": "345M", "gpt2-large": "762M", "gpt2-xl": "1542M"}

# Current location first, then the former one.
DOWNLOAD_ROOTS = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models",
    "https://storage.googleapis.com/gpt-2/models",
)


def names() -> list[str]:
    """Every model name that can be exported, aliases included."""
    own = [name for release in RELEASES for name in (release.name, release.alias)]
    return [DEMO, *own, *HUGGING_FACE]


def canonical(name: str) -> str:
    """OpenAI's first name of a model (`117M` for `124M` or `gpt2`), or `demo`.

    Raises `UnknownModel`.
    """
    name = HUGGING_FACE.get(name.lower(), name)
    for release in RELEASES:
        if name.upper() in (release.name, release.alias):
            return release.name
    if name == DEMO:
        return DEMO
    close = difflib.get_close_matches(name.upper(), [n.upper() for n in names()], n=1, cutoff=0.5)
    hint = f"; did you mean {close[0].replace('DEMO', DEMO)}?" if close else ""
    raise UnknownModel(f"unknown model {path_text(name)!r}: there are {', '.join(names())}{hint}")


def release(name: str) -> Release | None:
    """The release called `name`, by any of its names; None for `demo`. Raises `UnknownModel`."""
    wanted = canonical(name)
    return next((release for release in RELEASES if release.name == wanted), None)


def home() -> Path:
    """The directory of all that is kept: `$GPT2RT_HOME`, else the user's cache directory."""
    chosen = os.environ.get("GPT2RT_HOME")
    return Path(os.path.expanduser(chosen or platformdirs.user_cache_dir("gpt2rt")))


def checkpoint_directory(name: str) -> Path:
    """The directory of a downloaded checkpoint in the home directory."""
    return home() / "checkpoints" / name


def bundles_directory() -> Path:
    """The directory of exported bundles in the home directory."""
    return home() / "bundles"


def demo_checkpoint() -> Path:
    """The directory of the embedded demo model's checkpoint, in OpenAI's format."""
    return Path(__file__).parents[1] / "demo" / "checkpoint"


def demo_bundle() -> Path:
    """The directory of the embedded demo model's bundle, in int8."""
    return Path(__file__).parents[1] / "demo" / "bundle"
