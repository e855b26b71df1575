"""From requests to pieces of text: continuous batching, stopping, sliding, speculation.

Between the engine, which knows tokens, and `GPT2`, which offers the result. Whatever the batch, a
sample is the text that its request gives alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.beams import Beams, beam_search
from gpt2rt.engine import Engine, Logits, Sequence
from gpt2rt.errors import Gpt2rtError, InvalidSetting
from gpt2rt.params import SamplingParams
from gpt2rt.prompts import Prompt, Truncate, check_prompt
from gpt2rt.sampling import Sampler
from gpt2rt.selection import Row
from gpt2rt.speculation import Draft, Pace
from gpt2rt.stopping import FinishReason, Stopping, StopStrings
from gpt2rt.tokenizers import Stream

if TYPE_CHECKING:
    from gpt2rt.constraint import Constraint, Matcher

HEAD, WINDOW = 16, 2  # a slide keeps 1/2 of the context: 1/16 from the beginning, else the end


@dataclass(frozen=True, slots=True)
class Request:
    """One text to be made.

    Raises `InvalidSetting` for settings that contradict each other, `BadText` for a prompt that is
    neither text nor ids.

    prompt: a text, or token ids; None begins a text, from `<|endoftext|>`.
    constraint: what the text has to be like.
    truncate: a prompt that is too long loses tokens on the "left" or the "right"; None: an error.
    sample: the number that its random numbers go by, with the seed of `params`.
    logprobs: also report each token's log-probability.
    special: whether control tokens in the prompt are tokens or text (see `TextTokenizer.encode`).
    """

    prompt: Prompt = None
    params: SamplingParams = SamplingParams()
    stopping: Stopping = Stopping()
    constraint: Constraint | None = None
    truncate: Truncate = None
    sample: int = 0
    logprobs: bool = False
    special: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", check_prompt(self.prompt))
        length = self.stopping.length
        if length is not None and self.params.min_length > length:
            raise InvalidSetting(
                f"min_length {self.params.min_length} is more than the length, {length}"
            )
        if self.truncate not in (None, "left", "right"):
            raise InvalidSetting(f"truncate must be left or right, not {self.truncate!r}")
        if not isinstance(self.sample, Integral) or not 0 <= self.sample < 1 << 64:
            raise InvalidSetting(f"sample must be 0 to 2**64 - 1, not {self.sample!r}")


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: loading the model, this sample's prefill, this sample's steps after it."""

    load_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model made of one prompt.

    `prompt` is None for an unconditional sample. `tokens` are the new ids; `text` is what they
    decode to, up to a stop string where one ended it. An `<|endoftext|>` or stop token that ended
    the text is in neither. `stopped_by` is that token or string. `logprobs` (natural, where asked
    for) are the model's own, before temperature and all else. `cached_tokens` of the prompt were
    read for an earlier one; a draft proposed `drafted` tokens, of which `accepted` were right.
    `seed` and `sample` repeat it. `score` is that of a beam search (`gpt2rt.beams`).
    """

    prompt: Prompt
    text: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    stopped_by: str | int | None
    seed: int
    sample: int
    cached_tokens: int
    drafted: int
    accepted: int
    score: float | None
    timing: Timing


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of one sample: its token, the text that is ready now (maybe none).

    `token` is None, like `logprob`, for one that ended the text. The last piece of a sample has the
    whole, or what made it fail.
    """

    sample: int
    text: str
    token: int | None = None
    logprob: float | None = None
    completion: Completion | None = None
    failure: Gpt2rtError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing more comes of its sample."""
        return self.completion is not None or self.failure is not None


@dataclass(slots=True, eq=False)
class Task:
    """One request on its way to a completion."""

    request: Request
    seed: int
    prompt_tokens: tuple[int, ...]
    room: int | None  # new tokens that the context allows; None: no limit
    enders: frozenset[int]
    ends: frozenset[int]  # the tokenizer's, wherever they may end this text
    sampler: Sampler
    stream: Stream
    stops: StopStrings
    matcher: Matcher | None
    load_ms: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    score: float | None = None
    prefill_ms: float = 0.0
    started: float = 0.0
    reason: FinishReason | None = None
    stopped_by: str | int | None = None

    @property
    def known(self) -> list[int]:
        """All tokens so far."""
        return [*self.prompt_tokens, *self.tokens]

    @property
    def left(self) -> int | None:
        """New tokens that may still come."""
        limits = [limit for limit in (self.request.stopping.length, self.room) if limit is not None]
        return min(limits) - len(self.tokens) if limits else None

    def take(self, logits: Logits | Row) -> Piece:
        """Draw a token from the logits [n_vocab] and see what comes of it; sets `reason`."""
        token = self.sampler.draw(logits, self.matcher, self.left)
        return self.accept(token, logits if self.request.logprobs else None)

    def accept(self, token: int, logits: Logits | Row | None = None) -> Piece:
        """Go on by `token`, which came of `logits`; sets `reason` where it ends the text."""
        if token in self.enders:
            self.stopped_by = token
            self.reason = "end_of_text" if token in self.ends else "stop_token"
            return self._piece(self._flushed())
        self.tokens.append(token)
        logprob = None
        if logits is not None:
            logprob = logprob_of(logits, token)
            self.logprobs.append(logprob)
        if self.matcher is not None:
            self.matcher.take(token)
        text = self.stops.push(self.stream.push(token))
        self.reason = self._reason()
        if self.reason is not None:
            text += self._flushed()
        return self._piece(text, token, logprob)

    def _piece(self, text: str, token: int | None = None, logprob: float | None = None) -> Piece:
        self.text.append(text)
        return Piece(self.request.sample, text, token, logprob)

    def _reason(self) -> FinishReason | None:
        """Why the text ends with the token just taken; None where it goes on."""
        if self.stops.found is not None:
            self.stopped_by = self.stops.found
            return "stop_string"
        if self.matcher is not None and (
            self.matcher.complete or (self.left == 0 and self.matcher.accepting)
        ):
            return "complete"
        length = self.request.stopping.length
        if length is not None and len(self.tokens) >= length:
            return "length"
        return "context" if self.room is not None and len(self.tokens) >= self.room else None

    def _flushed(self) -> str:
        """What was held back: half a character, the beginning of a stop string."""
        if self.stops.found is not None:
            return ""
        text = self.stops.push(self.stream.close())
        if self.stops.found is not None:  # half a character was what the stop string asks for
            self.reason, self.stopped_by = "stop_string", self.stops.found
        return text + self.stops.close()

    def completion(self) -> Completion:
        """The whole, once there is a `reason`."""
        assert self.reason is not None
        return Completion(
            prompt=self.request.prompt,
            text="".join(self.text),
            prompt_tokens=self.prompt_tokens,
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs) if self.request.logprobs else None,
            finish_reason=self.reason,
            stopped_by=self.stopped_by,
            seed=self.seed,
            sample=self.request.sample,
            cached_tokens=self.cached,
            drafted=self.drafted,
            accepted=self.accepted,
            score=self.score,
            timing=Timing(self.load_ms, self.prefill_ms, now() - self.started - self.prefill_ms),
        )


class Generation:
    """Runs tasks on an engine: the next one takes the slot of each that ends."""

    def __init__(
        self,
        engine: Engine,
        n_ctx: int,
        task: Callable[[Request], Task],
        draft: Callable[[], Draft] | None = None,
    ) -> None:
        """`task` and `draft` make what a request and a sequence running alone need."""
        self._engine = engine
        self._n_ctx = n_ctx
        self._task = task
        self._draft = draft
        self._drafting: tuple[Task, Draft, Pace] | None = None
        self._at_work: dict[Sequence, Task] = {}

    def run(self, requests: Iterable[Request]) -> Iterator[Piece]:
        """The pieces of all samples, interleaved as they are made."""
        groups, waiting = alike(requests, self._engine.free), deque[Request]()
        while True:
            while self._engine.free:
                if not waiting:
                    waiting.extend(next(groups, ()))
                if not waiting:
                    break
                taken = [waiting.popleft() for _ in range(min(len(waiting), self._engine.free))]
                yield from self._admit(taken)
            if not self._engine.running:
                return
            yield from self._slide()
            running = self._engine.running
            if len(running) == 1 and (proposed := self._proposed(running[0])):
                yield from self._check(running[0], proposed)
            elif running:
                tasks = [self._at_work[sequence] for sequence in running]
                draws = [task.sampler.next_draw() for task in tasks]
                rows = self._engine.step([task.tokens[-1] for task in tasks], draws)
                for sequence, row in zip(running, rows, strict=True):
                    yield self._drawn(sequence, row)

    def _admit(self, requests: list[Request]) -> Iterator[Piece]:
        """Start those of some requests with the same prompt that can be."""
        tasks = []
        for request in requests:
            try:
                tasks.append(self._task(request))
            except Gpt2rtError as error:
                yield Piece(request.sample, "", failure=error)
        if tasks:
            yield from self._start(tasks)

    def _start(self, tasks: list[Task]) -> Iterator[Piece]:
        """Read a prompt once for all the tasks that begin with it."""
        began = now()
        first, logits = self._engine.start(tasks[0].prompt_tokens)
        sequences = [first, *(self._engine.fork(first) for _ in tasks[1:])]
        prefill_ms = now() - began
        for sequence, task in zip(sequences, tasks, strict=True):
            self._at_work[sequence] = task
            task.started, task.prefill_ms, task.cached = began, prefill_ms, sequence.cached
        for sequence in sequences:
            yield self._drawn(sequence, logits)

    def _slide(self) -> Iterator[Piece]:
        """Sequences at the end of the context go on from what a slide keeps."""
        for sequence in self._engine.running:
            if sequence.length == self._n_ctx:
                task = self._at_work[sequence]
                logits = self._engine.restart(sequence, kept(task.known, self._n_ctx))
                yield self._drawn(sequence, logits)

    def _drawn(self, sequence: Sequence, logits: Logits | Row) -> Piece:
        """The next piece of a sequence."""
        return self._passed(sequence, self._taken(self._at_work[sequence], logits))

    @staticmethod
    def _taken(task: Task, logits: Logits | Row) -> Piece:
        try:
            return task.take(logits)
        except Gpt2rtError as error:
            return Piece(task.request.sample, "", failure=error)

    def _passed(self, sequence: Sequence, piece: Piece) -> Piece:
        """The piece as it is, or as the last one of a sequence whose slot is cleared."""
        task = self._at_work[sequence]
        if task.reason is None and piece.failure is None:
            return piece
        self._engine.finish(sequence)
        del self._at_work[sequence]
        return piece if piece.failure else replace(piece, completion=task.completion())

    def _proposed(self, sequence: Sequence) -> list[int]:
        """What the draft has to say; nothing where there is none or where it does not pay."""
        task = self._at_work[sequence]
        if self._draft is None:
            return []
        if self._drafting is None or self._drafting[0] is not task:
            draft = self._draft()
            self._drafting = (task, draft, Pace(draft.cost))
        _, draft, pace = self._drafting
        room = self._n_ctx - sequence.length - 1
        most = room if task.left is None else min(room, task.left - 1)
        count = pace.count(most) if most > 0 else 0
        return draft.propose(task.known, count, task.sampler) if count else []

    def _check(self, sequence: Sequence, proposed: list[int]) -> Iterator[Piece]:
        """Read what was proposed; draw as long as draws and proposals agree."""
        task = self._at_work[sequence]
        before, agreed = sequence.length, 0
        rows = self._engine.read(sequence, [task.tokens[-1], *proposed])
        for row, proposal in zip(rows, [*proposed, None], strict=True):
            piece = self._taken(task, row)
            if piece.token != proposal or proposal is None:
                break
            agreed += 1
            if task.reason is not None:
                break
            yield piece
        assert self._drafting is not None
        self._drafting[2].learn(len(proposed), agreed)
        task.drafted += len(proposed)
        task.accepted += agreed
        self._engine.rewind(sequence, before + min(agreed + 1, len(rows)))
        yield self._passed(sequence, piece)


def raised(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, or the failure of the first sample that fails."""
    for piece in pieces:
        if piece.failure is not None:
            raise piece.failure
        yield piece


