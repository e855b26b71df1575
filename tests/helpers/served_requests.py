"""Random requests to a server of tiny models: right ones with the library's answer, and wrong ones.

`random_request(random, oracle)` gives one; the same `random` gives the same request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from gpt2rt import GPT2, Completion, Constraint, EmbedParams, Request, SamplingParams, Stopping
from gpt2rt.generation.completion import raise_failures
from served_request import ServedRequest, random_text
from wrong_requests import wrong_request

FIRST, TALKER = "tiny-int8", "talker-int8"  # what the models are called
PATTERNS = ("a+b", "[ab]{2,4}", "(x|yz)*", "[0-9]{3}", "é?😀")
SCHEMAS: Sequence[dict[str, Any]] = ({"type": "integer"}, {"enum": ["a", "bc"]}, {"type": "null"})


def random_request(random: Random, oracle: GPT2) -> ServedRequest:
    """A request of a random kind; `oracle` is the served model, in this process."""
    kinds = [_completion, _chat, _score, _embedding, _tokens, _get, _wrong]
    (make,) = random.choices(kinds, (10, 2, 3, 3, 2, 1, 5))
    return make(random, oracle)


def _post(kind: str, path: str, body: object, check: Callable[[Any], None]) -> ServedRequest:
    return ServedRequest(kind, "POST", path, json.dumps(body).encode(), check=check)


def _ids(random: Random, most: int = 12) -> list[int]:
    return [random.randrange(299) for _ in range(random.randint(1, most))]


# ---- texts


def _prompt(random: Random) -> Any:
    return random.choice(
        [
            None,
            random_text(random),
            random_text(random, 60),  # may be too long
            _ids(random),
            [random_text(random) for _ in range(random.randint(1, 3))],
            [_ids(random) for _ in range(random.randint(1, 3))],
        ]
    )


DRAWING: Mapping[str, Callable[[Random], Any]] = {
    "temperature": lambda random: random.choice([0, 0.5, 1, 1.3]),
    "top_p": lambda random: random.choice([0.3, 0.9, 1]),
    "top_k": lambda random: random.choice([0, 1, 40]),
    "min_p": lambda random: random.choice([0, 0.05]),
    "typical_p": lambda random: random.choice([0.5, 1]),
    "repetition_penalty": lambda random: random.choice([1, 1.3]),
    "frequency_penalty": lambda random: random.choice([-0.5, 0, 1]),
    "presence_penalty": lambda random: random.choice([0, 0.7]),
    "no_repeat_ngram": lambda random: random.choice([0, 2, 3]),
    "min_tokens": lambda random: random.choice([0, 3]),
    "logit_bias": lambda random: {str(random.randrange(300)): random.choice([-100, 5, 100])},
}


def _drawing(random: Random) -> dict[str, Any]:
    """Settings that completions and chat have in common."""
    names = random.sample(list(DRAWING), random.randint(0, 4))
    body = {name: DRAWING[name](random) for name in names}
    body["seed"] = random.getrandbits(64)
    if random.random() < 0.3:
        body["stop"] = random.choice(
            [random_text(random, 2), [random_text(random, 1), random_text(random, 2)]]
        )
    if random.random() < 0.2:
        body["stop_token_ids"] = _ids(random, 3)
    if random.random() < 0.15:
        body["response_format"] = random.choice(
            [
                {"type": "regex", "regex": random.choice(PATTERNS)},
                {"type": "json_schema", "json_schema": {"schema": random.choice(SCHEMAS)}},
                {"type": "text"},
            ]
        )
    if random.random() < 0.5:
        body["stream"] = True
        body["stream_options"] = {"include_usage": random.random() < 0.5}
    return body


def _completion(random: Random, oracle: GPT2) -> ServedRequest:
    body = {"prompt": _prompt(random), "max_tokens": random.randint(1, 24), **_drawing(random)}
    body["model"] = random.choice([None, FIRST, TALKER])
    body["n"] = random.choice([1, 1, 1, 2, 3])
    if random.random() < 0.2:
        body["echo"] = True
        body["max_tokens"] = random.choice([0, body["max_tokens"]])
    elif random.random() < 0.2:
        body["truncate"] = random.choice(["left", "right"])
    if random.random() < 0.3:
        body["logprobs"] = random.randint(0, 3)
    if not body.get("stream") and random.random() < 0.2:
        body["best_of"] = random.randint(body["n"], 4)
    kind = "stream" if body.get("stream") else "completion"
    check = StreamCheck if body.get("stream") else WholeCheck
    return _post(kind, "/v1/completions", body, check(lambda: library_texts(oracle, body)))


def library_texts(oracle: GPT2, body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Text and reason of its end of each choice, by the library alone."""
    given = body["prompt"]
    several = isinstance(given, list) and not isinstance(given[0], int)
    prompts = given if several else [given]
    best_of = body.get("best_of") or body["n"]
    found = []
    if body["max_tokens"] > 0:
        found = library_completions(oracle, prompts, best_of, body["max_tokens"], body)
    texts = []
    for number, prompt in enumerate(prompts):
        before = ""
        if body.get("echo") and prompt is not None:
            before = prompt if isinstance(prompt, str) else oracle.tokenizer.decode(prompt)
        if not found:
            oracle.prompt_tokens(prompt)
            texts += [(before, "length")] * body["n"]
        own = found[number * best_of : (number + 1) * best_of]
        if best_of > body["n"]:
            own = sorted(own, key=_surprise)[: body["n"]]
        texts += [(before + one.text, _reason(one)) for one in own]
    return texts


