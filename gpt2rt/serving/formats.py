"""Formats that a client may ask a text to have (`response_format`), and their constraints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gpt2rt.errors import InvalidSetting
from gpt2rt.sampling.constraint import Constraint

MOST_FIELDS = 64


def at_most(count: int) -> Callable[[Any], Any]:
    """A validator of pydantic's that refuses an object of more than `count` entries."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise PydanticCustomError(
                "too_long",
                "an object of {found} entries, and at most {count} are read",
                {"found": len(value), "count": count},
            )
        return value

    return check


class Strict(BaseModel):
    """An object of a request: nothing is converted, and no field is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, fields: Any) -> Any:
        return at_most(MOST_FIELDS)(fields)


class TextFormat(Strict):
    """Free text."""

    type: Literal["text"]


class JsonFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strict):
    """A JSON schema with its name, as OpenAI's API has it; only the schema has an effect."""

    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", description="The schema (draft 2020-12).")
    strict: bool | None = None


class SchemaFormat(Strict):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(Strict):
    """Text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: str = Field(min_length=1, description="In Rust's syntax.")


ResponseFormat = Annotated[
    TextFormat | JsonFormat | SchemaFormat | RegexFormat, Field(discriminator="type")
]


def constraint_of(wanted: ResponseFormat | None) -> Constraint | None:
    """The constraint of a format; None: free text. Raises `InvalidSetting`."""
    try:
        if isinstance(wanted, RegexFormat):
            return Constraint(regex=wanted.regex)
        if isinstance(wanted, SchemaFormat):
            return Constraint(json_schema=wanted.json_schema.schema_)
    except InvalidSetting as error:
        raise InvalidSetting(str(error), "constraint") from None
    return Constraint(json_schema={"type": "object"}) if isinstance(wanted, JsonFormat) else None
