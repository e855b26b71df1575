"""The tasks with a choice or an answer in words, on data sets of a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt_evals.registry import find
from gpt2rt_evals.shots import Shots
from gpt2rt_evals.summaries import sentences
from gpt2rt_evals.task import EvalSettings
from gpt2rt_evals.text import last_tokens
from models import SHARED
from oracle import Oracle
from small_files import cloze, written
from task_records import figures, records_of

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
