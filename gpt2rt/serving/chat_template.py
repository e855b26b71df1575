"""Chat templates: the text that a fine-tune was trained to see for a conversation.

A template is a bundle's `chat_template.jinja`. It is rendered as Transformers does: tags on lines
of their own leave no empty lines, loops have `break` and `continue`, and `raise_exception` refuses
a conversation. It runs in Jinja's sandbox, and sees only the messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import read_small
from gpt2rt.bundles.manifest import CHAT_TEMPLATE, LARGEST_TEXT
from gpt2rt.errors import BadBundle, reason
from gpt2rt.serving.faults import Fault

TEMPLATES = 16  # compiled ones in the cache


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        """Raises `jinja2.TemplateError` for wrong syntax."""
        self._template = _environment().from_string(source)

    @classmethod
    def read(cls, bundle: Bundle) -> ChatTemplate | None:
        """The template of a bundle; None: it has none. Raises `BadBundle`."""
        if CHAT_TEMPLATE not in bundle.manifest.files:
            return None
        bundle.check([CHAT_TEMPLATE])
        path = bundle.directory / CHAT_TEMPLATE
        try:
            return _compiled(read_small(path, LARGEST_TEXT).decode())
        except (OSError, ValueError, TemplateError, RecursionError) as error:
            raise BadBundle(f"{path}: no template ({reason(error)}); {bundle.remedy}") from None

    def render(self, messages: Seq[Mapping[str, str]]) -> str:
        """The text of a conversation, up to where the next message begins.

        Raises `Fault` where the template refuses the messages, or fails with them.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
            )
        except Exception as error:  # a template is a program, and may raise anything
            raise Fault(
                400,
                f"the model's chat template refuses these messages: {error}",
                param="messages",
                code="chat_template",
            ) from error


@lru_cache(TEMPLATES)
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source)


class _Generation(Extension):
    """`{% generation %}`, which marks for training what the assistant wrote; here its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
