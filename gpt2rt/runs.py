"""Saved runs of `gpt2rt generate`: a JSON file with all settings, so that a run can be repeated.

The file has a fingerprint of the tokens, to compare a repetition with.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from gpt2rt.bundles import library
from gpt2rt.bundles.paths import local, portable
from gpt2rt.errors import BadRun, Gpt2rtError, InvalidSetting
from gpt2rt.generation.beams import Beams
from gpt2rt.generation.completion import Completion, Piece, raise_failures
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import Stopping
from gpt2rt.model import BATCH_SIZE, GPT2
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.params import SamplingParams

FORMAT, VERSION = "gpt2rt run", 1


@dataclass(frozen=True, slots=True)
class Run:
    """All settings for `nsamples` samples of a prompt (0: without end), except the model.

    `threads`, `draft` and `batch_size` change the speed and not the texts. Raises `InvalidSetting`.
    """

    prompt: str | None
    nsamples: int
    params: SamplingParams
    stopping: Stopping
    constraint: Constraint | None = None
    truncate: Literal["left", "right"] | None = None
    beams: Beams | None = None
    draft: str | None = None
    threads: int | None = None
    batch_size: int = BATCH_SIZE
    special: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("nsamples", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InvalidSetting(
                    f"{name} must be {least} or more, a whole number, not {value!r}"
                )
        for name, kind in (("prompt", str), ("draft", str), ("threads", int), ("special", bool)):
            value = getattr(self, name)
            if value is not None and type(value) is not kind:
                raise InvalidSetting(f"{name} must be {kind.__name__}, not {value!r}")
        if self.params.seed is None:
            raise InvalidSetting("a run needs a seed, or it could not be repeated")
        Request(self.prompt, self.params, self.stopping, self.constraint, self.truncate)

    def pieces(self, gpt2: GPT2, *, logprobs: bool = False) -> Iterable[Piece]:
        """Generate the samples; yields their pieces, interleaved. Raises as `GPT2.generate`."""
        if self.beams is not None:
            return self._beam_pieces(gpt2)
        one = Request(
            self.prompt,
            self.params,
            self.stopping,
            self.constraint,
            self.truncate,
            special=self.special,
        )
        numbers = range(self.nsamples) if self.nsamples else count()
        requests = (replace(one, sample=n, logprobs=logprobs) for n in numbers)
        batch_size = min(self.batch_size, self.nsamples or self.batch_size)
        return raise_failures(gpt2.run(requests, batch_size=batch_size))

    def _beam_pieces(self, gpt2: GPT2) -> Iterable[Piece]:
        assert self.beams is not None
        if self.constraint is not None:
            raise InvalidSetting("beam search takes no constraint; leave out one of the two")
        if not 1 <= self.nsamples <= self.beams.width:
            raise InvalidSetting(
                f"{self.nsamples} samples of {self.beams.width} beams: ask for 1 to as many"
            )
        found = gpt2.beam_search(
            self.prompt,
            self.beams,
            self.params,
            self.stopping,
            truncate=self.truncate,
            special=self.special,
        )
        for n, text in enumerate(found[: self.nsamples]):
            yield Piece(n, text.text, completion=replace(text, sample=n))


def fingerprint(completions: Iterable[Completion]) -> str:
    """The sha256 of the tokens of all samples, in the order of their numbers."""
    samples = sorted((c.sample, list(c.tokens), c.finish_reason) for c in completions)
    return hashlib.sha256(json.dumps(samples).encode()).hexdigest()


def to_json(run: Run, gpt2: GPT2, completions: Iterable[Completion], beside: Path) -> bytes:
    """The content of the file of a run, which will be in the directory `beside`."""
    import numpy
    import onnxruntime

    from gpt2rt import __version__

    draft = run.draft
    if draft is not None:
        draft = _place(Path(draft), beside) if Path(draft).is_absolute() else portable(draft)
    body = {
        "format": FORMAT,
        "version": VERSION,
        "model": gpt2.name,
        "bundle": _place(gpt2.bundle.directory, beside),
        "digest": gpt2.bundle.digest,
        "provider": gpt2.provider,
        "versions": {
            "gpt2rt": __version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
        },
        "run": asdict(replace(run, draft=draft)),
        "tokens": fingerprint(completions),
    }
    text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # JSON writes surrogates like Python


def _place(bundle: Path, beside: Path) -> str:
    """The name of a bundle, or else its path relative to the directory `beside`.

    It is never an absolute path, so that a run's file can be shared.
    """
    bundle = bundle.resolve()
    try:
        if library.find(bundle.name).directory.resolve() == bundle:
            return portable(bundle.name)
    except Gpt2rtError:  # not a name of the library
        pass
    try:
        return portable(f"./{Path(os.path.relpath(bundle, beside.resolve())).as_posix()}")
    except ValueError:  # another drive (Windows)
        return portable(bundle.name)


def model_of(place: str, beside: Path) -> str:
    """The name or path of the model in a run's file, which is in the directory `beside`."""
    own = local(place)
    return str(beside / own) if own.startswith("./") else own


@dataclass(frozen=True, slots=True)
class SavedRun:
    """The content of a run's file; `tokens` is the `fingerprint` of its samples."""

    bundle: str
    digest: str
    provider: str
    versions: Mapping[str, str]
    run: Run
    tokens: str

    @classmethod
    def read(cls, path: Path) -> SavedRun:
        """Read the file of a run. Raises `BadRun` if it cannot be read or is not one."""
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadRun(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise BadRun(f"{path}: not JSON ({error}); give a file of --save-run") from None
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise BadRun(f"{path}: not a saved run; give a file of --save-run")
        if body.get("version") != VERSION:
            raise BadRun(
                f"{path}: version {body.get('version')!r}, this gpt2rt reads {VERSION}; upgrade it"
            )
        try:
            texts = {name: body[name] for name in ("bundle", "digest", "provider", "tokens")}
            if not all(isinstance(text, str) for text in texts.values()):
                raise TypeError("bundle, digest, provider and tokens are texts")
            return cls(run=_run(body["run"]), versions=dict(body["versions"]), **texts)
        except InvalidSetting as error:
            raise BadRun(f"{path}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadRun(f"{path}: damaged ({error!r:.80}); save the run again") from None


def _run(body: dict[str, Any]) -> Run:
    unknown = set(body) - {field.name for field in fields(Run)}
    if unknown:
        raise InvalidSetting(f"unknown setting {min(unknown)}")
    made = dict(body)
    made["params"] = SamplingParams(**body["params"])
    made["stopping"] = Stopping(**body["stopping"])
    for name, kind in (("constraint", Constraint), ("beams", Beams)):
        made[name] = kind(**body[name]) if body[name] is not None else None
    return Run(**made)
