"""What to go on with after several methods were measured on one test set, in plain language."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from seqdistill.records.tables import Row
from seqdistill.report import numbers


@dataclasses.dataclass(frozen=True)
class Finalist:
    """One method as it was measured."""

    method: str
    settings: str
    """What it chose: `training.learning_rate=0.001`."""
    value: float
    """Its score on the test set."""
    seconds: float
    """Of its updates."""
    gains: Mapping[str, Row]
    """Over what it is compared with, by name: rows with gain, low and high."""
    is_equal: bool
    """Whether the test set does not tell it from the best; true of the best itself."""


def recommended(finalists: Sequence[Finalist]) -> Finalist:
    """The cheapest of those that the test set does not tell from the best."""
    return min((one for one in finalists if one.is_equal), key=lambda one: one.seconds)


def in_words(metric: str, finalists: Sequence[Finalist], base: str) -> list[str]:
    """Sentences about the finalists, the best first: who won, what it gains, what it costs."""
    chosen = recommended(finalists)
    equals = [one.method for one in finalists if one.is_equal]
    if len(equals) > 1:
        said = (
            f"No clear winner: on the test set {', '.join(equals[:-1])} and {equals[-1]} are "
            f"within noise of each other. The cheapest of the equals is {chosen.method}."
        )
    elif len(finalists) > 1:
        said = f"The winner is {chosen.method}: on the test set no other is within noise of it."
    else:
        said = f"Only {chosen.method} came to the end."
    scored = f"{metric} {numbers.fixed(chosen.value, 2)}"
    gains = " and ".join(
        f"{numbers.signed(row['gain'], 2)} [{numbers.fixed(row['low'], 2)}, "
        f"{numbers.fixed(row['high'], 2)}] over {name}"
        for name, row in chosen.gains.items()
    )
    lines = [
        said,
        f"Go on with {chosen.method}, {chosen.settings}: {scored}{f', {gains}' if gains else ''}.",
    ]
    seconds = {one.method: one.seconds for one in finalists}
    if chosen.method != base and seconds.get(base):
        times = numbers.fixed(chosen.seconds / seconds[base], 1)
        lines.append(f"Its updates took {times} times as long as those of {base}.")
    return lines
