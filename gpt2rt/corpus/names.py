"""What the name of a file says of its form and its compression."""

from __future__ import annotations

from pathlib import Path

FORMS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst"}
STDIN, STDIN_NAME = "-", "standard input"
KNOWN = f"{', '.join(FORMS)}, each but .parquet also with {', '.join(COMPRESSIONS)}"


def form_of(path: str | Path) -> tuple[str | None, str]:
    """The form by a file's suffix (None: by none that is known), and its compression or nothing."""
    name = Path(path).name.lower()
    suffix = Path(name).suffix
    compression = COMPRESSIONS.get(suffix, "")
    if compression:
        suffix = Path(name.removesuffix(suffix)).suffix
    return FORMS.get(suffix), compression


def hidden(name: str) -> bool:
    """Whether a name is for what is no data, as Arrow and Spark have it."""
    return name.startswith(("_", ".")) and name not in (".", "..")
