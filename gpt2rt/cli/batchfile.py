"""`gpt2rt generate --file`: prompts from a file, samples appended to another as they finish.

A run that was killed goes on where it was: what the output holds is not made again, half a line at
its end is dropped. When all is done the lines are put in the order of the prompts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from gpt2rt import GPT2, Request
from gpt2rt.bundles.writing import write_bytes
from gpt2rt.cli import typed
from gpt2rt.cli.printing import in_turn, line, print_json, record
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting
from gpt2rt.runs import Run
from gpt2rt.text.textfile import unmarked, utf8


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line of the file, from 1 on; `input` is what else a JSON object there has."""

    number: int
    text: str | list[int] | None
    input: dict[str, Any] | None


def named(path: str) -> str:
    """What messages call the file of prompts."""
    return "standard input" if path == "-" else path


def read(path: str) -> tuple[list[Prompt], list[str]]:
    """The prompts of a text file (one a line) or a `.jsonl` file, and what is wrong with others.

    A line of JSON is a text, or an object with a `prompt` (null begins a text); empty lines are
    passed over. Raises `BadText` for a file that cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise BadText(f"{path}: {error.strerror}") from None
    prompts, wrong = [], []
    for number, raw in enumerate(unmarked(data, named(path)).split(b"\n"), 1):
        raw = raw.removesuffix(b"\r")
        if not raw.strip():
            continue
        try:
            text = utf8(raw, "the line")
            prompts.append(_parsed(number, text) if _is_json(path) else Prompt(number, text, None))
        except BadText as error:
            wrong.append(f"{named(path)}: line {number}: {error}")
    return prompts, wrong


def _is_json(path: str) -> bool:
    return Path(path).suffix.lower() in (".jsonl", ".ndjson", ".json")


def _parsed(number: int, text: str) -> Prompt:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadText(f"not JSON ({error})") from None
    if isinstance(value, str):
        return Prompt(number, value, None)
    if not isinstance(value, dict) or "prompt" not in value:
        raise BadText('neither a text nor an object with a "prompt"')
    prompt = value.pop("prompt")
    if isinstance(prompt, list):
        known = all(type(token) is int for token in prompt)
    else:
        known = prompt is None or isinstance(prompt, str)
    if not known:
        raise BadText('"prompt" is neither a text nor a list of token ids')
    return Prompt(number, prompt, value or None)


RECORD = b'{"line": '  # how every line of an output begins


class Output:
    """The file that samples are appended to; what it has from an earlier run counts as done."""

    def __init__(self, path: Path, key: str) -> None:
        """`key` names the run's settings. Raises `InvalidSetting` for a file of another run."""
        path = path.resolve()  # a link stays one
        self._path = path
        self._key = key
        self.done: dict[tuple[int, int], str] = {}  # line and sample -> prompt
        self.seed: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise InvalidSetting(f"--output {path}: {error.strerror}") from None
        if not path.is_file():
            raise InvalidSetting(f"--output {path}: not a file; leave --output out for a pipe")
        try:
            if not _locked(self._file):
                raise InvalidSetting(f"--output {path}: another run is writing it")
            self._take_up()
        except InvalidSetting:
            self.close()
            raise

    def _take_up(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        for number, raw in enumerate(whole.splitlines(), 1):
            try:
                body = json.loads(raw)
                key, place = body["run"], (body["line"], body["sample_of_line"])
                if place in self.done:
                    raise ValueError("twice")
                self.done[place], self.seed = body["prompt"], body["seed"]
            except (ValueError, KeyError, TypeError):
                raise InvalidSetting(
                    f"--output {self._path}: line {number} is no sample of such a run; "
                    "name another file"
                ) from None
            if key != self._key:
                raise InvalidSetting(
                    f"--output {self._path}: was made with other settings or another model; "
                    "name another file, or remove it"
                )
        half = data[len(whole) :]
        if half[: len(RECORD)] != RECORD[: len(half)]:
            raise InvalidSetting(
                f"--output {self._path}: ends in what is no sample of such a run; name another file"
            )
        self._file.truncate(len(whole))

    def append(self, body: dict[str, object]) -> None:
        self._file.write(line(body).encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def sort(self) -> None:
        """Put the lines in the order of the prompts, all or none."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        order = sorted(lines, key=_place)
        if order == lines:
            return
        write_bytes(self._path, b"".join(order))


def _locked(file: BinaryIO) -> bool:
    """Whether this process alone has the file now; the system gives it up when the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        with suppress(OSError):
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            return True
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _place(raw: bytes) -> tuple[int, int]:
    body = json.loads(raw)
    return body["line"], body["sample_of_line"]


def settings_key(run: Run, gpt2: GPT2, logprobs: bool) -> str:
    """A name for all that a sample depends on but its prompt and the seed."""
    body = asdict(replace(run, prompt=None, threads=None, draft=None, batch_size=1))
    body["params"].pop("seed")
    told = json.dumps([gpt2.bundle.digest, body, logprobs], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def generate_file(
    gpt2: GPT2, run: Run, seed: int | None, source: str, output: Path | None, logprobs: bool
) -> bool:
    """Samples of every line of `source`; returns whether all its lines could be continued.

    `run` has what every line shares. To standard output where there is no `output`.
    """
    prompts, wrong = read(source)
    if output is not None and source != "-" and output.exists() and output.samefile(source):
        raise InvalidSetting(f"--output {output}: is the file of the prompts; name another")
    usable = []
    for prompt in prompts:
        try:
            gpt2.prompt_tokens(prompt.text, run.truncate, special=run.special)
            usable.append(prompt)
        except Gpt2rtError as error:
            wrong.append(f"{named(source)}: line {prompt.number}: {error}")
    for message in wrong:
        print(f"gpt2rt: {message}", file=sys.stderr)
    texts = (prompt.text for prompt in usable if isinstance(prompt.text, str))
    typed.hint_at_space(gpt2.tokenizer, texts)
    batch = FileRun(gpt2, run, settings_key(run, gpt2, logprobs), source, logprobs)
    if output is None:
        return batch.print(usable) and not wrong
    with closing(Output(output, batch.key)) as target:
        if target.seed is not None:
            if seed not in (None, target.seed):
                raise InvalidSetting(f"--output {output}: was made with --seed {target.seed}")
            batch.seed(target.seed)
        return batch.append(usable, target) and not wrong


Due = tuple[Request, Prompt, int]  # a request, the line it is for, which of its samples


class FileRun:
    """A run over the lines of a file."""

    def __init__(self, gpt2: GPT2, run: Run, key: str, source: str, logprobs: bool) -> None:
        self._gpt2 = gpt2
        self._run = run
        self.key = key
        self._source = named(source)
        self._logprobs = logprobs
        self._failed = False

    def seed(self, seed: int) -> None:
        """Go on with the seed of an earlier run."""
        self._run = replace(self._run, params=replace(self._run.params, seed=seed))

    def print(self, prompts: list[Prompt]) -> bool:
        """To standard output, in order; returns whether all could be made."""
        for body in self._bodies(list(self._requests(prompts, {})), ordered=True):
            print_json(body)
        return not self._failed

    def append(self, prompts: list[Prompt], output: Output) -> bool:
        """To `output`, as they finish; returns whether all could be made."""
        from rich.progress import MofNCompleteColumn, TimeRemainingColumn

        from gpt2rt.cli.consoles import progress

        self._check(prompts, output)
        due = list(self._requests(prompts, output.done))
        with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bars:
            bar = bars.add_task("samples", total=len(due))
            for body in self._bodies(due, ordered=False):
                output.append(body)
                bars.advance(bar)
        output.sort()
        return not self._failed

    def _check(self, prompts: list[Prompt], output: Output) -> None:
        """Raises `InvalidSetting` where the output has samples of other prompts."""
        texts = {prompt.number: prompt.text for prompt in prompts}
        for (number, _), text in output.done.items():
            if number not in texts:
                raise InvalidSetting(
                    f"--output: has a sample of line {number}, which {self._source} no longer has; "
                    "name another file"
                )
            if texts[number] != text:
                raise InvalidSetting(
                    f"--output: line {number} had another prompt; name another file"
                )

    def _requests(self, prompts: list[Prompt], done: dict[tuple[int, int], str]) -> Iterator[Due]:
        """What is still to be made. A sample's number goes by its line, whatever was there."""
        run = self._run
        one = Request(None, run.params, run.stopping, run.constraint, run.truncate)
        one = replace(one, logprobs=self._logprobs, special=run.special)
        for prompt in prompts:
            for nth in range(run.nsamples):
                number = (prompt.number - 1) * run.nsamples + nth
                if (prompt.number, nth) not in done:
                    yield replace(one, prompt=prompt.text, sample=number), prompt, nth

    def _bodies(self, due: list[Due], ordered: bool) -> Iterator[dict[str, object]]:
        """The samples as they are written; those that fail are told on standard error."""
        places = {request.sample: (prompt, nth) for request, prompt, nth in due}
        # Consecutive numbers, since `in_turn` waits for the next one.
        turn = {request.sample: place for place, (request, _, _) in enumerate(due)}
        side_by_side = min(self._run.batch_size, max(1, len(due)))
        pieces = self._gpt2.run((request for request, _, _ in due), batch_size=side_by_side)
        numbered = (replace(piece, sample=turn[piece.sample]) for piece in pieces)
        for piece in in_turn(numbered) if ordered else numbered:
            if piece.failure is not None:
                number = due[piece.sample][1].number
                print(f"gpt2rt: {self._source}: line {number}: {piece.failure}", file=sys.stderr)
                self._failed = True
            if piece.completion is not None:
                prompt, nth = places[piece.completion.sample]
                extra = {"input": prompt.input} if prompt.input else {}
                place = {"line": prompt.number, "sample_of_line": nth, "run": self.key}
                yield {**place, **extra, **record(self._gpt2, piece.completion)}
