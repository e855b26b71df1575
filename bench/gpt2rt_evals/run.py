"""Runs a task and keeps its records on disk, so that a killed run can be resumed.

Examples are answered in chunks of fixed bounds, and each chunk is one line appended to the record
file and flushed to the disk. So the result does not depend on where a run was killed: a line that
is not whole does not count, and its chunk is answered again. The name of the file has a digest of
all that the records depend on: model, task, data, settings and version.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gpt2rt
from gpt2rt.errors import BadData
from gpt2rt_evals.metrics import Figure, Record, measure
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of consecutive examples, the seconds they took, the tokens read and generated."""

    records: list[Record]
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A finished task: its records in order, seconds and tokens spent, and its figures by name."""

    task: EvalTask
    records: list[Record]
    seconds: float
    tokens: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class EvalRun:
    """One task on one model; `model_id` is a digest that identifies the model."""

    task: EvalTask
    data: Any
    model_id: str
    settings: EvalSettings

    @property
    def identity(self) -> dict[str, Any]:
        """All that the records depend on, as JSON has it."""
        return {
            "task": self.task.name,
            "model": self.model_id,
            "data": hashlib.sha256(repr(self.data).encode()).hexdigest(),
            "settings": asdict(self.settings),
            "version": gpt2rt.__version__,
        }

    def file_name(self) -> str:
        """The name of the record file."""
        whole = json.dumps(self.identity, sort_keys=True)
        return f"{self.task.name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}.jsonl"

    def finish(
        self,
        model: LanguageModel,
        folder: Path,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> TaskResult:
        """The result; examples whose records are not yet in `folder` are answered by `model`.

        `advance` is called with the examples done and their total. Raises `BadData` for no
        examples.
        """
        task, settings = self.task, self.settings
        examples = task.examples(self.data, model, settings)[: settings.limit]
        if not examples:
            raise BadData(f"{task.name}: the data has no example; name the data set's own file")
        starts = range(0, len(examples), task.chunk)
        sizes = [len(examples[start : start + task.chunk]) for start in starts]
        folder.mkdir(parents=True, exist_ok=True)
        records = RecordFile(folder / self.file_name(), self.identity)
        chunks = records.read(sizes)
        done = sum(sizes[number] for number in chunks)
        advance(done, len(examples))
        for number, start in enumerate(starts):
            if number in chunks:
                continue
            began, tokens = time.perf_counter(), model.tokens
            batch = examples[start : start + task.chunk]
            made = list(task.answer(model, batch, start, settings))
            chunk = Chunk(made, time.perf_counter() - began, model.tokens - tokens)
            records.append(number, chunk)
            chunks[number] = chunk
            done += len(batch)
            advance(done, len(examples))
        return _result(task, [chunks[number] for number in range(len(sizes))])


def _result(task: EvalTask, chunks: Iterable[Chunk]) -> TaskResult:
    chunks = list(chunks)
    records = [record for chunk in chunks for record in chunk.records]
    figures = {metric.name: measure(metric, records) for metric in task.metrics}
    seconds, tokens = sum(c.seconds for c in chunks), sum(c.tokens for c in chunks)
    return TaskResult(task, records, seconds, tokens, figures)


def _checksum(body: dict[str, Any]) -> int:
    """The crc32 of a line's fields, without the checksum itself."""
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


class RecordFile:
    """The file of a run's records: a line of JSON a finished chunk, only appended to."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._identity = identity

    def read(self, sizes: list[int]) -> dict[int, Chunk]:
        """Finished chunks by number; a line that is cut off or damaged is ignored.

        `sizes`: the number of examples of each chunk.
        """
        if not self._path.exists():
            self._write(self._identity)
        chunks = {}
        for line in self._path.read_bytes().split(b"\n"):
            try:
                body = json.loads(line)
                number, check = body["chunk"], body.pop("check")
                if check != _checksum(body):
                    continue
                chunk = Chunk(body["records"], float(body["seconds"]), int(body["tokens"]))
                if len(chunk.records) == sizes[number]:
                    chunks[int(number)] = chunk
            except (ValueError, KeyError, TypeError, IndexError):
                continue
        return chunks

    def append(self, number: int, chunk: Chunk) -> None:
        """Add the line of a finished chunk. Raises `OSError`."""
        body = {"chunk": number, **asdict(chunk)}
        self._write({**body, "check": _checksum(body)})

    def _write(self, body: dict[str, Any]) -> None:
        line = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._path.open("a+b") as file:
            if file.tell() and not self._ends_a_line():
                line = b"\n" + line  # the unfinished line of a killed run stays apart
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _ends_a_line(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
