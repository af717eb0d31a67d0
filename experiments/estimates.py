"""From rows to numbers that a page can show: means with intervals, gains, ratios, and their text.

Two or more seeds give Student's t interval over them; one seed gives that of the test set: of a
difference the paired bootstrap's where the outputs of both were kept. Rows that differ in the seed
alone are the `Runs` of one system.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from seqdistill.metrics.repetitions import mean, t_interval
from seqdistill.records.tables import Row, read_facts, read_rows
from seqdistill.report.numbers import HARD, MISSING, THIN, fixed, signed

Runs = tuple[Row, ...]
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Measure:
    """The quality measure of a task; `sign` is +1 where more is better and -1 where less is."""

    key: str
    name: str
    sign: int

    @property
    def greedy(self) -> str:
        """The key of the score under greedy decoding."""
        return f"{self.key}_greedy"

    @property
    def beam(self) -> str:
        """The key of the score under beam search."""
        return f"{self.key}_beam"


@dataclasses.dataclass(frozen=True)
class Shown:
    """How one task is shown on a page; see shown.yaml."""

    name: str
    title: str
    measure: Measure
    dev: Measure
    further: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Results:
    """All rows of an experiment, each with the intervals of its differences under `versus`."""

    rows: Runs
    facts: Mapping[str, Any]

    def of(self, task: str, *experiments: str, **values: object) -> Runs:
        """The rows of some experiments on one task with these values; None: without a value."""
        chosen = (r for r in self.rows if r["task"] == task and r["experiment"] in experiments)
        return select(chosen, **values)


@dataclasses.dataclass(frozen=True)
class TaskRows:
    """The rows of one task, and how it is shown."""

    results: Results
    shown: Shown

    @property
    def name(self) -> str:
        """The task's name."""
        return self.shown.name

    @property
    def measure(self) -> Measure:
        """What the test set is scored by."""
        return self.shown.measure

    @property
    def key(self) -> str:
        """The main score of the test set."""
        return self.measure.greedy

    @property
    def every(self) -> Runs:
        """All rows of the task."""
        return select(self.results.rows, task=self.shown.name)

    def rows(self, *experiments: str, **values: object) -> Runs:
        """The task's rows of some experiments."""
        return self.results.of(self.shown.name, *experiments, **values)

    def reached(self, runs: Runs) -> str:
        """Their main score, as text."""
        return score(estimate(runs, self.key))

    @property
    def title(self) -> str:
        """What a column is headed by."""
        return self.name

    def runs(self, method: str) -> Runs:
        """The runs of a method."""
        raise NotImplementedError

    def gain_of(self, method: str) -> Estimate | None:
        """By how much a method is better than what it is held against; None for that itself."""
        raise NotImplementedError


def summary(found: Sequence[TaskRows], methods: Mapping[str, str]) -> str:
    """Scores and gains of the methods, by their names here and on the page, two columns a task."""
    headings = ["system"]
    for of in found:
        headings += [f"{of.title}: {of.measure.name}", "gain"]
    lines = [
        [name, *(cell for of in found for cell in (of.reached(of.runs(m)), change(of.gain_of(m))))]
        for m, name in methods.items()
    ]
    return table(headings, lines)


def read_results(path: Path, order: Callable[[Row], Any]) -> Results:
    """The rows of `NAME.parquet`, ordered, with the differences beside it."""
    versus: dict[tuple[str, str], dict[tuple[str, str, str], tuple[float, float]]] = {}
    for found in read_rows(differences_path(path)):
        known = versus.setdefault((found["task"], found["name"]), {})
        known[found["metric"], found["other"], found["other_metric"]] = found["low"], found["high"]
    rows = [{**r, "versus": versus.get((r["task"], r["name"]), {})} for r in read_rows(path)]
    return Results(tuple(sorted(rows, key=order)), read_facts(path))


def differences_path(path: Path) -> Path:
    """The file of intervals of differences beside a file of rows."""
    return path.with_name(f"{path.stem}_differences.parquet")


def machines_of(facts: Mapping[str, Any]) -> list[str]:
    """The processors that a file's rows were made on, by the facts that were written with them."""
    if "machines" in facts or "environment" not in facts:
        return list(facts.get("machines", []))
    return [facts["environment"]["machine"]["cpu_model"]]


