"""Formats that a client may ask a text to have (`response_format`), and their constraints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpt2rt.sampling.constraint import Constraint

# Nothing is converted, and no field is ignored.
strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextFormat(BaseModel):
    """Free text."""

    model_config = strict

    type: Literal["text"]


class JsonFormat(BaseModel):
    """Any JSON object."""

    model_config = strict

    type: Literal["json_object"]


class NamedSchema(BaseModel):
    """A JSON schema with its name, as OpenAI's API has it; only the schema has an effect."""

    model_config = strict

    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", description="The schema (draft 2020-12).")
    strict: bool | None = None


class SchemaFormat(BaseModel):
    """JSON that a schema allows."""

    model_config = strict

    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(BaseModel):
    """Text that a regular expression matches as a whole."""

    model_config = strict

    type: Literal["regex"]
    regex: str = Field(min_length=1, description="In Rust's syntax.")


ResponseFormat = Annotated[
    TextFormat | JsonFormat | SchemaFormat | RegexFormat, Field(discriminator="type")
]


def constraint_of(wanted: ResponseFormat | None) -> Constraint | None:
    """The constraint of a format; None: free text. Raises `InvalidSetting`."""
    if isinstance(wanted, RegexFormat):
        return Constraint(regex=wanted.regex)
    if isinstance(wanted, SchemaFormat):
        return Constraint(json_schema=wanted.json_schema.schema_)
    return Constraint(json_schema={"type": "object"}) if isinstance(wanted, JsonFormat) else None