def best_texts(engine: Engine, task: Callable[[], Task], beams: Beams) -> list[Completion]:
    """Beam search for what `task` makes: a completion of each text found, the best first."""
    began = now()
    first = task()

    def edit(tokens: Seq[int], logits: Logits) -> Logits:
        return first.sampler.edited(logits, tokens)

    def ending(tokens: tuple[int, ...]) -> FinishReason | None:
        if not first.request.stopping.strings and tokens[-1] not in first.enders:
            assert first.left is not None
            return "length" if len(tokens) >= first.left else None
        return _told(task(), tokens).reason

    sequence, logits = engine.start(first.prompt_tokens)
    prefill_ms = now() - began
    found = []
    for text in beam_search(engine, sequence, logits, beams, edit, ending):
        finished = _told(task(), text.tokens)
        finished.started, finished.score = began, text.score
        finished.cached, finished.prefill_ms = sequence.cached, prefill_ms
        found.append(finished.completion())
    return found


def _told(task: Task, tokens: Seq[int]) -> Task:
    for token in tokens:
        task.accept(token)
    return task


def alike(requests: Iterable[Request], most: int) -> Iterator[list[Request]]:
    """Runs of at most `most` requests whose prompt is the same, read once for all of them."""
    group: list[Request] = []
    for request in requests:
        if group and (len(group) == most or not _same_prompt(request, group[0])):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _same_prompt(one: Request, other: Request) -> bool:
    wanted = (other.prompt, other.truncate, other.special)
    return (one.prompt, one.truncate, one.special) == wanted


def kept(tokens: Seq[int], n_ctx: int) -> list[int]:
    """What a slide keeps of a text: half a context, its beginning and its recent end.

    Positions are learned, so that keys and values cannot move: the window is read anew.
    """
    head, window = n_ctx // HEAD, max(1, n_ctx // WINDOW)
    return [*tokens[:head], *tokens[len(tokens) - window + head :]]


def logprob_of(row: Logits | Row, token: int) -> float:
    """The natural log-probability of a token, [n_vocab] -> nats."""
    logits = np.asarray(row)
    largest = float(logits.max())
    total = np.exp(logits - np.float32(largest)).sum(dtype=np.float64)
    return float(logits[token]) - largest - float(np.log(total))


def now() -> float:
    """Milliseconds of a clock that only runs forward."""
    return time.perf_counter() * 1e3