def select(rows: Iterable[Row], **values: object) -> Runs:
    """The rows with these values; None stands for rows without one."""
    wanted = values.items()
    return tuple(row for row in rows if all(row.get(key) == value for key, value in wanted))


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """The different values under `key`, in increasing order."""
    return sorted({row[key] for row in rows if key in row})


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], Runs]:
    """The rows by their values of `keys`, in the order in which the values first appear."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return {key: tuple(group) for key, group in groups.items()}


def of_the_same_seeds(runs: Runs, others: Runs) -> Runs:
    """The runs of seeds that others have, too, so that both can stand in a table; all without."""
    seeds = {row["seed"] for row in others}
    return tuple(row for row in runs if not seeds or row["seed"] in seeds)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `low` and `high` are None without one."""

    value: float
    low: float | None
    high: float | None
    n: int
    basis: Literal["seeds", "test set", "none"]

    @property
    def told_basis(self) -> str:
        """Where the interval comes from: `5 seeds`, `1 seed, test set`, `1 seed, no interval`."""
        if self.basis == "seeds":
            return f"{self.n} seeds"
        return "1 seed, test set" if self.basis == "test set" else "1 seed, no interval"

    def turned(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of a monotone function of the quantity."""
        if self.low is None or self.high is None:
            return dataclasses.replace(self, value=function(self.value))
        low, high = sorted((function(self.low), function(self.high)))
        return dataclasses.replace(self, value=function(self.value), low=low, high=high)

    def negated(self) -> Estimate:
        """A loss for a gain."""
        return self.turned(lambda value: -value)


def average(runs: Runs, key: str) -> float | None:
    """The mean over the runs that have the number; None when none has."""
    values = [float(row[key]) for row in runs if key in row]
    return mean(values) if values else None


def estimate(runs: Runs, key: str) -> Estimate | None:
    """The mean over seeds with its interval; None when no run has the number."""
    rows = [row for row in runs if key in row]
    if len(rows) == 1:
        return _single(rows[0], key)
    return _over_seeds([float(row[key]) for row in rows])


def difference(runs: Runs, key: str, base: Runs, base_key: str | None = None) -> Estimate | None:
    """runs - base over the seeds that both have; None when they share none.

    A teacher that was trained once is the base of every seed.
    """
    base_key = base_key or key
    own = {row["seed"]: row for row in runs if key in row}
    other = {row["seed"]: row for row in base if base_key in row}
    if len(other) == 1 and all(row["method"] == TEACHER for row in base):
        other = dict.fromkeys(own, next(iter(other.values())))
    shared = sorted(own.keys() & other.keys())
    if len(shared) == 1:
        return _of_singles(own[shared[0]], key, other[shared[0]], base_key)
    return _over_seeds([float(own[seed][key]) - float(other[seed][base_key]) for seed in shared])


def ratio(runs: Runs, key: str, base: Runs, base_key: str | None = None) -> Estimate | None:
    """runs / base as a geometric mean over seeds."""
    base_key = base_key or key
    found = difference(_logarithms(runs, key), key, _logarithms(base, base_key), base_key)
    return None if found is None else found.turned(math.exp)


def gain(
    runs: Runs, key: str, base: Runs, sign: int, base_key: str | None = None
) -> Estimate | None:
    """By how much the runs are better than the base: positive is better, whatever the measure."""
    base_key = base_key or key
    if sign < 0 and not all(row["method"] == TEACHER for row in base):
        return difference(base, base_key, runs, key)
    found = difference(runs, key, base, base_key)
    return found if found is None or sign > 0 else found.negated()


def contrast(systems: Sequence[tuple[Runs, float]], key: str, sign: int) -> Estimate | None:
    """The mean over shared seeds of the systems' weighted sum, positive is better."""
    by_seed = [{row["seed"]: float(row[key]) for row in runs if key in row} for runs, _ in systems]
    shared = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    weights = [weight for _, weight in systems]
    return _over_seeds(
        [
            sign * sum(w * of[seed] for of, w in zip(by_seed, weights, strict=True))
            for seed in shared
        ]
    )


def gap(runs: Runs, measure: Measure) -> Estimate | None:
    """By how much beam search is better than greedy decoding of the same system.

    A single run takes its interval from the row's own paired bootstrap.
    """
    found = gain(runs, measure.beam, runs, measure.sign, measure.greedy)
    if found is None or found.n > 1 or "greedy_beam_gap_low" not in runs[0]:
        return found
    low, high = (float(runs[0][f"greedy_beam_gap_{end}"]) for end in ("low", "high"))
    return Estimate(found.value, low, high, 1, "test set")


def _over_seeds(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None, None, 1, "none")
    low, high = t_interval(values)
    return Estimate(mean(values), low, high, len(values), "seeds")


def _single(row: Row, key: str) -> Estimate:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    known = low is not None and high is not None
    return Estimate(float(row[key]), low, high, 1, "test set" if known else "none")


def _of_singles(row: Row, key: str, base: Row, base_key: str) -> Estimate:
    """By resampling the test set for both; where that is not known, as if independent: half widths
    add in squares, each side by itself, which is wider."""
    system, other = _single(row, key), _single(base, base_key)
    value = system.value - other.value
    known = row.get("versus", {}).get((key, base.get("name"), base_key))
    if known is None:
        known = base.get("versus", {}).get((base_key, row.get("name"), key))
        known = None if known is None else (-known[1], -known[0])
    if known is not None:
        return Estimate(value, known[0], known[1], 1, "test set")
    if system.low is None or system.high is None or other.low is None or other.high is None:
        return Estimate(value, None, None, 1, "none")
    below = math.hypot(system.value - system.low, other.high - other.value)
    above = math.hypot(system.high - system.value, other.value - other.low)
    return Estimate(value, value - below, value + above, 1, "test set")


def _logarithms(runs: Runs, key: str) -> Runs:
    return tuple(
        {
            **{k: row[k] for k in ("seed", "method")},
            **{
                k: math.log(row[k]) for k in (key, f"{key}_low", f"{key}_high") if row.get(k, 0) > 0
            },
        }
        for row in runs
    )


def scaled(runs: Runs, key: str, scale: float) -> Runs:
    """The runs with the number under the key, and its interval, multiplied."""
    ends = (key, f"{key}_low", f"{key}_high")
    return tuple({**row, **{k: scale * row[k] for k in ends if k in row}} for row in runs)


def score(found: Estimate | None, places: int = 1) -> str:
    """`18.9 ± 0.3` over seeds, `18.9 [18.0, 19.8]` from the test set, `18.9` without interval."""
    return MISSING if found is None else fixed(found.value, places) + _interval(found, places)


def change(found: Estimate | None, places: int = 1) -> str:
    """Like `score`, with its sign: `+1.7 ± 0.4`; what rounds to zero has none."""
    if found is None:
        return MISSING
    return signed(found.value, places).removeprefix("±") + _interval(found, places)


def factor(found: Estimate | None) -> str:
    """`12.3× [10.9, 13.8]`, with two decimals below ten."""
    if found is None:
        return MISSING
    places = 2 if found.value < 10.0 else 1
    return fixed(found.value, places) + "×" + (_brackets(found, places) if found.low else "")


def share_name(share: float) -> str:
    """A whole percentage: `80 %`."""
    return f"{100 * share:.0f}{THIN}%"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A Markdown table whose first `text_columns` are set left and the others right."""
    lines = [head(headings, text_columns), *("| " + " | ".join(cells) + " |" for cells in rows)]
    return "\n".join(lines)


def head(headings: Sequence[str], text_columns: int = 1) -> str:
    """The headings of such a table, and the line below them."""
    rule = ["---" if number < text_columns else "--:" for number in range(len(headings))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule))


def rates_line(runs: Runs, rates: Sequence[float], key: str, used: Sequence[float]) -> list[str]:
    """The dev score of each rate that was tried; in bold what was taken."""
    texts = [fixed(average(select(runs, learning_rate=rate), key), 2) for rate in rates]
    return [
        f"**{text}**" if rate in used and text != MISSING else text
        for rate, text in zip(rates, texts, strict=True)
    ]


def _interval(found: Estimate, places: int) -> str:
    if found.low is None or found.high is None:
        return ""
    if found.basis == "seeds":
        return f"{HARD}±{HARD}{fixed((found.high - found.low) / 2.0, places)}"
    return _brackets(found, places)


def _brackets(found: Estimate, places: int) -> str:
    return f"{HARD}[{fixed(found.low, places)},{HARD}{fixed(found.high, places)}]"
