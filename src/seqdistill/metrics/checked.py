"""What a user's own reward or metric returns, checked at every call."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Literal

from seqdistill.core.errors import UserError, place, told
from seqdistill.metrics.score import SummedStatistics


@dataclasses.dataclass(frozen=True)
class CheckedFunction:
    """A user's reward or metric, held to its promise: one finite number for each output."""

    kind: Literal["reward", "metric"]
    name: str
    function: Callable[..., object]

    def __call__(self, *texts: Sequence[Any]) -> Any:
        """The function's numbers, or its SummedStatistics; the outputs are the last but one.

        Raises UserError when they are not what a reward must be, and for whatever the function
        raises, saying where it did.
        """
        try:
            found = self.function(*map(list, texts))
            if isinstance(found, SummedStatistics):
                return found
            given = None  # the letters of a text and the keys of a mapping are no rewards
            if isinstance(found, Iterable) and not isinstance(found, _NO_LISTS):
                given = list(found)  # a generator's code runs only here
        except Exception as error:
            raise UserError(
                f"{self.kind} {self.name} must return a list of numbers, one for each output, but "
                f"raised {told(error)} {place(error, self.function)}; fix the function"
            ) from error
        if given is None:
            raise self._no_numbers(f"found {type(found).__name__}")
        outputs = texts[-2]
        values = [self._number(value) for value in given]
        if len(values) != len(outputs):
            raise UserError(
                f"{self.kind} {self.name} must return one number for each of the {len(outputs)} "
                f"outputs, found {len(values)}; fix the function"
            )
        for output, value in zip(outputs, values, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"{self.kind} {self.name} must be finite, found {value} for the output "
                    f"{output[:80]!r}; fix the function"
                )
        return values

    def _number(self, value: object) -> float:
        found = f"found {type(value).__name__} {str(value)[:80]!r} in it"
        if isinstance(value, (str, bytes)):  # float() would read them
            raise self._no_numbers(found)
        try:
            return float(value)  # type: ignore[arg-type]
        except Exception as error:  # of an array, a tensor, a class of the user's: theirs to raise
            raise self._no_numbers(f"{found} ({error})") from error

    def _no_numbers(self, found: str) -> UserError:
        return UserError(
            f"{self.kind} {self.name} must return a list of numbers, one for each output, {found}; "
            "fix the function"
        )


_NO_LISTS = (str, bytes, Mapping, Set)
