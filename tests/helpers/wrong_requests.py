"""Random requests that a server has to refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from served_request import ServedRequest, random_text

PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/score",
    "/tokenize",
    "/detokenize",
)
WRONG_FIELDS: Sequence[Callable[[Random], dict[str, Any]]] = (
    lambda random: {"n": 10**9},
    lambda random: {"n": -1},
    lambda random: {"n": 10**400},
    lambda random: {"max_tokens": random.choice([-1, 0, 1.5, "2", 10**30])},
    lambda random: {"temperature": random.choice([float("nan"), float("inf"), -1, "hot"])},
    lambda random: {"prompt": "\ud800" + random_text(random)},
    lambda random: {"prompt": random.choice([[], [[]], {}, [1, "a"], [-1], [10**12], [300], True])},
    lambda random: {"prompt": "a" * 100_000},
    lambda random: {"stop": ["x"] * 5000},
    lambda random: {"stop": ""},
    lambda random: {"logit_bias": {str(i): 1 for i in range(2000)}},
    lambda random: {"logit_bias": {"x": 1}},
    lambda random: {"model": "nosuch" + random_text(random)},
    lambda random: {"suffix": "z"},
    lambda random: {"tempature": 1},
    lambda random: {"best_of": 1, "n": 2},
    lambda random: {"response_format": {"type": "regex", "regex": "(" * random.randint(1, 50)}},
    lambda random: {
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}
    },
)


def _wrong_field(random: Random) -> ServedRequest:
    body = {"prompt": "ab", "max_tokens": 2, **random.choice(WRONG_FIELDS)(random)}
    return ServedRequest("wrong field", "POST", "/v1/completions", json.dumps(body).encode())


def _no_json(random: Random) -> ServedRequest:
    content = random.choice(
        [
            b"",
            b'{"prompt": "ab"',
            b"[" * random.choice([10, 5000, 100_000]),
            b'{"a":' * 5000,
            random.randbytes(random.randint(1, 2000)),
            b"\xff\xfe{}",
            b'"' + b"\\ud800" * 10 + b'"',
            b"null",
            b"[1, 2]",
        ]
    )
    return ServedRequest("no json", "POST", random.choice(PATHS), content)


def _too_large(random: Random) -> ServedRequest:
    content = b'{"prompt": "' + b"a" * random.choice([1 << 20, 3 << 20]) + b'"}'
    return ServedRequest("too large", "POST", random.choice(PATHS), content)


def _wrong_place(random: Random) -> ServedRequest:
    method, path = random.choice(
        [
            ("GET", "/v1/completions"),
            ("DELETE", "/health"),
            ("POST", "/nosuch"),
            ("GET", "/v1/models/nosuch"),
            ("GET", "/%00/../etc/passwd"),
            ("PUT", "/tokenize"),
        ]
    )
    return ServedRequest("wrong place", method, path, b"{}")


def _wrong_head(random: Random) -> ServedRequest:
    fields: Mapping[str, str] = random.choice(
        [
            {"Content-Type": "text/plain"},
            {"Host": "evil.example"},
            {"Content-Length": "ten"},
            {"Content-Length": "-1"},
            {f"X-{i}": "a" for i in range(300)},
            {"X-Long": "a" * 100_000},
            {"Transfer-Encoding": "nonsense"},
        ]
    )
    return ServedRequest("wrong head", "POST", random.choice(PATHS), b"{}", fields)


def wrong_request(random: Random) -> ServedRequest:
    """One that a server has to refuse."""
    kinds = [_wrong_field, _no_json, _wrong_place, _wrong_head, _too_large]
    (make,) = random.choices(kinds, (8, 5, 2, 3, 1))
    return make(random)
