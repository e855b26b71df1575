"""The settings of an export, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles import catalog
from gpt2rt.bundles.manifest import MANIFEST, bundle_name, is_name
from gpt2rt.bundles.paths import local
from gpt2rt.bundles.precision import KV_TYPES, PRECISIONS
from gpt2rt.errors import BadCheckpoint, BadTokenizer, BundleExists, InvalidSetting

GRAPHS = ("fused", "standard")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of an export.

    `model`: a canonical name of the catalogue, or any other name for a `checkpoint` of its own.
    `kv`: the type of keys and values on a CPU, fp16 or fp32; None: the precision's own.
    `checkpoint`: a directory or file in any format of `sources`; None: the one in the home
    directory, downloaded if it is not there. `random_seed`: random weights in place of a
    checkpoint. `tokenizer`: a directory with the tokenizer's files, OpenAI's or Hugging Face's.
    `output`: the directory of the bundle; None: its place in the home directory. `force`: an
    earlier bundle there is replaced. Without `verify` the bundle is not compared with its
    checkpoint and has no `parity.json`. `parity_text`: the text to compare on; None: the
    checkpoint's `heldout.txt` or English prose. `source`: the address that the checkpoint was
    fetched from, for the manifest.

    Raises `InvalidSetting` for unknown choices and for choices that exclude each other.
    """

    model: str
    precision: str = "fp32"
    graph: str = "fused"
    kv: str | None = None
    checkpoint: Path | None = None
    tokenizer: Path | None = None
    random_seed: int | None = None
    output: Path | None = None
    force: bool = False
    verify: bool = True
    parity_text: Path | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for what, value, choices in (
            ("precision", self.precision, tuple(PRECISIONS)),
            ("graph", self.graph, GRAPHS),
            ("kv", self.kv or "fp16", tuple(KV_TYPES)),
        ):
            if value not in choices:
                raise InvalidSetting(f"{what} is {' or '.join(choices)}, not {value}")
        if not is_name(self.model):
            raise InvalidSetting(
                f"a bundle cannot be called {self.model!a:.80}; rename the checkpoint's directory"
            )
        if self.graph == "standard" and self.precision != "fp32":
            raise InvalidSetting(
                f"the standard graph is plain float32: use it without --{self.precision}"
            )
        if self.graph == "standard" and self.kv == "fp16":
            raise InvalidSetting("the standard graph is plain float32: use it without --kv fp16")
        if self.random_seed is not None and self.checkpoint is not None:
            raise InvalidSetting("random weights and a checkpoint exclude each other")
        if self.parity_text is not None and not self.verify:
            raise InvalidSetting("a text for parity and no verification exclude each other")
        if self.random_seed is not None and not 0 <= self.random_seed < 1 << 64:
            raise InvalidSetting(f"seed must be 0 to 2**64 - 1, not {self.random_seed}")

    @property
    def kv_type(self) -> str:
        """The dtype of keys and values on a CPU."""
        return KV_TYPES[self.kv or PRECISIONS[self.precision].kv]

    @property
    def namesake(self) -> catalog.Release | None:
        """The release with the model's name; None for `demo` and for a model of the user's own."""
        return next((r for r in catalog.RELEASES if r.name == self.model), None)

    @property
    def destination(self) -> Path:
        """The directory of the bundle."""
        name = local(bundle_name(self.model, self.precision, self.graph))
        return (self.output or catalog.bundles_directory() / name).resolve()

    def check_sources(self) -> None:
        """Raises `BadCheckpoint` or `BadTokenizer` where a named directory is missing."""
        if self.checkpoint is not None and not self.checkpoint.exists():
            raise BadCheckpoint(
                f"{self.checkpoint}: no such directory; it should hold a checkpoint"
            )
        if self.tokenizer is not None and not self.tokenizer.is_dir():
            raise BadTokenizer(
                f"{self.tokenizer}: no such directory; it should hold a tokenizer's files"
            )

    def check_destination(self) -> None:
        """Raises `BundleExists` where the bundle must not be written."""
        place = self.destination
        if place in (here := Path.cwd(), *here.parents):
            raise BundleExists(f"{place}: the working directory lies there; choose another place")
        if not place.exists():
            return
        if (place / MANIFEST).is_file():
            if not self.force:
                raise BundleExists(f"{place}: there is a bundle already; replace it with --force")
        elif place.is_file() or any(place.iterdir()):
            raise BundleExists(f"{place}: holds something else than a bundle; choose another place")

    @property
    def release(self) -> catalog.Release | None:
        """The release whose checkpoint must be in the home directory; None: none is needed."""
        given = self.checkpoint is not None or self.random_seed is not None
        return None if given else catalog.release(self.model)
