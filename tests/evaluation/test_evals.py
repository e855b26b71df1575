"""The tasks on a model whose probabilities are known, and on data sets of a few lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt import GPT2
from gpt2rt.errors import BadData, InvalidSetting
from gpt2rt_evals import lm
from gpt2rt_evals.harness_wikitext import read as read_articles
from gpt2rt_evals.metrics import SIZES, Record, measure
from gpt2rt_evals.model import BundleModel
from gpt2rt_evals.registry import TASKS, find
from gpt2rt_evals.shots import Shots
from gpt2rt_evals.summaries import sentences
from gpt2rt_evals.task import EvalSettings
from gpt2rt_evals.text import first_tokens, last_tokens, token_at
from models import SHARED
from oracle import RARE, Oracle
from small_files import cloze, written


def records_of(
    name: str, path: Path, model: Oracle, settings: EvalSettings = EvalSettings()
) -> list[Record]:
    task = find(name)
    examples = task.examples(task.read(path), model, settings)
    return list(task.answer(model, examples, 0, settings))


def figures(name: str, records: list[Record]) -> dict[str, float]:
    return {metric.name: measure(metric, records).value for metric in find(name).metrics}


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


# ---- choices


def test_cbt_compares_the_word_and_the_rest_of_the_sentence(tmp_path: Path) -> None:
    """ " cat" is the likelier word, but only " dog" goes on with " barked."."""
    lines = cloze("The XXXXX barked .", "dog", ["cat", "dog", "sun"])
    path = written(tmp_path / "cbtest_CN_valid_2000ex.txt", lines * 2)

    def predict(text: str) -> dict[str, float]:
        assert text.startswith("Sentence number 1. Sentence number 2. ")
        words = {" cat": 0.5, " dog": 0.3}
        return words if text.endswith(" The") else {" barked.": 0.9 if "dog" in text else 0.1}

    model = Oracle(predict)
    records = records_of("cbt-cn", path, model)
    assert [record["chosen"] for record in records] == [1, 1]
    assert figures("cbt-cn", records) == {"accuracy %": 100}
    assert all(len(p.tokens) - p.first == 2 for p in model.passages)


SCHEMA = {
    "sentence": "The trophy doesn't fit into the suitcase because [it] is too large.",
    "answer0": "The trophy",
    "answer1": "the suitcase",
    "correct_answer": "The trophy",
}


def test_winograd_full_and_partial_scores_differ(tmp_path: Path) -> None:
    """ "suitcase" is the likelier word, "is too large." likelier after "trophy"."""
    path = tmp_path / "schemas.json"
    path.write_text(json.dumps([SCHEMA]))

    def predict(text: str) -> dict[str, float]:
        if text.endswith("because the"):
            return {" suitcase": 0.9, " trophy": 0.01}
        return {" large.": 0.2 if "because the trophy" in text else 0.1}

    (record,) = records_of("winograd", path, Oracle(predict))
    assert (record["full"], record["partial"]) == (0, 1)


@pytest.mark.parametrize(
    ("sentence", "answers", "texts"),
    [
        ("Jim saw Al lift [his] cup.", ("Jim", "The man"), ("Jim's cup.", "the man's cup.")),
        ("Ann left. [She] ran.", ("Ann", "the cat"), ("Ann ran.", "The cat ran.")),
        ("Ann likes [her] .", ("Sue", "the boys"), ("Sue.", "the boys.")),
        ("Ann took [their] car.", ("the boys", "Sue"), ("the boys' car.", "Sue's car.")),
    ],
)
def test_candidates_are_written_as_the_sentence_needs(
    tmp_path: Path, sentence: str, answers: tuple[str, str], texts: tuple[str, str]
) -> None:
    fields = {"answer0": answers[0], "answer1": answers[1], "correct_answer": answers[1]}
    (tmp_path / "s.json").write_text(json.dumps([{"sentence": sentence, **fields}]))
    (schema,) = find("winograd").read(tmp_path / "s.json")
    assert tuple(candidate + schema.after for candidate in schema.candidates) == texts
    assert schema.right == 1


def test_both_files_of_schemas_are_read() -> None:
    place = SHARED / "eval" / "wsc"
    if not place.is_dir():
        pytest.skip(f"{place} is not there")
    first = find("winograd").read(place / "WSC_associative_label.json")
    other = find("winograd").read(place / "WSCollection.xml")
    assert (len(first), len(other)) == (273, 285)
    assert first[:12] == other[:12]


# ---- answers in words


def test_coqa(tmp_path: Path) -> None:
    body = {
        "data": [
            {
                "story": "A white cat.",
                "questions": [{"input_text": "What?"}, {"input_text": "Colour?"}],
                "answers": [{"input_text": "a cat"}, {"input_text": "white"}],
                "additional_answers": {"0": [{"input_text": "cat"}, {"input_text": "red"}]},
            }
        ]
    }
    (tmp_path / "coqa-dev-v1.0.json").write_text(json.dumps(body))
    model = Oracle(say=lambda prompt: " white cat\nQ: more?")
    records = records_of("coqa", tmp_path / "coqa-dev-v1.0.json", model)
    assert model.prompts == [
        "A white cat.\n\nQ: What?\nA:",
        "A white cat.\n\nQ: What?\nA: a cat\nQ: Colour?\nA:",
    ]
    assert [record["answer"] for record in records] == ["white cat", "white cat"]
    assert [record["f1"] for record in records] == pytest.approx([2 / 3, (2 / 3 + 0) / 2])
    assert model.decodings[0].params.greedy


def test_long_prompts_lose_their_beginning_or_the_end_of_the_article(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    words = " ".join(f"w{i}" for i in range(500)) + "."
    rows = [{"article": words, "highlights": "w1 ."}]
    model = Oracle(n_ctx=300)
    records_of("cnndm", written(tmp_path / "cnndm.jsonl", rows), model)
    assert model.prompts[0].startswith("w0 w1 ")
    assert model.prompts[0].endswith("\nTL;DR:")
    assert len(model.encode(model.prompts[0])) == 200
    assert last_tokens(model, words, 3) == " w497 w498 w499."


def test_summaries_are_the_first_three_sentences(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    story = "One.\n\nTwo words.\n\n@highlight\n\nA cat sat\n\n@highlight\n\nIt ran\n"
    (tmp_path / "a.story").write_text(story)
    (tmp_path / "b.story").write_text(story)
    model = Oracle(say=lambda prompt: " A cat sat. It ran! 3.5 dogs? Left out. And this")
    records = records_of("cnndm", tmp_path / "a.story", model)
    assert model.prompts == ["One.\nTwo words.\nTL;DR:"] * 2
    assert records[0]["summary"] == ["A cat sat.", "It ran!", "3.5 dogs?"]
    assert records[0]["rouge1"] == pytest.approx(2 * 5 / (8 + 5))
    params = model.decodings[0].params
    assert (model.decodings[0].length, params.top_k, params.temperature) == (100, 2, 1)


def test_sentences() -> None:
    assert sentences(' One . Two! \' Three? "Four." five') == [
        "One .",
        "Two!",
        "' Three?",
        '"Four."',
        "five",
    ]
    assert sentences("  ") == []


def test_translation(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    pairs = [(f"word {i} here .", f"mot {i} ici .") for i in range(6)]
    written(tmp_path / "newstest2014.en", [a for a, _ in pairs])
    written(tmp_path / "newstest2014.fr", [b for _, b in pairs])
    answers = {f"{a} =": f" {b} Et plus.\nword" for a, b in pairs}
    model = Oracle(say=lambda prompt: answers[prompt.split("\n")[-1]])
    path = tmp_path / "newstest2014.en"
    records = records_of("wmt14-en-fr", path, model, EvalSettings(shots=2))
    assert figures("wmt14-en-fr", records)["BLEU"] == pytest.approx(100)
    for (source, target), prompt in zip(pairs, model.prompts, strict=True):
        *shown, last = prompt.split("\n")
        assert last == f"{source} ="
        assert len(shown) == 2
        assert target not in prompt
        assert all(line in [f"{a} = {b}" for a, b in pairs] for line in shown)
    back = records_of("wmt14-fr-en", tmp_path / "newstest2014.fr", Oracle(), EvalSettings(shots=0))
    assert figures("wmt14-fr-en", back)["BLEU"] == 0


def test_natural_questions(tmp_path: Path) -> None:
    rows = [
        {"question": "who wrote it", "answer": ["The Bard", "Shakespeare"]},
        {"question": "when was it?", "answer": ["1603"]},
    ]
    path = written(tmp_path / "NQ-open.dev.jsonl", rows)
    model = Oracle(say=lambda prompt: " bard.\n\nQ: next")
    records = records_of("nq", path, model, EvalSettings(shots=1))
    assert model.prompts[0] == "Q: When was it?\nA: 1603\n\nQ: Who wrote it?\nA:"
    assert model.prompts[1] == "Q: Who wrote it?\nA: The Bard\n\nQ: When was it?\nA:"
    assert figures("nq", records) == {"exact match %": 50}


@given(
    total=st.integers(1, 8),
    count=st.integers(0, 9),
    seed=st.integers(0, 99),
    tokens=st.integers(1, 40),
)
def test_no_example_is_shown_its_own_solution(
    total: int, count: int, seed: int, tokens: int
) -> None:
    shots = Shots([f" solved{i}" for i in range(total)], count, seed)
    model = Oracle()
    for number in range(total):
        prompt = shots.prompt(model, number, " question", tokens)
        assert f"solved{number}" not in prompt
        assert prompt.endswith(" question")
        assert len(model.encode(prompt)) == min(count, total - 1, tokens - 1) + 1


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


# ---- files that are not what they should be


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("lambada", b'{"text": "a b"}\n{"txt": "c"}\n', "line 2: no field 'text'"),
        ("lambada", b'{"text": "a b"}\nnot json\n', "line 2: not JSON"),
        ("lambada", b'{"text": "alone"}\n', "line 1: 'alone' is not a passage"),
        ("lambada", b'{"text": 3}\n', "line 1: 'text' is a number, not a string"),
        ("lambada", b'["text"]\n', "line 1: a list, not an object with text"),
        ("lambada-harness", b'{"text": "alone"}\n', "line 1: 'alone' is not a passage"),
        ("wikitext2", b"a b\nc \xff d\n", "line 2: byte 6 is not UTF-8"),
        ("wikitext2", b"", "the file is empty"),
        ("wikitext2", b'{"text": "= a ="}\n', "none of lines 1 to 1 is a title"),
        ("wikitext2-harness", b"a\nb\n", "none of lines 1 to 2 is a title"),
        ("ptb", b" a N \n no Capital \n", "line 2: 'Capital' has a capital letter"),
        ("enwik8", b"a\xffbcd\n", "line 1 of the part read is not UTF-8"),
        ("enwik8", b" \n", "the file is empty"),
        ("text8", b"abc D", "byte 4 of the part read is not a small letter"),
        ("cbt-lm", b"no title\n", "line 1: a book begins with `_BOOK_TITLE_"),
        ("cbt-cn", b"1 One .\n3 Three .\n", "line 2: begins with '3', not 2"),
        ("cbt-cn", b"1 One .\n", "the last story has 1 lines, not 21"),
        ("cbt-ne", "\n".join(cloze("No gap .", "a", "ab")).encode(), "has not one XXXXX"),
        ("cbt-ne", "\n".join(cloze("XXXXX .", "c", "ab")).encode(), "'c' is not among the choices"),
        ("cbt-ne", "\n".join(cloze("XXXXX .", "", "ab")).encode(), "line 21: not `question<TAB>"),
        ("winograd", b"{}", "not a list of schemas"),
        ("winograd", b'[{"sentence": "a"}]', "schema 1: no field 'answer0'"),
        ("winograd", b"[\n1,\n", "line 3: not JSON"),
        ("coqa", b'{"data": [{"story": "s", "questions": []}]}', "story 1: no field 'answers'"),
        (
            "coqa",
            b'{"data": [{"story": "s", "questions": [{"input_text": "q"}], "answers": []}]}',
            "story 1: turn 1: an answer is missing",
        ),
        ("cnndm", b'{"article": "a"}\n', "line 1: no field 'highlights'"),
        ("cnndm", b'{"article": "a", "highlights": " "}\n', "line 1: the article or its"),
        ("nq", b'{"question": "q", "answer": []}\n', "line 1: 'answer' is not a list of one"),
        ("nq", b'{"question": "?", "answer": ["a"]}\n', "line 1: the question is empty"),
    ],
)
def test_a_bad_file_is_told_with_its_name_and_line(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(BadData) as error:
        find(name).read(path)
    assert str(error.value).startswith(str(path))
    assert told in str(error.value)


def test_a_bad_xml_file(tmp_path: Path) -> None:
    for text, told in (
        ("<collection>\n<schema>", "line 2: not XML"),
        ("<collection/>", "no element `schema`"),
        ("<c><schema><text><pron>it</pron></text></schema></c>", "schema 1: not a pronoun, two"),
    ):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(BadData, match=told):
            find("winograd").read(tmp_path / "a.xml")


def test_translations_that_do_not_go_together(tmp_path: Path) -> None:
    path = written(tmp_path / "newstest2014.en", ["a", "b"])
    with pytest.raises(BadData, match=r"newstest2014\.fr: cannot be read"):
        find("wmt14-en-fr").read(path)
    written(tmp_path / "newstest2014.fr", ["a"])
    with pytest.raises(BadData, match=r"1 lines, but .* has 2"):
        find("wmt14-en-fr").read(path)
    written(tmp_path / "newstest2014.fr", ["a", " "])
    with pytest.raises(BadData, match="line 2: it or its translation is empty"):
        find("wmt14-fr-en").read(path)
