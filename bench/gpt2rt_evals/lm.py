"""Language modelling (section 3.1): how well the model predicts a text, by its own units.

The losses of all GPT-2 tokens are summed and divided by the data set's original count of words,
bytes or characters, whatever the tokens were. As the word-level models that these data sets were
made for do, the end of a line counts as a word. A document is read from `<|endoftext|>` on, in
windows of the whole context; each window moves on by the stride, and every token is scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2rt.errors import BadData, InvalidSetting
from gpt2rt.scoring.scoring import Passage, windows
from gpt2rt_evals import data
from gpt2rt_evals.detokenise import NEWS, PENN, TREEBANK, WIKITEXT, Style, detokenise
from gpt2rt_evals.metrics import Metric, Record, bits, paper, perplexity
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask
from gpt2rt_evals.text import ends

SPLIT = 5_000_000  # bytes of the test part of enwik8 and of text8, by custom the last
WHOLE = 100_000_000  # bytes of those files


@dataclass(frozen=True, slots=True)
class LmDocument:
    """A text in pieces, and the number of the data set's own units in each piece."""

    pieces: tuple[str, ...]
    units: tuple[int, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Window:
    """A passage of a document, and how many units and bytes its scored tokens are."""

    passage: Passage
    units: float
    bytes: int


def windows_of(
    documents: Iterable[LmDocument], model: LanguageModel, settings: EvalSettings
) -> list[Window]:
    """The windows of all documents. Raises `InvalidSetting` for a stride beyond the context.

    A window that ends inside a piece gets units in proportion to its bytes of the piece, so that
    the units of a document's windows add up to its count.
    """
    stride = model.n_ctx if settings.stride is None else settings.stride
    if stride > model.n_ctx:
        raise InvalidSetting(f"the stride must be at most the context, {model.n_ctx}, not {stride}")
    found: list[Window] = []
    for document in documents:
        text = model.encode(document.text)
        tokens = [model.start_of_text, *text]
        at = [0, *ends(model, text)]  # where each token ends; the first stands before the text
        piece_ends = np.cumsum([0, *(len(piece.encode("utf-8")) for piece in document.pieces)])
        units = np.interp(at, piece_ends, np.cumsum([0, *document.units]))
        for start, end, first in windows(len(tokens), model.n_ctx, stride):
            passage = Passage(tuple(tokens[start:end]), first - start)
            share = float(units[end - 1] - units[first - 1])
            found.append(Window(passage, share, at[end - 1] - at[first - 1]))
    return found


def answer(
    model: LanguageModel, examples: Sequence[Window], first: int, settings: EvalSettings
) -> Iterator[Record]:
    scores = model.score(window.passage for window in examples)
    for window, score in zip(examples, scores, strict=True):
        yield {
            "nats": -float(score.logprobs.sum(dtype=np.float64)),
            "units": window.units,
            "bytes": window.bytes,
            "tokens": len(score.logprobs),
        }


# ---- the data sets


def titled(path: Path) -> list[str]:
    """The lines of a file of articles with titles. Raises `BadData` where there is no title."""
    lines = data.lines_of(path)
    if not any(line.strip().startswith("= ") and line.strip().endswith(" =") for line in lines):
        raise BadData(f"{path}: none of lines 1 to {len(lines)} is a title, ` = Title = `")
    return lines


def wikitext(path: Path) -> list[LmDocument]:
    """WikiText: a tokenised text as one document, a piece a line."""
    return [_document(titled(path), WIKITEXT)]


def penn(path: Path) -> list[LmDocument]:
    """Penn Treebank: as `wikitext`, but lower case. Raises `BadData` for a capital letter."""
    lines = data.lines_of(path)
    for number, line in enumerate(lines, 1):
        if strange := [word for word in line.split() if word != word.lower() and word != "N"]:
            raise BadData(f"{path}: line {number}: {strange[0]!r:.40} has a capital letter")
    return [_document(lines, PENN)]


def _document(lines: Sequence[str], style: Style) -> LmDocument:
    framed = _framed(lines)
    pieces = tuple(natural(line, style, framed) + "\n" for line in lines)
    return LmDocument(pieces, tuple(len(line.split()) + 1 for line in lines))


def natural(line: str, style: Style, framed: bool) -> str:
    """`detokenise`, and where lines are `framed` without the space at either end.

    Still invertible: a line without that frame gets a mark in front, which no other result has.
    """
    if not framed:
        return detokenise(line, style)
    if line == " ":
        return ""
    if len(line) > 2 and line.startswith(" ") and line.endswith(" "):
        return detokenise(line[1:-1], style)
    return "\\ " + detokenise(line, style)


def _framed(lines: Sequence[str]) -> bool:
    """Whether the lines stand between spaces, as those of WikiText and Penn Treebank do."""
    return 2 * sum(line.startswith(" ") and line.endswith(" ") for line in lines) > len(lines)


def sentences(path: Path) -> list[LmDocument]:
    """1 Billion Word: shuffled sentences, each a document of its own."""
    lines = [line for line in data.lines_of(path) if line.strip()]
    return [
        LmDocument((detokenise(line, NEWS) + "\n",), (len(line.split()) + 1,)) for line in lines
    ]


def books(path: Path) -> list[LmDocument]:
    """Children's Book: a document from each `_BOOK_TITLE_` line on. Raises `BadData`."""
    found: list[list[str]] = []
    for number, line in enumerate(data.lines_of(path), 1):
        if line.startswith("_BOOK_TITLE_"):
            found.append([])
        if not found:
            raise BadData(f"{path}: line {number}: a book begins with `_BOOK_TITLE_ : name`")
        found[-1].append(line)
    return [_document(lines, TREEBANK) for lines in found]


def enwik8(path: Path) -> list[LmDocument]:
    """enwik8: bytes of UTF-8, without the parts of characters at either end of the test part.

    Raises `BadData`.
    """
    raw = _last(path)
    start = next((i for i, byte in enumerate(raw[:4]) if byte & 0xC0 != 0x80), 0)
    try:
        text = raw[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(raw) - start or error.reason != "unexpected end of data":
            line = raw.count(b"\n", 0, start + error.start) + 1
            raise BadData(f"{path}: line {line} of the part read is not UTF-8") from None
        text = raw[start : start + error.start].decode("utf-8")
    pieces = tuple(text.splitlines(keepends=True))
    return [LmDocument(pieces, tuple(len(piece.encode("utf-8")) for piece in pieces))]


def text8(path: Path) -> list[LmDocument]:
    """text8: lower-case letters and single spaces. Raises `BadData`."""
    raw = _last(path).removesuffix(b"\n")
    strange = raw.translate(None, b"abcdefghijklmnopqrstuvwxyz ")
    if strange:
        byte = raw.index(strange[:1])
        raise BadData(f"{path}: byte {byte} of the part read is not a small letter or a space")
    return [LmDocument((raw.decode("ascii"),), (len(raw),))]


def _last(path: Path) -> bytes:
    """The last `SPLIT` bytes of a file of `WHOLE` bytes, and any other file whole."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror})") from None
    if not raw.strip():
        raise BadData(f"{path}: the file is empty")
    return raw[-SPLIT:] if len(raw) == WHOLE else raw


WORD = "perplexity a word"


def _task(
    name: str,
    title: str,
    files: tuple[str, ...],
    form: str,
    read: Callable[[Path], list[LmDocument]],
    figures: dict[str, float],
    metric: str = WORD,
    chunk: int = 8,
) -> EvalTask:
    figure = perplexity if metric == WORD else bits
    metrics = (Metric(metric, ("nats", "units"), figure, figures),)
    return EvalTask(name, title, files, form, "window", metrics, read, windows_of, answer, chunk)


WIKI_FILES = ("wiki.test.raw", "wiki.test.tokens")
WIKI_FORM = "wiki.test.raw or wiki.test.tokens: lines of words between spaces, ` = Title = `"
TASKS = (
    _task(
        "wikitext2",
        "WikiText-2",
        ("*wikitext*2*/wiki.test.raw", "*wikitext*2*/wiki.test.tokens", *WIKI_FILES),
        WIKI_FORM,
        wikitext,
        paper(29.41, 22.76, 19.93, 18.34),
    ),
    _task(
        "wikitext103",
        "WikiText-103",
        ("*wikitext*103*/wiki.test.raw", "*wikitext*103*/wiki.test.tokens", *WIKI_FILES),
        WIKI_FORM,
        wikitext,
        paper(37.50, 26.37, 22.05, 17.48),
    ),
    _task(
        "ptb",
        "Penn Treebank",
        ("ptb.test.txt",),
        "ptb.test.txt: a sentence a line, small letters, <unk>, N for numbers",
        penn,
        paper(65.85, 47.33, 40.31, 35.76),
    ),
    _task(
        "enwik8",
        "enwik8",
        ("enwik8", "test.txt.raw"),
        "enwik8 (of its 100,000,000 bytes the last 5,000,000), or its test part as a file",
        enwik8,
        paper(1.16, 1.01, 0.97, 0.93),
        "bits a byte",
    ),
    _task(
        "text8",
        "text8",
        ("text8", "test.txt.raw"),
        "text8 (of its 100,000,000 letters the last 5,000,000), or its test part as a file",
        text8,
        paper(1.17, 1.06, 1.02, 0.98),
        "bits a character",
    ),
    _task(
        "1bw",
        "1 Billion Word",
        ("news.en.heldout-00000-of-00050",),
        "news.en.heldout-00000-of-00050: a tokenised sentence a line, in any order",
        sentences,
        paper(75.20, 55.72, 44.575, 42.16),
        chunk=64,
    ),
    _task(
        "cbt-lm",
        "Children's Book, text",
        ("cbt_valid.txt", "cbt_test.txt"),
        "cbt_valid.txt: tokenised books, each after a line `_BOOK_TITLE_ : name`",
        books,
        {},
    ),
)
