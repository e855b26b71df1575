"""The tasks that score a text: language modelling, LAMBADA; and the table of all tasks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt import GPT2
from gpt2rt.errors import InvalidSetting
from gpt2rt_evals import lm
from gpt2rt_evals.harness_wikitext import read as read_articles
from gpt2rt_evals.metrics import SIZES
from gpt2rt_evals.model import BundleModel
from gpt2rt_evals.registry import TASKS, find
from gpt2rt_evals.task import EvalSettings
from gpt2rt_evals.text import first_tokens, last_tokens, token_at
from oracle import RARE, Oracle
from small_files import written
from task_records import figures, records_of

# ---- language modelling


@pytest.mark.parametrize(("n_ctx", "stride"), [(1024, None), (7, None), (7, 2), (1, 1)])
@pytest.mark.parametrize(
    ("name", "lines", "units"),
    [
        ("wikitext2", [" ", " = A Title = ", " ", " The cat 's tail , too . "], 1 + 5 + 1 + 8),
        ("wikitext103", [" = A = ", " a <unk> @-@ b "], 4 + 5),
        ("ptb", [" no it was n't black monday ", " but while N % "], 7 + 5),
        ("1bw", ['He said " no " .', "", "It is n't ."], 7 + 5),
        (
            "cbt-lm",
            ["_BOOK_TITLE_ : a.txt", "`` Well , '' said he .", "_BOOK_TITLE_ : b"],
            4 + 8 + 4,
        ),
        ("enwik8", ["<page>", "héllo"], 7 + 7),
        ("text8", [" anarchism originated as a term"], 31),
    ],
)
def test_a_loss_is_divided_by_the_original_units(
    tmp_path: Path, name: str, lines: list[str], units: int, n_ctx: int, stride: int | None
) -> None:
    """Every token has the same probability, so the loss is their number times a constant,
    however the text is cut into windows."""
    path = written(tmp_path / "data", lines)
    model = Oracle(n_ctx=n_ctx)
    records = records_of(name, path, model, EvalSettings(stride=stride))
    documents = find(name).read(path)
    tokens = sum(len(model.encode(document.text)) for document in documents)
    loss = -math.log(RARE) * tokens
    assert sum(record["tokens"] for record in records) == tokens
    assert sum(record["units"] for record in records) == pytest.approx(units)
    assert sum(record["nats"] for record in records) == pytest.approx(loss, rel=1e-6)
    (value,) = figures(name, records).values()
    bits = name in ("enwik8", "text8")
    assert value == pytest.approx(
        loss / units / math.log(2) if bits else math.exp(loss / units), rel=1e-6
    )


def test_a_document_begins_at_end_of_text_and_sentences_do_not_see_each_other(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "data", ["one two", "three"])
    together, apart = Oracle(), Oracle()
    records_of("ptb", path, together)
    records_of("1bw", path, apart)
    assert [passage.tokens[0] for passage in apart.passages] == [0, 0]
    assert len(together.passages) == 1


def test_windows_read_what_is_before_them(tmp_path: Path) -> None:
    model = Oracle(n_ctx=4)
    records_of(
        "text8", written(tmp_path / "data", ["a b c d e f g h"]), model, EvalSettings(stride=2)
    )
    assert [len(passage.tokens) for passage in model.passages] == [5, 5, 5]
    assert [passage.first for passage in model.passages] == [1, 3, 3]
    with pytest.raises(InvalidSetting, match="stride must be at most the context, 4"):
        records_of("text8", tmp_path / "data", model, EvalSettings(stride=5))


@pytest.mark.parametrize("cut", range(1, 5))
def test_enwik8_leaves_out_half_characters(tmp_path: Path, cut: int) -> None:
    whole = "𝄞abc𝄞".encode()
    (tmp_path / "enwik8").write_bytes(whole[cut : len(whole) - cut])
    (document,) = lm.enwik8(tmp_path / "enwik8")
    assert document.text == "abc"
    assert sum(document.units) == 3


def test_the_test_part_is_the_end_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm, "WHOLE", 20)
    monkeypatch.setattr(lm, "SPLIT", 5)
    (tmp_path / "text8").write_bytes(b"abcdefghij klmnopqrs")
    assert lm.text8(tmp_path / "text8")[0].text == "opqrs"


def test_articles_are_cut_at_titles_only(tmp_path: Path) -> None:
    lines = [" ", " = A = ", " text ", " = = B = = ", " x = y ", " = C D = ", " end "]
    articles = read_articles(written(tmp_path / "wiki.test.raw", lines))
    assert [article.split("\n")[0 if i else 1] for i, article in enumerate(articles)] == [
        " = A = ",
        " = C D = ",
    ]
    assert "\n".join(articles) == "\n".join([*lines, ""])


# ---- LAMBADA


def test_lambada_with_and_without_the_filter(tmp_path: Path) -> None:
    """ " the" is the likelier end; skipped as a stop word, it leaves the right one."""
    rows = [{"text": f"a b {word}"} for word in ("dog", "cat", "the")]
    chances = {" the": 0.5, " dog": 0.25, " cat": 0.125}
    model = Oracle(lambda text: chances)
    records = records_of("lambada", written(tmp_path / "lambada_test.jsonl", rows), model)
    found = figures("lambada", records)
    assert found["accuracy %"] == pytest.approx(100 / 3)
    assert found["accuracy %, stop-word filter"] == pytest.approx(100 / 3)
    assert found["perplexity of the last word"] == pytest.approx((4 * 8 * 2) ** (1 / 3))
    assert [record["filtered"] for record in records] == [1, 0, 0]
    assert [record["found"] for record in records] == [0, 0, 1]


def test_lambada_reads_a_newline_before_the_passage_and_predicts_the_last_word(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "l.jsonl", [{"text": 'he said\n\n"Hello'}, {"text": " x  y "}])
    seen: list[str] = []

    def predict(text: str) -> dict[str, float]:
        seen.append(text)
        return {}

    model = Oracle(predict)
    records_of("lambada", path, model)
    assert seen == ["\nhe said\n\n", "\nx "]


def test_lambada_as_the_harness_cuts_it(tmp_path: Path) -> None:
    path = written(tmp_path / "l.jsonl", [{"text": "a b\n\nc d"}, {"text": "e f\n\ng"}])
    model = Oracle(lambda text: {" d": 0.5} if text.endswith("c") else {" f": 0.5, "\n": 0.5})
    records = records_of("lambada-harness", path, model)
    assert records[0]["nats"] == pytest.approx(math.log(2))
    assert records[0]["found"] == 1
    assert records[1]["nats"] == pytest.approx(3 * math.log(2) - math.log(RARE), rel=1e-6)


# ---- texts and tokens


@given(text=st.text(max_size=60), count=st.integers(1, 30))
def test_cut_texts_fit(tiny_models: dict[str, GPT2], text: str, count: int) -> None:
    model = BundleModel(tiny_models["fp32"])
    end, beginning = last_tokens(model, text, count), first_tokens(model, text, count)
    assert text.endswith(end)
    assert text.startswith(beginning)
    assert max(len(model.encode(end)), len(model.encode(beginning))) <= count
    if len(model.encode(text)) <= count:
        assert end == beginning == text


@given(before=st.text(max_size=20), after=st.text(min_size=1, max_size=20))
def test_the_token_at_a_place_holds_its_first_byte(
    tiny_models: dict[str, GPT2], before: str, after: str
) -> None:
    model = BundleModel(tiny_models["fp32"])
    tokens = model.encode(before + after)
    at = token_at(model, tokens, before)
    start = len(model.decode_bytes(tokens[:at]))
    place = len(before.encode())
    assert start <= place < start + len(model.decode_bytes(tokens[at : at + 1]))


# ---- the table of tasks


def test_the_table() -> None:
    assert all(name == task.name for name, task in TASKS.items())
    for task in TASKS.values():
        assert len({metric.name for metric in task.metrics}) == len(task.metrics)
        assert all(set(metric.paper) <= set(SIZES) for metric in task.metrics)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(InvalidSetting, match="did you mean winograd"):
        find("vinograd")
    assert find("LAMBADA").name == "lambada"
