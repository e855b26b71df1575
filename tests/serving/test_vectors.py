"""`/v1/embeddings`: the library's vectors, of texts, words and tokens; and tokens themselves."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from gpt2rt import GPT2, EmbedParams
from serving import fault

PATH = "/v1/embeddings"
TEXT = "ab cd ab"


def embed(client: TestClient, **body: Any) -> Any:
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer": 0},
        {"pooling": "weighted"},
        {"normalize": False},
        {"by": "word"},
        {"by": "token"},
        {"by": "word", "word": "ab"},
        {"stride": 2},
    ],
    ids=str,
)
def test_vectors_are_the_librarys(client: TestClient, gpt2: GPT2, settings: dict[str, Any]) -> None:
    wanted = gpt2.embed(TEXT, EmbedParams(**{"by": "text", "normalize": True, **settings}))
    data = embed(client, input=TEXT, **settings)["data"]
    np.testing.assert_array_equal([one["embedding"] for one in data], wanted.vectors)
    if settings.get("by"):
        assert [(one["text"], tuple(one["span"])) for one in data] == list(
            zip(wanted.texts, wanted.spans, strict=True)
        )


def test_vectors_have_length_1_unless_told(client: TestClient) -> None:
    for settings, length in (({}, 1.0), ({"normalize": False}, None)):
        (one,) = embed(client, input=TEXT, **settings)["data"]
        found = float(np.linalg.norm(one["embedding"]))
        assert found == pytest.approx(1, abs=1e-6) if length else found > 1.5


def test_base64_holds_the_same_numbers(client: TestClient) -> None:
    plain = embed(client, input=[TEXT, "c"])["data"]
    coded = embed(client, input=[TEXT, "c"], encoding_format="base64")["data"]
    for one, other in zip(plain, coded, strict=True):
        found = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        np.testing.assert_array_equal(found, one["embedding"])


def test_ids_are_the_text_of_which_they_are_the_tokens(client: TestClient, gpt2: GPT2) -> None:
    ids = gpt2.tokenizer.encode(TEXT)
    text = embed(client, input=TEXT)
    assert embed(client, input=ids)["data"] == text["data"]
    assert embed(client, input=[ids, ids])["data"][1] == {**text["data"][0], "index": 1}
    assert text["usage"] == {"prompt_tokens": len(ids), "total_tokens": len(ids)}


def test_words_of_several_inputs_say_which(client: TestClient) -> None:
    data = embed(client, input=["a b", "c"], by="word")["data"]
    assert [(one["index"], one["input"], one["text"]) for one in data] == [
        (0, 0, "a"),
        (1, 0, "b"),
        (2, 1, "c"),
    ]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": ""}, "bad_text", "input"),
        ({"input": "a" * 200}, "context_length_exceeded", "input"),
        ({"input": "a", "layer": 4}, "invalid_value", "layer"),
        ({"input": "a", "word": "a"}, "invalid_value", "word"),
        ({"input": "a", "by": "word", "word": "b"}, "bad_text", "input"),
        ({"input": "a", "stride": 49}, "invalid_value", "stride"),
        ({"input": [300]}, "invalid_value", None),
        ({"input": [64, 64]}, "invalid_value", "input"),  # `aa` is one token
        ({"input": "a b" * 40_000, "by": "word", "stride": 9}, "too_long", "input"),
        ({"input": "a", "dimensions": 7}, "invalid_value", "dimensions"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_embedded(
    client: TestClient, body: dict[str, Any], code: str, param: str | None
) -> None:
    answer = client.post(PATH, json=body)
    assert fault(answer) == (400, code)
    assert answer.json()["error"]["param"] == param


def test_the_models_own_length_may_be_asked_for(client: TestClient, gpt2: GPT2) -> None:
    width = gpt2.hparams.n_embd
    assert embed(client, input="a", dimensions=width) == embed(client, input="a")


# ---- tokens


@pytest.mark.parametrize("text", ["", "ab", "aé€😀", "ab<|endoftext|>"])
@pytest.mark.parametrize("special", [False, True])
def test_tokens_and_text_are_a_round_trip(
    client: TestClient, gpt2: GPT2, text: str, special: bool
) -> None:
    found = client.post("/tokenize", json={"text": text, "special": special}).json()
    assert found["tokens"] == gpt2.tokenizer.encode(text, special=special)
    assert tuple(found["prompt"]) == gpt2.prompt_tokens(text or None, special=special)
    assert found["count"] == len(found["tokens"])
    assert found["n_ctx"] == gpt2.hparams.n_ctx
    spans = gpt2.tokenizer.encode_spans(text, special=special).spans
    assert [tuple(span) for span in found["spans"]] == list(spans)
    back = client.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back["text"] == text


def test_tokens_of_no_text_and_no_tokens(client: TestClient) -> None:
    assert client.post("/detokenize", json={"tokens": []}).json()["text"] == ""
    assert fault(client.post("/detokenize", json={"tokens": [300]})) == (400, "invalid_value")
    assert fault(client.post("/tokenize", json={"text": 5}))[0] == 422
