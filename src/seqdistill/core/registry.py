"""A family of methods by name: what recipes choose from and users add to. Starts without torch.

A member brings its parameters as one frozen dataclass; their types and ranges stand there alone.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass as checked_dataclass

from seqdistill.core.errors import (
    RecipeError,
    UserError,
    did_you_mean,
    is_out_of_memory,
    place,
    told,
)
from seqdistill.core.schedules import Schedule

_LOG = logging.getLogger(__name__)
_CONFIG = pydantic.ConfigDict(extra="forbid", use_attribute_docstrings=True)
T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(pydantic.Field,))
def parameters(cls: type[T]) -> type[T]:
    """Decorates a class of parameters: a frozen dataclass that refuses what its types do not."""
    made: Any = checked_dataclass(frozen=True, config=_CONFIG)
    return cast(type[T], made(cls))


@parameters
class NoParameters:
    """Of a member that has none."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One of a family; subclasses add what else the family has to know about it."""

    name: str
    target: Callable[..., Any] | str
    """The function, or `module:name` of one that is imported when it is first called."""
    parameters: type[Any] = NoParameters

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """What does the work."""
        return resolved(self.target)

    def call(self, family: str, *given: object, **arguments: object) -> Any:
        """What the function gives.

        Raises UserError, which says where, for whatever a user's own raises; the traceback is
        logged. Memory that ran out is told as such.
        """
        try:
            return self.function(*given, **arguments)
        except Exception as error:
            own = not isinstance(self.target, str)
            if not own or isinstance(error, UserError) or is_out_of_memory(error):
                raise
            _LOG.info("what the %s %s raised", family, self.name, exc_info=True)
            raise UserError(
                f"the {family} {self.name!r} must give a value for every batch, but "
                f"{self.function.__qualname__} raised {told(error)} "
                f"{place(error, self.function)}; fix the function (--verbose shows its traceback)"
            ) from error


def resolved(target: Callable[..., Any] | str) -> Callable[..., Any]:
    """The target itself, or what `module:name` names."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


M = TypeVar("M", bound=Member)
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Chosen(Generic[M]):
    """A member together with its parameters."""

    member: M
    parameters: Any

    def arguments(self, update: int = 1, updates: int = 1) -> dict[str, Any]:
        """The parameters by name, schedules as what they are at `update` of `updates`."""
        return {
            field.name: value.value(update, updates) if isinstance(value, Schedule) else value
            for field in dataclasses.fields(self.parameters)
            for value in [getattr(self.parameters, field.name)]
        }


class Registry(Mapping[str, M]):
    """The members of a family by name, in the order in which they were added."""

    def __init__(self, family: str, kind: type[M], *, reserved: tuple[str, ...] = ()) -> None:
        """`family` is what a message calls a member: `divergence`; no parameter may be called by a
        `reserved` name."""
        self.family = family
        self._reserved = reserved
        self._kind = kind
        self._members: dict[str, M] = {}

    def add(self, name: str, target: Callable[..., Any] | str, /, **traits: Any) -> None:
        """Adds a member; `traits` are the other fields of the family's class.

        The same function may come again, as where a cell of a notebook is run twice. Raises
        UserError for a name that another member has.
        """
        given: Any = traits.pop("parameters", NoParameters)
        if not (isinstance(given, type) and dataclasses.is_dataclass(given)):
            raise UserError(
                f"the parameters of the {self.family} {name!r} must be a dataclass, got {given!r}; "
                "decorate it with @dataclass(frozen=True)"
            )
        if not hasattr(given, "__pydantic_fields__"):
            given = parameters(given)
        for field in dataclasses.fields(given):
            if field.name in self._reserved:
                raise UserError(
                    f"a parameter of the {self.family} {name!r} must not be called {field.name}, "
                    "which means something else beside it; rename it"
                )
        there = self._members.get(name)
        if there is not None and not _places(there.target) & _places(target):
            raise UserError(
                f"the {self.family} {name!r} of {min(_places(target))} must have a name of its "
                f"own, got that of {min(_places(there.target))}; rename it"
            )
        self._members[name] = self._kind(name, target, given, **traits)

    def register(self, name: str, /, **traits: Any) -> Callable[[_F], _F]:
        """Decorates the function of a member; `parameters` is the class of its parameters."""

        def added(function: _F) -> _F:
            self.add(name, function, **traits)
            return function

        return added

    def choose(self, name: str, /, **values: Any) -> Chosen[M]:
        """The member with these parameters.

        Raises RecipeError for an unknown name and for parameters missing, foreign or out of range.
        """
        if name not in self._members:
            raise RecipeError(
                f"{self.family} must be one of {', '.join(self)}; got {name!r}."
                + did_you_mean(name, self)
            )
        member = self._members[name]
        try:
            return Chosen(member, member.parameters(**values))
        except pydantic.ValidationError as error:
            details = error.errors()[0]
            key = ".".join(map(str, details["loc"])) or "its parameters"
            raise RecipeError(
                f"{key} of {name} is not valid: {details['msg']}, got {details['input']!r}"
            ) from error

    def __getitem__(self, name: str) -> M:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _places(target: Callable[..., Any] | str) -> set[str]:
    """Where it is defined, `module:name` and `file:name`: one file may be two modules."""
    if isinstance(target, str):
        return {target}
    name = getattr(target, "__qualname__", repr(target))
    code = getattr(target, "__code__", None)
    return {f"{place}:{name}" for place in (target.__module__, code and code.co_filename) if place}
