"""What all sections of a recipe are made of: strictness, ranges, and numbers that may change.

Knows no setting.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
InnerShare = Annotated[float, Field(gt=0.0, lt=1.0)]
"""Neither end: what is left of a distribution would have no mass, or a range no width."""
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


class Number(Section):
    """A number, or one that changes while the student trains: {start: 1, end: 0, shape: linear}."""

    start: float
    """Its value at the first update."""
    end: float
    """Its value at the last update."""
    shape: Literal["constant", "linear", "exponential", "complement_exponential", "adaptive"] = (
        "linear"
    )
    """The way between: `linear`; `exponential`, by equal factors; `complement_exponential`, where
    1 - value falls by equal factors (ImitKD's share of the student, from 0 to 0.995); `adaptive`,
    for the student's share alone, raised when dev gets worse."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, given: Any) -> Any:
        if isinstance(given, (int, float)):
            return {"start": given, "end": given, "shape": "constant"}
        if isinstance(given, (dict, Number)):
            return given
        raise PydanticCustomError(
            "number_or_schedule", "a number, or a mapping with start, end and shape"
        )

    @model_serializer(mode="wrap")
    def _to_number(self, usual: Callable[[Any], Any]) -> Any:
        return self.start if self.shape == "constant" else usual(self)

    @classmethod
    def constant(cls, value: float) -> Number:
        """The same number at every update."""
        return cls(start=value, end=value, shape="constant")

    @property
    def ends(self) -> tuple[float, ...]:
        """The values that bound it: one where it does not change."""
        return (self.start,) if self.shape == "constant" else (self.start, self.end)

    def __str__(self) -> str:
        if self.shape == "constant":
            return f"{self.start:g}"
        return f"{self.start:g} to {self.end:g} ({self.shape})"
