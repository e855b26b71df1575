"""A run of `generate` on record: all that it depended on, so that it can be made again.

Frozen settings in, JSON out, and back; and the fingerprint by which a repetition is compared.
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
from gpt2rt.errors import BadRun, Gpt2rtError, InvalidSetting
from gpt2rt.generation.beams import Beams
from gpt2rt.generation.completion import Completion, Piece, raised
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import Stopping
from gpt2rt.model import GPT2
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.text.paths import local, portable

FORMAT, VERSION = "gpt2rt run", 1


@dataclass(frozen=True, slots=True)
class Run:
    """What `nsamples` samples (0: without end) of a prompt depend on, the model aside.

    Raises `InvalidSetting`.

    `threads` and `draft` change how fast they come, not what they are.
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
    batch_size: int = 32
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
            raise InvalidSetting("a run has a seed; without one it could not be made again")
        Request(self.prompt, self.params, self.stopping, self.constraint, self.truncate)

    def pieces(self, gpt2: GPT2, *, logprobs: bool = False) -> Iterable[Piece]:
        """The samples, as they are made."""
        if self.beams is not None:
            return self._likeliest(gpt2)
        # An error comes before any work.
        gpt2.prompt_tokens(self.prompt, self.truncate, special=self.special)
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
        side_by_side = min(self.batch_size, self.nsamples or self.batch_size)
        return raised(gpt2.run(requests, batch_size=side_by_side))

    def _likeliest(self, gpt2: GPT2) -> Iterable[Piece]:
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
    """sha256 of the tokens of all samples, in their order."""
    told = sorted((c.sample, list(c.tokens), c.finish_reason) for c in completions)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def to_json(run: Run, gpt2: GPT2, completions: Iterable[Completion], beside: Path) -> bytes:
    """What a run's file holds, which will lie in the directory `beside`."""
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
    """What finds `bundle` again: its name, or the way to it from `beside`; never a path that says
    where things lie on this machine, so a run's file can be given away."""
    bundle = bundle.resolve()
    try:
        if library.find(bundle.name).directory.resolve() == bundle:
            return portable(bundle.name)
    except Gpt2rtError:  # no name to the library
        pass
    try:
        return portable(f"./{Path(os.path.relpath(bundle, beside.resolve())).as_posix()}")
    except ValueError:  # another drive (Windows)
        return portable(bundle.name)


def found(place: str, beside: Path) -> str:
    """The model that a run's file in `beside` names."""
    own = local(place)
    return str(beside / own) if own.startswith("./") else own


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A run's file: the model it was made with, the run, the fingerprint of its tokens."""

    bundle: str
    digest: str
    provider: str
    versions: Mapping[str, str]
    run: Run
    tokens: str

    @classmethod
    def read(cls, path: Path) -> SavedRun:
        """Raises `BadRun` for a file that cannot be read or is no run."""
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
            kept = {name: body[name] for name in ("bundle", "digest", "provider", "tokens")}
            if not all(isinstance(text, str) for text in kept.values()):
                raise TypeError("bundle, digest, provider and tokens are texts")
            return cls(run=_run(body["run"]), versions=dict(body["versions"]), **kept)
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
