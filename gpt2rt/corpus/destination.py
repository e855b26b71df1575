"""Where a user wants the results of a corpus, as the name of the output says it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles.paths import path_text
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.names import KNOWN, form_of
from gpt2rt.errors import Gpt2rtError, InvalidSetting, reason

MANIFEST, REJECTS, PARTS = "_manifest.jsonl", "_rejects.jsonl", ".parts"


@dataclass(frozen=True, slots=True)
class Destination:
    """A file, or a directory of parts.

    Attributes:
        name: as the user has it, for messages.
        file: the file; None: a directory.
        directory: where parts and manifest are.
        form: of the parts, and of the file.
        compression: `gz`, `bz2`, `xz`, `zst`, or nothing.
    """

    name: str
    file: Path | None
    directory: Path
    form: str
    compression: str

    @classmethod
    def of(cls, name: str) -> Destination:
        """A directory if `name` is one, ends in `/`, or has no suffix; else a file by its suffix.

        The parts of a directory are of the form that its name ends in, or else JSON lines. Raises
        `InvalidSetting` for a form that there is not.
        """
        form, compression = form_of(name)
        place = Path(name)
        if form == "parquet" and compression:
            raise InvalidSetting(f"{name}: Parquet is compressed by itself; leave the suffix out")
        if name.endswith(("/", os.sep)) or not place.suffix or place.is_dir():
            return cls(name, None, place.absolute(), form or "jsonl", compression)
        if form is None:
            raise InvalidSetting(
                f"{name}: name a file that ends in {KNOWN}, or a directory, as `{name}/`"
            )
        file = place.resolve()  # a link stays one
        directory = file.with_name(f"{file.name}{PARTS}")
        return cls(name, file, directory, form, compression)

    @property
    def suffix(self) -> str:
        """The form and compression, as a name ends in them."""
        return f".{self.form}" + (f".{self.compression}" if self.compression else "")

    @property
    def manifest(self) -> Path:
        return self.directory / MANIFEST

    @property
    def rejects(self) -> Path:
        return self.directory / REJECTS

    def refusal(self, what: str) -> InvalidSetting:
        """The error that this is no output for a job."""
        return InvalidSetting(f"--output {self.name}: {what}")

    def failure(self, error: OSError) -> Gpt2rtError:
        """The error that this cannot be written."""
        return Gpt2rtError(
            f"--output {self.name}: {reason(error)}; what was done is kept, and the same command "
            "goes on once that is mended"
        )

    def check(self, corpus: Corpus) -> None:
        """Raises `InvalidSetting` for what is there and is no output, the input above all."""
        place = self.file or self.directory
        for file in corpus.files:
            with suppress(OSError):
                if place.samefile(file.path):
                    raise self.refusal("is the file of the texts; name another")
        if corpus.would_read(place):
            raise self.refusal("would lie among the texts; name a place elsewhere")
        if self.manifest.exists():
            return
        if self.file is not None and place.exists() and not place.is_file():
            raise self.refusal("is not a file; leave --output out for a pipe")
        if self.file is not None and place.exists() and place.stat().st_size:
            raise self.refusal("is no output of such a run; name another file, or remove it")
        if self.directory.exists() and not self.directory.is_dir():
            raise self.refusal("is not a directory; name another, or a file with a suffix")
        if self.directory.is_dir() and any(self.directory.iterdir()):
            where = path_text(self.directory)
            raise self.refusal(f"{where} has files, and no manifest of such a run is among them")
