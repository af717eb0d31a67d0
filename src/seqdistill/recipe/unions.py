"""Sections whose keys the registries decide: one model for each member, made from its parameters.

So a recipe may say of a term exactly what its divergence and its weights take, a user's own too.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Mapping
from typing import Any, Literal, cast

import pydantic
from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import ErrorDetails, core_schema

from seqdistill.core.families import DIVERGENCES, TOKEN_WEIGHTS
from seqdistill.core.registry import Member, Registry
from seqdistill.recipe.documents import KeyPath, dotted
from seqdistill.recipe.sections import Section

_TAGGED: dict[str, tuple[str, Registry[Any]]] = {
    "terms": ("divergence", DIVERGENCES),
    "token_weights": ("kind", TOKEN_WEIGHTS),
}
"""Lists of such sections: the key that names the member, and its family."""


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
        f"{base.__name__}_{member.name}", __base__=base, __doc__=member.parameters.__doc__, **fields
    )
    _MADE.append(made)
    return made


_MADE: list[type[Section]] = []


def refresh_sections() -> None:
    """Lets the sections that were made already know the members that came since."""
    for made in _MADE:
        made.model_rebuild(force=True)


def plain_errors(error: ValidationError) -> list[ErrorDetails]:
    """Pydantic's errors with paths as users write them, and what a wrong or missing name means."""
    return [_plain(details) for details in error.errors()]


def _plain(details: ErrorDetails) -> ErrorDetails:
    path: list[int | str] = []
    family: tuple[str, Registry[Any]] | None = None
    tag: str | None = None
    for part in details["loc"]:
        if family is not None and tag is None and path and isinstance(path[-1], int):
            tag = str(part)  # pydantic's own: the member, which no recipe writes here
            continue
        if part in _TAGGED:
            family, tag = _TAGGED[str(part)], None
        path.append(part)
    found: dict[str, Any] = {**details, "loc": tuple(path)}
    if family is None:
        return cast(ErrorDetails, found)
    key, registry = family
    if details["type"] == "union_tag_not_found":
        found |= {"type": "missing", "loc": (*path, key)}
    elif details["type"] == "union_tag_invalid":
        context = details["ctx"]
        found |= {
            "type": "literal_error",
            "loc": (*path, key),
            "input": context["tag"],
            "ctx": {"expected": ", ".join(registry)},
        }
    elif details["type"] == "extra_forbidden" and tag is not None:
        found["ctx"] = {"advice": _advice(tuple(path), tag, key, registry)}
    return cast(ErrorDetails, found)


def _advice(path: KeyPath, tag: str, key: str, registry: Registry[Any]) -> str:
    """What to do about a key that the section of a member does not have."""
    name = str(path[-1])
    owners = [other for other, member in registry.items() if name in _parameters(member)]
    if owners:
        return f"it belongs to {', '.join(owners)}, got {tag}; remove it, or set it to null"
    shared = ["weight", "token_weights"] if key == "divergence" else []
    known = [key, *shared, *_parameters(registry[tag])]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {dotted((*path[:-1], close[0]))!r}?"
    return f"{tag} has {', '.join(known)}"


def _parameters(member: Member) -> Mapping[str, object]:
    return cast(Mapping[str, object], member.parameters.__pydantic_fields__)
