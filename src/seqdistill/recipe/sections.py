"""What all sections of a recipe are made of: strictness and ranges. Knows no setting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


Findings = Iterator[tuple[str, str]]
"""Keys, as users write them, each with a sentence that goes on from the key."""


def shown(value: object) -> str:
    """The value as users write it."""
    if isinstance(value, (tuple, list)):
        return str(list(value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
