"""Numbers that change while a run goes on, as pure functions of the share of updates done.

So a resumed run goes on where it was. What reacts to a loss is not a schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, PydanticKnownError, ValidationError

T = TypeVar("T")
Shape = Literal["constant", "linear", "exponential", "complement_exponential"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A value that goes from `start` at the first update to `end` at the last.

    With s the share of the updates that are done: `constant` is start throughout; `linear`
    start + s (end - start); `exponential` start (end / start)^s, both ends positive;
    `complement_exponential` lets 1 - value fall exponentially, both ends below 1: from 0 to 0.995
    it is the student's share of ImitKD, 1 - 200^-s.

    Raises ValueError for ends that the shape cannot join.
    """

    start: float
    end: float
    shape: Shape = "linear"
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if self.shape == "exponential" and not (self.start > 0.0 and self.end > 0.0):
            raise ValueError(
                f"an exponential schedule must have positive ends, got {self.start} and {self.end}"
            )
        if self.shape == "complement_exponential" and not (self.start < 1.0 and self.end < 1.0):
            raise ValueError(
                "a complement_exponential schedule must have ends below 1, got "
                f"{self.start} and {self.end}"
            )

    @classmethod
    def constant(cls, value: float) -> Schedule:
        """The same value at every update."""
        return cls(value, value, "constant")

    @property
    def ends(self) -> tuple[float, ...]:
        """The values that bound it: every way between is monotone."""
        return (self.start,) if self.shape == "constant" else (self.start, self.end)

    def __str__(self) -> str:
        if self.shape == "constant":
            return f"{self.start:g}"
        return f"{self.start:g} to {self.end:g} ({self.shape})"

    def value(self, update: int, updates: int) -> float:
        """The value at `update`, counted from 1, of a run of `updates`.

        The first update has `start` and the last `end`; a run of one update has `start`.
        """
        done = (update - 1) / (updates - 1) if updates > 1 else 0.0
        if self.shape == "constant":
            return self.start
        if self.shape == "linear":
            return self.start + done * (self.end - self.start)
        if self.shape == "exponential":
            return float(self.start * (self.end / self.start) ** done)
        return float(1.0 - (1.0 - self.start) * ((1.0 - self.end) / (1.0 - self.start)) ** done)


def read_schedule(given: Any) -> Schedule:
    """The schedule that a number or a mapping stands for."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return Schedule.constant(float(given))
    if not isinstance(given, dict):
        raise PydanticCustomError(
            "number_or_schedule", "a number, or a mapping with start, end and shape"
        )
    return in_one_error(_SCHEDULE.validate_python, given)


def in_one_error(validate: Callable[[Any], T], given: object) -> T:
    """What `validate` makes of a mapping; its first error becomes that of the whole mapping, which
    has the details as `inner`."""
    try:
        return validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        key = "".join(f"{part}: " for part in found["loc"])
        context = {"why": key + found["msg"], "inner": found}
        raise PydanticCustomError("schedule", "{why}", context) from None


def _given(schedule: Schedule) -> Any:
    """The number or the mapping that it was made from."""
    return schedule.start if schedule.shape == "constant" else dataclasses.asdict(schedule)


def between(low: float, high: float) -> AfterValidator:
    """Refuses a schedule with an end that is not strictly between the two."""

    def check(schedule: Schedule) -> Schedule:
        for end in schedule.ends:
            if not end > low:
                raise PydanticKnownError("greater_than", {"gt": low})
            if not end < high:
                raise PydanticKnownError("less_than", {"lt": high})
        return schedule

    return AfterValidator(check)


def fraction(schedule: Schedule) -> Schedule:
    """Refuses a schedule with an end outside [0, 1]."""
    if min(schedule.ends) < 0.0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0.0})
    if max(schedule.ends) > 1.0:
        raise PydanticKnownError("less_than_equal", {"le": 1.0})
    return schedule


_SCHEDULE = TypeAdapter(Schedule)
Scheduled = Annotated[
    Schedule,
    BeforeValidator(read_schedule),
    PlainSerializer(_given),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "object"}]}),
]
"""The type of a setting that is a number, or {start, end, shape}; always a Schedule when read."""
if TYPE_CHECKING:
    Schedulable = float | Schedule
else:
    Schedulable = Scheduled
"""The same for a parameter, which Python code may give as a number."""
