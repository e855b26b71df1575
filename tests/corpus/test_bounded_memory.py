"""A corpus of any size takes the memory of a few parts, resumed or not, and of a few texts."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from gpt2rt import GPT2
from gpt2rt.cli.input.texts import GivenTexts
from gpt2rt.cli.output import records
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.local import made
from gpt2rt.corpus.output import Output
from gpt2rt.corpus.part import cut
from gpt2rt.corpus.tokenize_job import TokenizeJob

SIZE = 100


def peak(work: Callable[[], None]) -> int:
    """Bytes that Python's objects take at most while `work` runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.csv", "out"])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, gpt2: GPT2, name: str) -> None:
    job, peaks = TokenizeJob(), list[tuple[int, int]]()
    for count in (1_000, 1_000, 8_000):  # the first one warms up
        place = tmp_path / str(len(peaks))
        place.mkdir()
        source = place / "in.jsonl"
        with source.open("w") as file:
            file.writelines(f'{{"text": "a b c", "n": {n}}}\n' for n in range(count))
        corpus = Corpus.of([str(source)])

        def run(corpus: Corpus = corpus, target: Path = place / name) -> None:
            with Output(Destination.of(str(target)), job, gpt2.bundle, corpus, SIZE) as output:
                due = output.remaining().of(cut(corpus.rows(), SIZE))
                for part in made(job, gpt2.tokenizer, due, output.layout):
                    output.add(part)
                output.finish()

        peaks.append((peak(run), peak(run)))  # made, and found to be there
    (made_less, found_less), (made_more, found_more) = peaks[1:]
    line = 80 * 400  # the manifest's lines of 70 parts more
    assert made_more < 1.2 * made_less + line
    assert found_more < 1.2 * found_less + line


def test_what_is_printed_takes_no_more_memory_with_the_input(tmp_path: Path, gpt2: GPT2) -> None:
    source, peaks = tmp_path / "in.txt", list[int]()
    for count in (500, 500, 4_000):  # the first one warms up
        source.write_text("a b c\n" * count)
        given = GivenTexts.of(None, [str(source)], lines=True, escape=True)
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            peaks.append(peak(lambda: records.show(TokenizeJob(), gpt2.tokenizer, given)))  # noqa: B023
    assert peaks[2] < 1.1 * peaks[1]
