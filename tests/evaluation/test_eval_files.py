"""Data files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2rt.errors import BadData
from gpt2rt_evals.registry import find
from small_files import cloze, written


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
