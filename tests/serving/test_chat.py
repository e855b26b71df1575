"""Chat: a fine-tune's template goes from its files into the bundle, and is rendered as there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jinja2 import TemplateError

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import CHAT_TEMPLATE, LARGEST_TEXT, MANIFEST
from gpt2rt.errors import BadBundle, BadCheckpoint
from gpt2rt.serving.chat_template import ChatTemplate
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.settings import ServeSettings
from gpt2rt_export.chat_template import write_chat_template
from serving import fault, in_process

PATH = "/v1/chat/completions"
MESSAGES = [
    {"role": "system", "content": 'Be <kind> & "brief".'},
    {"role": "user", "content": " Grüße\n"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "So."},
    {"role": "user", "content": "4"},
]
TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<p\"'é>"}

# Templates and what Transformers 5.24 makes of them, the messages and the tokens above, with
# `apply_chat_template(..., tokenize=False, add_generation_prompt=True)`.
RENDERED = {
    # microsoft/DialoGPT's
    "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}": (
        'Be <kind> & "brief".<|im_end|> Grüße\n<|im_end|>Yes?<|im_end|>So.<|im_end|>4<|im_end|>'
    ),
    """{% for message in messages %}
    {{- bos_token + message['role'] + '\\n' + message['content'] | trim + eos_token + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
{{ bos_token }}assistant
{% endif %}""": (
        '<|im_start|>system\nBe <kind> & "brief".<|im_end|>\n<|im_start|>user\nGrüße<|im_end|>\n'
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nSo.<|im_end|>\n"
        "<|im_start|>user\n4<|im_end|>\n<|im_start|>assistant\n"
    ),
    """{%- if tools is not none %}TOOLS{% endif %}
{% for m in messages if m.role != 'system' %}
  {% if loop.index0 > 2 %}{% break %}{% endif %}
  {{ m | tojson }} {{ m | tojson(indent=1) }}
  {% generation %}
  {{ m.content.upper() }}
  {% endgeneration %}
{% endfor %}
{{ pad_token }}|{{ unk_token }}|{{ nothing }}
""": (
        '  {"role": "user", "content": " Grüße\\n"} {\n "role": "user",\n "content": " Grüße\\n"\n}'
        '\n   GRÜSSE\n\n  {"role": "assistant", "content": "Yes?"} {\n "role": "assistant",\n '
        '"content": "Yes?"\n}\n  YES?\n  {"role": "user", "content": "So."} {\n "role": "user",\n '
        '"content": "So."\n}\n  SO.\n<p"\'é>||'
    ),
    "  {% if true %}x{% endif %}\n\n  {{ bos_token }}\n": "x\n  <|im_start|>",
}
DIALOGPT = next(iter(RENDERED))


def exported(folder: Path, config: object, **files: str) -> tuple[str | None, list[str]]:
    """The template that an export of these files writes, and its notes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    (folder / "out").mkdir()
    notes = write_chat_template(folder, folder / "out")
    path = folder / "out" / CHAT_TEMPLATE
    return (path.read_text() if path.exists() else None), notes


@pytest.mark.parametrize("template", RENDERED, ids=["dialogpt", "chatml", "odd", "lead"])
@pytest.mark.parametrize("own_file", [False, True])
def test_a_template_is_rendered_as_transformers_does(
    tmp_path: Path, template: str, own_file: bool
) -> None:
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS}
    if own_file:  # counts before the one of the settings
        config = {**tokens, "chat_template": "another"}
        source, notes = exported(tmp_path, config, chat_template__jinja=template)
    else:
        source, notes = exported(tmp_path, {**tokens, "chat_template": template})
    assert source is not None
    assert notes == []
    assert ChatTemplate(source).render(MESSAGES) == RENDERED[template]


def test_gpt2s_tokens_are_those_of_its_tokenizer_unless_named(tmp_path: Path) -> None:
    source, _ = exported(tmp_path, {"chat_template": DIALOGPT})
    assert ChatTemplate(source or "").render(MESSAGES[3:]) == "So.<|endoftext|>4<|endoftext|>"


def test_of_several_templates_the_default_is_carried(tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    source, (note,) = exported(tmp_path, {"chat_template": several})
    assert source == "yes"
    assert "rag is not carried" in note


@pytest.mark.parametrize("config", [{}, {"chat_template": None}, {"chat_template": [{}]}])
def test_without_a_template_there_is_no_file(tmp_path: Path, config: object) -> None:
    assert exported(tmp_path, config)[0] is None


def test_what_is_no_template_is_noted_and_damaged_files_are_errors(tmp_path: Path) -> None:
    source, (note,) = exported(tmp_path / "number", {"chat_template": 5})
    assert source is None
    assert "5" in note
    source, (note,) = exported(tmp_path / "long", {"chat_template": "x" * (LARGEST_TEXT + 1)})
    assert source is None
    assert "longer" in note
    with pytest.raises(BadCheckpoint, match="chat template"):
        exported(tmp_path / "list", [])


def test_a_template_can_refuse_and_fail_but_not_reach_out() -> None:
    for source, why in (
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ messages.nothing.more }}", "nothing"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ):
        with pytest.raises(Fault, match=why) as raised:
            ChatTemplate(source).render(MESSAGES)
        assert (raised.value.status, raised.value.param) == (400, "messages")
    with pytest.raises(TemplateError):
        ChatTemplate("{% for %}")


# ---- the endpoint

Talks = Callable[[str], TestClient]


@pytest.fixture(scope="module")
def talker(tiny_bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model with DialoGPT's template."""
    place = tmp_path_factory.mktemp("talker") / "bundle"
    shutil.copytree(tiny_bundles["int8"].directory, place)
    return with_template(Bundle.open(place), '{% set eos_token = "<|endoftext|>" %}\n' + DIALOGPT)


def with_template(bundle: Bundle, source: str) -> Bundle:
    path = bundle.directory / CHAT_TEMPLATE
    path.write_text(source)
    files = {**bundle.manifest.files, CHAT_TEMPLATE: record(path)}
    manifest = replace(bundle.manifest, files=files)
    (bundle.directory / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(bundle.directory)


@pytest.fixture(scope="module")
def talks(talker: Bundle) -> Iterator[TestClient]:
    with in_process(ServeSettings((str(talker.directory),), port=0, threads=1, slots=4)) as client:
        yield client


def ask(client: TestClient, *contents: str, **settings: Any) -> Any:
    messages = [{"role": "user", "content": text} for text in contents]
    return client.post(PATH, json={"messages": messages, "seed": 1, **settings})


def test_the_next_message_is_the_librarys_text(talks: TestClient, gpt2: GPT2) -> None:
    answer = ask(talks, "ab", "c", max_completion_tokens=6, n=2).json()
    prompt = [*gpt2.tokenizer.encode("ab"), 299, *gpt2.tokenizer.encode("c"), 299]
    wanted = gpt2.generate_batch([prompt] * 2, SamplingParams(seed=1), Stopping(6))
    assert [choice["message"]["content"] for choice in answer["choices"]] == [
        one.text for one in wanted
    ]
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_a_developer_is_the_system(talks: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def render(self: ChatTemplate, messages: Any) -> str:
        seen.append(messages)
        return "a"

    monkeypatch.setattr(ChatTemplate, "render", render)
    for role in ("developer", "system"):
        told = [{"role": role, "content": "a"}, {"role": "user", "content": "b"}]
        assert talks.post(PATH, json={"messages": told, "max_tokens": 1}).status_code == 200
    assert seen[0] == seen[1]
    assert seen[0][0] == {"role": "system", "content": "a"}


def test_parts_of_a_message_are_one_text(talks: TestClient) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answer = talks.post(PATH, json={"messages": [{"role": "user", "content": parts}], "seed": 1})
    assert answer.json()["choices"] == ask(talks, "ab").json()["choices"]


def test_a_message_in_parts_is_the_whole_message(talks: TestClient) -> None:
    whole = ask(talks, "ab", n=2, logprobs=True, top_logprobs=2).json()
    answer = ask(talks, "ab", n=2, logprobs=True, top_logprobs=2, stream=True)
    *parts, done = answer.content.decode().split("\n\n")[:-1]
    assert done == "data: [DONE]"
    choices = [c for part in parts for c in json.loads(part.removeprefix("data: "))["choices"]]
    for choice in whole["choices"]:
        mine = [part for part in choices if part["index"] == choice["index"]]
        text = "".join(part["delta"].get("content", "") for part in mine)
        assert text == choice["message"]["content"]
        assert [part["delta"].get("role") for part in mine] == ["assistant"] + [None] * (
            len(mine) - 1
        )
        assert [t for part in mine for t in part["logprobs"]["content"]] == choice["logprobs"][
            "content"
        ]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]


def test_logprobs_are_those_of_completions(talks: TestClient) -> None:
    told = ask(talks, "ab", logprobs=True, top_logprobs=2, max_tokens=4).json()["choices"][0]
    prompt = {"prompt": "ab<|endoftext|>", "special": True, "seed": 1, "max_tokens": 4}
    other = talks.post("/v1/completions", json={**prompt, "logprobs": 2}).json()["choices"][0]
    tokens = told["logprobs"]["content"]
    assert [token["logprob"] for token in tokens] == other["logprobs"]["token_logprobs"]
    for token, best in zip(tokens, other["logprobs"]["top_logprobs"], strict=True):
        logprobs = [one["logprob"] for one in token["top_logprobs"]]
        assert logprobs == list(best.values())[:2]
    text = b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
    assert text == told["message"]["content"]


@pytest.mark.parametrize(
    ("contents", "code", "param"),
    [
        (["a", "b<|endoftext|>c"], "control_token", "messages.1.content"),
        (["a" * 200], "context_length_exceeded", "messages"),
        (["a" * 131_072], "context_length_exceeded", "messages"),
        (["\ud800"], "bad_text", "messages"),
    ],
)
def test_conversations_that_are_refused(
    talks: TestClient, contents: list[str], code: str, param: str | None
) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": text} for text in contents]})
    answer = talks.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert fault(answer) == (400, code)
    assert answer.json()["error"]["param"] == param


def test_a_model_without_a_template_says_so(client: TestClient) -> None:
    answer = ask(client, "a")
    assert fault(answer) == (400, "no_chat_template")
    assert "/v1/completions" in answer.json()["error"]["message"]


def test_a_damaged_template_is_the_servers_fault(bundle: Bundle) -> None:
    damaged = with_template(bundle, "{% for %}")
    with pytest.raises(BadBundle, match=r"chat_template\.jinja"):
        ChatTemplate.read(damaged)
