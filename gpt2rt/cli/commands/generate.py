"""`gpt2rt generate`: a prompt goes in, its continuation comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from gpt2rt import GPT2, Beams, Completion, Piece, SamplingParams, Stopping
from gpt2rt.cli.input import corpus_options, fetch, opening, options, standard_input, typed
from gpt2rt.cli.input.constraints import read_constraint
from gpt2rt.cli.input.ray_option import Ray
from gpt2rt.cli.output import result_files
from gpt2rt.cli.output.printing import write
from gpt2rt.corpus.names import STDIN_NAME
from gpt2rt.errors import BadRun, InvalidSetting
from gpt2rt.model import BATCH_SIZE
from gpt2rt.runs import Run, SavedRun, fingerprint, model_of, to_json

SHOWING = ("replay", "as_json", "logprobs", "stats", "stream", "show_probs")
FORM, FILES = "What the text has to be like", corpus_options.PANEL


@options.with_settings
def generate(
    context: typer.Context,
    params: SamplingParams,
    stopping: Stopping,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue; `-` reads standard input. "
            "Without it a text is begun from nothing.",
            show_default=False,
        ),
    ] = None,
    escape: typed.Escape = True,
    model: options.Model = None,
    nsamples: options.Samples = 1,
    batch_size: Annotated[
        int, typer.Option(help="Texts made side by side; of 117M each takes up to 38 MB.")
    ] = BATCH_SIZE,
    truncate: Annotated[
        Literal["left", "right"] | None,
        typer.Option(
            help="Which side of a prompt that is too long may be cut.", show_default=False
        ),
    ] = None,
    special: options.Special = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a sample.")] = False,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="With --json: the log-probability of every token.")
    ] = False,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="With --json: times, and what the cache of prompts and the draft gave.",
        ),
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print text as it is made, or when done.")
    ] = True,
    show_probs: options.ShowProbs = False,
    threads: options.ThreadCount = None,
    provider: options.Provider = "auto",
    beams: Annotated[
        int | None,
        typer.Option(
            help="Search for the likeliest text with so many beams.",
            show_default=False,
            rich_help_panel=options.DRAW,
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            help="Of --beams: above 0 favours long texts.",
            show_default="1.0",
            rich_help_panel=options.DRAW,
        ),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(
            help="A regular expression.",
            show_default=False,
            rich_help_panel=FORM,
            callback=typed.decoded_option,
        ),
    ] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(
            help="A JSON schema, or its file.",
            show_default=False,
            rich_help_panel=FORM,
            callback=typed.decoded_option,
        ),
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(
            help="A grammar (Lark), or its file.",
            show_default=False,
            rich_help_panel=FORM,
            callback=typed.decoded_option,
        ),
    ] = None,
    draft: options.Draft = None,
    prefix_cache: options.PrefixCache = options.PREFIX_MEGABYTES,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            help="Prompts: a line each, or JSON lines, CSV, TSV or Parquet, by the file's name, "
            "also compressed; a directory of them, or a glob. May be repeated.",
            show_default=False,
            rich_help_panel=FILES,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of a table, or the name in JSON lines, with the prompts; the others "
            "are carried through.",
            show_default="prompt",
            rich_help_panel=FILES,
            callback=typed.decoded_option,
        ),
    ] = None,
    output: corpus_options.OutputFiles = None,
    part_rows: corpus_options.PartRows = None,
    ray: Ray = None,
    actors: corpus_options.Actors = None,
    save_run: Annotated[
        Path | None,
        typer.Option(
            help="Write down all that the samples depend on.",
            show_default=False,
            rich_help_panel=FILES,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Make the samples of a saved run again.", show_default=False, rich_help_panel=FILES
        ),
    ] = None,
) -> None:
    r"""Continue PROMPT, or begin a text from nothing.

    Examples:

      gpt2rt generate "The meaning of life is" --top-k 40

      gpt2rt generate "The capital of France is" --stop "." --repetition-penalty 1.2

      gpt2rt generate --nsamples 3 --seed 1 --json

      gpt2rt generate --file prompts.jsonl --output out.jsonl --length 50

      gpt2rt generate --file prompts.parquet --output out.parquet --length 50 --ray 10.0.0.1:6379

      gpt2rt generate --file questions.csv --column question --output answers.csv --length 50

      cat story.txt | gpt2rt generate - --length 100 --model 117M-int8
    """
    if replay is not None:
        _check_replay(context)
        _replay(replay, Showing(as_json, logprobs, stats, stream, show_probs))
        return
    options.check_samples(nsamples)
    _check_files(prompt, file, column, output, save_run)
    corpus_options.check_part_rows(part_rows, output)
    cluster = corpus_options.elsewhere(ray, actors, output)
    _check_beams(beams, length_penalty, logprobs or show_probs, draft)
    showing = Showing(as_json or bool(file), logprobs, stats, stream, show_probs)
    if stats and output is not None:
        raise InvalidSetting("--stats are never the same, and --output is: leave one out")
    if nsamples == 0 and (file or save_run is not None):
        raise InvalidSetting("samples without end go nowhere but to the screen or a pipe")
    if file and beams is not None:
        raise InvalidSetting("--file and --beams exclude each other")
    penalty = 1.0 if length_penalty is None else length_penalty
    width = None if beams is None else Beams(beams, penalty)
    constraint = read_constraint(regex, json_schema, grammar)
    text = None
    if prompt is not None:
        text = standard_input.read() if prompt == "-" else typed.typed(prompt, escape)
    run = Run(
        text,
        nsamples,
        params.seeded(),
        stopping,
        constraint,
        truncate,
        width,
        draft,
        threads,
        batch_size,
        special,
    )
    if params.compat is not None and stopping.length is None:
        n_ctx = fetch.find(model).manifest.hparams.n_ctx  # as OpenAI's two scripts have it
        half = text is not None or bool(file)
        run = replace(run, stopping=replace(stopping, length=n_ctx // 2 if half else n_ctx))
    loading = opening.loading(threads, provider, draft, prefix_cache)
    if file:
        from gpt2rt.cli.commands import prompt_files  # only here, since its imports take a while

        prompts = prompt_files.PromptFiles(file, column)
        if output is None:
            prompts.show(run, logprobs, stats, model, loading)
        else:
            rows = part_rows or corpus_options.PROMPT_PART_ROWS
            prompts.write(run, params.seed, logprobs, output, model, loading, rows, cluster)
        return
    gpt2 = opening.load(model, loading)
    typed.hint_at_space(gpt2.tokenizer, [text])
    completions = showing.show(gpt2, run, STDIN_NAME if prompt == "-" else "prompt")
    if save_run is not None:
        result_files.write(save_run, to_json(run, gpt2, completions, save_run.parent))


@dataclass(frozen=True, slots=True)
class Showing:
    """How samples are shown. Raises `InvalidSetting` for what does not go together."""

    as_json: bool
    logprobs: bool
    stats: bool
    stream: bool
    show_probs: bool

    def __post_init__(self) -> None:
        if self.logprobs and not self.as_json:
            raise InvalidSetting("--logprobs is for --json and --file; --show-probs shows them")
        if self.stats and not self.as_json:
            raise InvalidSetting("--stats is for --json and --file")
        if self.show_probs and self.as_json:
            raise InvalidSetting("--show-probs is for text; --logprobs puts them into JSON")

    def show(self, gpt2: GPT2, run: Run, source: str) -> list[Completion]:
        """Print the samples of a run; returns them, where they have an end."""
        completions: list[Completion] = []

        def noted(pieces: Iterable[Piece]) -> Iterator[Piece]:
            for piece in pieces:
                if piece.completion is not None and run.nsamples:
                    completions.append(piece.completion)
                yield piece

        pieces = noted(run.pieces(gpt2, logprobs=self.logprobs or self.show_probs))
        if self.as_json:
            # Only here, since its imports take a while.
            from gpt2rt.cli.output import sample_records

            sample_records.show(pieces, gpt2, run, self.logprobs, self.stats, source)
        else:
            banner = run.nsamples != 1
            write(pieces, banner=banner, stream=self.stream, show_probs=self.show_probs)
        return completions


def _check_replay(context: typer.Context) -> None:
    """A saved run has settings of its own: others would be ignored."""
    for name in context.params:
        if name not in SHOWING and options.is_given(context, name):
            shown = "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"
            raise InvalidSetting(f"{shown} and --replay exclude each other")


def _check_files(
    prompt: str | None,
    file: list[str] | None,
    column: str | None,
    output: str | None,
    save_run: Path | None,
) -> None:
    for name, needing in (("--output", output), ("--column", column)):
        if needing is not None and not file:
            raise InvalidSetting(f"{name} is for --file; send the text elsewhere with `>`")
    for name, given in (("PROMPT", prompt), ("--save-run", save_run)):
        if file and given is not None:
            raise InvalidSetting(f"{name} and --file exclude each other")
    result_files.check(save_run)


def _check_beams(
    beams: int | None, length_penalty: float | None, logprobs: bool, draft: str | None
) -> None:
    """Raises `InvalidSetting` for what a search has no use for, rather than ignore it."""
    if beams is None and length_penalty is not None:
        raise InvalidSetting("--length-penalty is for --beams")
    if beams is not None and logprobs:
        raise InvalidSetting("a search has no log-probabilities of tokens; `score` has them")
    if beams is not None and draft is not None:
        raise InvalidSetting("--beams and --draft exclude each other")


def _replay(path: Path, showing: Showing) -> None:
    """Make a saved run again, with the same model, and say whether it came out the same."""
    saved = SavedRun.read(path)
    draft = None if saved.run.draft is None else model_of(saved.run.draft, path.parent)
    loading = opening.loading(saved.run.threads, saved.provider, draft)
    gpt2 = opening.load(model_of(saved.bundle, path.parent), loading)
    if gpt2.bundle.digest != saved.digest:
        raise BadRun(
            f"{path}: {saved.bundle} is another bundle now ({gpt2.bundle.digest[:8]}, the run's "
            f"was {saved.digest[:8]}); export the one that made the run"
        )
    completions = showing.show(gpt2, saved.run, "prompt")
    if fingerprint(completions) != saved.tokens:
        versions = ", ".join(f"{name} {version}" for name, version in saved.versions.items())
        raise BadRun(f"{path}: the tokens differ from those of the run, made with {versions}")
