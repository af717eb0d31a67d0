"""What all sections of a recipe are made of: strictness, ranges, and what the registries decide.

Of a term and a token weight there is one section for each member, made from its parameters: a
recipe may say of a term exactly what its divergence and its weights take, a user's own too.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from seqdistill.core.registry import Member, Registry

Share = Annotated[float, Field(ge=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


def _expanded(names: str) -> str:
    return ",".join(os.path.expanduser(name) for name in names.split(","))


Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
ComputeType = Literal[
    "float32", "int8", "float16", "bfloat16", "int8_float16", "int8_bfloat16", "int8_float32"
]
UserPath = Annotated[str, AfterValidator(_expanded)]
"""A path, two with a comma between them, or a name; `~` at the front is the home folder."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self) -> dict[str, object]:
        """The settings that are not at their defaults."""
        fields = type(self).model_fields.items()
        values = {name: (getattr(self, name), field.default) for name, field in fields}
        return {name: value for name, (value, default) in values.items() if value != default}


def as_list(given: object) -> object:
    """One name, or one section, as a list of it."""
    return [given] if isinstance(given, (str, dict)) else given


def as_text(given: object) -> object:
    """A number as the text that it is in a column."""
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


Finding = tuple[str, str]
"""A key, as users write it, and a sentence that goes on from it."""
Findings = Iterator[Finding]


def shown(value: object) -> str:
    """The value as users write it."""
    if isinstance(value, (tuple, list)):
        return str(list(value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


class OneOf:
    """Annotates a base section: of `registry`, the section of the member that `tag` names."""

    def __init__(self, registry: Registry[Any], tag: str) -> None:
        self._registry = registry
        self._tag = tag

    def __get_pydantic_core_schema__(
        self, source: type[Section], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        choices = {
            name: handler.generate_schema(section_of_member(source, self._tag, member))
            for name, member in self._registry.items()
        }
        union = core_schema.tagged_union_schema(choices, discriminator=self._tag)
        return core_schema.no_info_before_validator_function(self._given, union)

    def _given(self, value: object) -> object:
        """A name alone means that member; a null takes a key of a preset away."""
        if isinstance(value, str):
            return {self._tag: value}
        if isinstance(value, dict):
            return {key: inner for key, inner in value.items() if inner is not None}
        return value


class NameOf:
    """Annotates a text: the name of a member, or one of the `others`."""

    def __init__(self, registry: Registry[Any], *others: str) -> None:
        self._registry = registry
        self._others = others

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.literal_schema([*self._registry, *self._others])


@functools.cache
def section_of_member(base: type[Section], tag: str, member: Member) -> type[Section]:
    """The section of a member: the keys of `base`, its own name at `tag`, its parameters."""
    name_of = pydantic.Field(description=base.model_fields[tag].description)
    fields: dict[str, Any] = {tag: (Literal[member.name], name_of)}
    for name, field in member.parameters.__pydantic_fields__.items():
        fields[name] = (field.annotation, copy.copy(field))
    made = pydantic.create_model(
        f"{base.__name__}_{member.name}",
        __base__=base,
        __doc__=member.parameters.__doc__,
        __cls_kwargs__={"use_attribute_docstrings": False},  # it has no source to look for
        **fields,
    )
    _MADE.append(made)
    return made


_MADE: list[type[Section]] = []


def refresh_sections() -> None:
    """Lets the sections that were made already know the members that came since."""
    for made in _MADE:
        made.model_rebuild(force=True)