def library_completions(
    oracle: GPT2, prompts: Sequence[Any], copies: int, length: int, body: Mapping[str, Any]
) -> list[Completion]:
    """The library's completions of copies of prompts, with a body's settings."""
    names = {**{name: name for name in DRAWING}, "min_tokens": "min_length", "seed": "seed"}
    params = {names[name]: value for name, value in body.items() if name in names}
    if "logit_bias" in params:
        params["logit_bias"] = {int(token): bias for token, bias in params["logit_bias"].items()}
    stop = body.get("stop", ())
    wanted = body.get("response_format", {})
    constraint = None
    if "regex" in wanted:
        constraint = Constraint(regex=wanted["regex"])
    elif "json_schema" in wanted:
        constraint = Constraint(json_schema=wanted["json_schema"]["schema"])
    requests = [
        Request(
            prompts[sample // copies],
            SamplingParams(**params),
            Stopping(
                length, [stop] if isinstance(stop, str) else stop, body.get("stop_token_ids", ())
            ),
            constraint,
            body.get("truncate"),
            sample,
            logprobs=True,
        )
        for sample in range(len(prompts) * copies)
    ]
    pieces = raise_failures(oracle.run(requests))
    found = [piece.completion for piece in pieces if piece.completion is not None]
    return sorted(found, key=lambda one: one.sample)


def _surprise(one: Completion) -> float:
    return -float(np.mean(one.logprobs)) if one.logprobs else np.inf


def _reason(one: Completion) -> str:
    return "length" if one.finish_reason in ("length", "context") else "stop"


@dataclass(frozen=True)
class WholeCheck:
    """Whether an answer has the texts of the library."""

    wanted: Callable[[], list[tuple[str, str]]]

    def __call__(self, answer: Any) -> None:
        told = [
            (choice["text"] if "text" in choice else choice["message"]["content"], choice)
            for choice in answer["choices"]
        ]
        found = [(text, choice["finish_reason"]) for text, choice in told]
        assert found == self.wanted(), (found, self.wanted())


@dataclass(frozen=True)
class StreamCheck:
    """Whether events join to the texts of the library; after an error, to beginnings of them."""

    wanted: Callable[[], list[tuple[str, str]]]

    def __call__(self, events: Any) -> None:
        wanted = self.wanted()
        texts, reasons, failed = [""] * len(wanted), [""] * len(wanted), False
        for event in events:
            failed |= "error" in event
            for choice in event.get("choices", ()):
                index = choice["index"]
                assert not reasons[index], "an event after the end"
                texts[index] += choice.get("text") or choice.get("delta", {}).get("content", "")
                reasons[index] = choice["finish_reason"] or ""
        found = list(zip(texts, reasons, strict=True))
        if failed:
            pairs = zip(texts, wanted, strict=True)
            assert all(whole.startswith(text) for text, (whole, _) in pairs), (found, wanted)
        else:
            assert found == wanted, (found, wanted)


def _chat(random: Random, oracle: GPT2) -> ServedRequest:
    contents = [random_text(random, 5) for _ in range(random.randint(1, 3))]
    body = _drawing(random)
    body |= {
        "messages": [{"role": "user", "content": text} for text in contents],
        "max_completion_tokens": random.randint(1, 12),
        "n": random.choice([1, 1, 2]),
    }
    if random.random() < 0.1:  # no template
        return ServedRequest("no chat", "POST", "/v1/chat/completions", json.dumps(body).encode())
    end = oracle.tokenizer.end_of_text  # as DialoGPT has it after each turn
    prompt = [token for text in contents for token in (*oracle.tokenizer.encode(text), end)]

    def wanted() -> list[tuple[str, str]]:
        length = body["max_completion_tokens"]
        found = library_completions(oracle, [prompt], body["n"], length, body)
        return [(one.text, _reason(one)) for one in found]

    check = StreamCheck if body.get("stream") else WholeCheck
    return _post("chat", "/v1/chat/completions", body | {"model": TALKER}, check(wanted))


# ---- the others


def _score(random: Random, oracle: GPT2) -> ServedRequest:
    texts = [random_text(random, 30) for _ in range(random.randint(1, 3))]
    stride = random.choice([None, 8])
    top = random.choice([0, 3])

    def check(answer: Any) -> None:
        wanted = list(oracle.score_batch(texts, stride=stride, top=top))
        assert [one["text"] for one in answer["data"]] == texts
        for told, score in zip(answer["data"], wanted, strict=True):
            assert [one["token"] for one in told["tokens"]] == [one.token for one in score.tokens]
            assert np.isclose(told["totals"]["bits"], score.bits)

    return _post("score", "/v1/score", {"texts": texts, "stride": stride, "top": top}, check)


def _embedding(random: Random, oracle: GPT2) -> ServedRequest:
    texts = [random_text(random, 30) for _ in range(random.randint(1, 3))]
    params = EmbedParams(layer=random.choice([None, 0, 2]), by="text", normalize=True)

    def check(answer: Any) -> None:
        wanted = list(oracle.embed_batch(texts, params))
        found = [one["embedding"] for one in answer["data"]]
        for told, embedding in zip(found, wanted, strict=True):
            np.testing.assert_allclose(told, embedding.vectors[0], atol=1e-4)

    return _post("vectors", "/v1/embeddings", {"input": texts, "layer": params.layer}, check)


def _tokens(random: Random, oracle: GPT2) -> ServedRequest:
    ids, text = _ids(random), random_text(random, 40)
    if random.random() < 0.5:

        def told(answer: Any) -> None:
            assert answer["text"] == oracle.tokenizer.decode(ids)

        return _post("text", "/detokenize", {"tokens": ids}, told)

    def check(answer: Any) -> None:
        assert answer["tokens"] == oracle.tokenizer.encode(text)

    return _post("tokens", "/tokenize", {"text": text}, check)


def _wrong(random: Random, oracle: GPT2) -> ServedRequest:
    return wrong_request(random)


def _get(random: Random, oracle: GPT2) -> ServedRequest:
    path = random.choice(
        ["/health", "/ready", "/v1/models", f"/v1/models/{FIRST}", "/openapi.json"]
    )
    return ServedRequest("get", "GET", path, check=lambda answer: None)
