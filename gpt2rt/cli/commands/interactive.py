"""`gpt2rt interactive`: OpenAI's interactive script, a prompt after the other."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import typer

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles import catalog
from gpt2rt.cli import completion
from gpt2rt.cli.input import entries, opening, options, settings
from gpt2rt.cli.input.typed import Escape, hint_at_space
from gpt2rt.cli.output.printing import BANNER, write
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting
from gpt2rt.runs import Run

PROMPT = "Model prompt >>> "
COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)  # not `/etc/hosts`, which is text


@dataclass(frozen=True, slots=True)
class Answers:
    """How a prompt is answered. Raises `InvalidSetting`.

    nsamples: samples for a prompt. show_probs: colour each token by how likely it was. special:
    whether control tokens in a prompt are tokens or text (None: as the model has them).
    """

    nsamples: int = 1
    show_probs: bool = False
    special: bool | None = None

    def __post_init__(self) -> None:
        options.check_samples(self.nsamples)


@options.with_settings
def interactive(
    params: SamplingParams,
    stopping: Stopping,
    escape: Escape = True,
    model: options.Model = None,
    nsamples: options.Samples = 1,
    show_probs: options.ShowProbs = False,
    special: options.Special = None,
    threads: options.ThreadCount = None,
    provider: options.Provider = "auto",
    draft: options.Draft = None,
    prefix_cache: options.PrefixCache = options.PREFIX_MEGABYTES,
) -> None:
    """Ask for prompts and continue each; Ctrl-C stops a sample, Ctrl-D ends.

    At the prompt `/help` lists the commands, such as `/set top_k 40` and `/again`.

    Examples:

      gpt2rt interactive --top-k 40

      gpt2rt interactive --model 117M-int8 --length 100 --seed 1
    """
    answers = Answers(nsamples, show_probs, special)

    loading = opening.loading(threads, provider, draft, prefix_cache)

    def load(name: str | None) -> GPT2:
        return opening.load(name, loading)

    session = Session(load, load(model), params, stopping, answers)
    with entries.editing(catalog.home() / "history", session.completions):
        session.run()
    if session.refused and not sys.stdin.isatty():
        raise typer.Exit(1)  # a script that fed the prompts should know


class Session:
    """A conversation with one model after the other: settings, and the prompt last answered."""

    def __init__(
        self,
        load: Callable[[str | None], GPT2],
        gpt2: GPT2,
        params: SamplingParams,
        stopping: Stopping,
        answers: Answers,
    ) -> None:
        """`load` finds a model by name; `gpt2` is the first."""
        self.refused = 0
        self._load = load
        self._gpt2 = gpt2
        self._params = params.seeded()  # of the next prompt
        self._stopping = stopping
        self._answers = answers
        self._last: str | None = None
        self._ended = self._hinted = False

    def run(self) -> None:
        """Answer what is typed until the input or the person ends it."""
        person = sys.stdin.isatty()
        if person:
            print(f"{self._gpt2.name}: type a text to continue, or /help", file=sys.stderr)
        while not self._ended:
            try:
                self._obey(*entries.entry(PROMPT))
            except EOFError:
                print()
                return
            except Gpt2rtError as error:
                self.refused += 1
                print(f"gpt2rt: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                if not person:
                    raise
                print(flush=True)

    def completions(self, line: str) -> list[str]:
        """The lines that `line` may become."""
        names = [name for name, _ in settings.items(self._groups)]
        known = [f"/{name}" for name in COMMANDS]
        if line.startswith("/set "):
            known = [f"/set {name} " for name in names]
        elif line.startswith("/model "):
            known = [f"/model {name}" for name in completion.model_names()]
        return [whole for whole in known if whole.startswith(line)] if line else []

    @property
    def _groups(self) -> tuple[SamplingParams, Stopping, Answers]:
        return self._params, self._stopping, self._answers

    def _obey(self, text: str, may_command: bool) -> None:
        command = COMMAND.fullmatch(text) if may_command else None
        if command is None:
            self._answer(text)
            return
        name, argument = command[1], (command[2] or "").strip()
        if name not in COMMANDS:
            raise InvalidSetting(f"unknown command /{name}; /help lists them")
        COMMANDS[name][0](self, argument)

    def _answer(self, prompt: str) -> None:
        if not prompt:
            raise BadText("the prompt is empty; type some text to continue, or Ctrl-D to end")
        self._last = prompt
        self._hinted = self._hinted or hint_at_space(self._gpt2.tokenizer, [prompt])
        params, stopping, answers = self._groups
        if stopping.length is None:
            stopping = replace(stopping, length=self._gpt2.hparams.n_ctx // 2)
        # As in OpenAI's script a second prompt goes on in the random numbers of the first.
        self._params = params.with_next_seed()
        run = Run(prompt, answers.nsamples, params, stopping, special=answers.special)
        pieces = run.pieces(self._gpt2, logprobs=answers.show_probs)
        write(pieces, banner=True, show_probs=answers.show_probs)
        print("=" * len(BANNER) * 2)

    # ---- commands

    def again(self, argument: str) -> None:
        """another answer to the last prompt"""
        if self._last is None:
            raise InvalidSetting("nothing was asked yet")
        self._answer(self._last)

    def set(self, argument: str) -> None:
        """show the settings, or change one: /set top_k 40"""
        name, _, value = argument.partition(" ")
        if value:
            changed = settings.changed(self._groups, name, value.strip())
            self._params, self._stopping, self._answers = changed
            self._params = self._params.seeded()
        elif name:
            known = dict(settings.items(self._groups))
            if name not in known:
                settings.changed(self._groups, name, "")  # tells what there is
            print(f"{name} {known[name]}")
        else:
            for field, shown in settings.items(self._groups):
                print(f"{field:<18} {shown}")

    def seed(self, argument: str) -> None:
        """the seed of the next answer: /seed 7; without a number a fresh one"""
        self.set(f"seed {argument or 'none'}")

    def model(self, argument: str) -> None:
        """change the model: /model 117M-int8; without a name list them"""
        if argument:
            self._gpt2 = self._load(argument)
        print(f"{self._gpt2.name} is answering")
        if not argument:
            print(f"There are {', '.join(completion.model_names())}")

    def help(self, argument: str) -> None:
        """this list"""
        for command, (_, what) in COMMANDS.items():
            print(f"/{command:<6} {what}")
        print('A line that ends with \\ goes on; """ begins and ends a text of many lines.')
        print("Ctrl-C stops an answer, Ctrl-D ends the session.")

    def quit(self, argument: str) -> None:
        """end the session, as Ctrl-D does"""
        self._ended = True


COMMANDS: dict[str, tuple[Callable[[Session, str], None], str]] = {
    method.__name__: (method, method.__doc__ or "")
    for method in (
        Session.again,
        Session.set,
        Session.seed,
        Session.model,
        Session.help,
        Session.quit,
    )
}
