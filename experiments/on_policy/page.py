"""Writes docs/results/on_policy.md and its plots: `python -m experiments.on_policy.page`.

Reads docs/results/on_policy.parquet and its differences alone, and shows whatever rows exist. The
prose is in page.md.jinja, what is claimed in claims.yaml: rows decide. Measures nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import plots
from experiments.claims import FAILS, HOLDS, MISSED, OPEN, Claim, decide
from experiments.estimates import (
    TEACHER,
    Estimate,
    Results,
    Runs,
    Shown,
    TaskRows,
    average,
    contrast,
    difference,
    estimate,
    gain,
    grouped,
    read_results,
    select,
    summary,
    table,
)
from experiments.on_policy.routes import LENGTHS
from experiments.pages import exits, write_paper
from experiments.shapes import read_tasks
from seqdistill.records.tables import Row
from seqdistill.report.numbers import MISSING, times

RESULTS = Path("docs/results/on_policy.parquet")
CLAIMS = Path(__file__).with_name("claims.yaml")
START = "start"
CONTROL = "supervised_ft"
SUPERVISED = (CONTROL, "seq_kd", "seq_kd_samples", "supervised_kd")
"""Those that learn from sequences which were there before training."""
ON_POLICY = ("on_policy_forward_kl", "on_policy_jsd", "on_policy_reverse_kl")
METHOD_NAMES = {
    **{TEACHER: "Teacher", START: "Start", CONTROL: "Supervised FT", "seq_kd": "Seq-KD"},
    **{"seq_kd_samples": "Seq-KD, 8 samples an input", "supervised_kd": "Supervised KD"},
    **{"imitkd": "ImitKD", "gkd_half": "GKD forward KL, λ 0.5"},
    "on_policy_forward_kl": "On-policy, forward KL",
    "on_policy_jsd": "On-policy, JSD(0.5)",
    "on_policy_reverse_kl": "On-policy, reverse KL",
}
METHODS = tuple(name for name in METHOD_NAMES if name not in (TEACHER, START))
DECODED = {"greedy": "greedy", "sample_t1": "samples at T 1"}
LENGTH_NAMES = {
    f"{low}_{high or 'more'}": f"{low}–{high}" if high else f"{low} and more"
    for low, high in LENGTHS
}
BEST = "best_student"
"""The task and the experiment of the rows about the best student of the bundled translator."""
STEP_NAMES = {TEACHER: "teacher", "seq_kd": "Seq-KD on plenty of text"}
SHOWN = read_tasks(Path(__file__).parents[1] / "shown.yaml", tuple[Shown, ...])["on_policy"]


def read(path: Path = RESULTS) -> Results:
    """The rows, in the order of tables."""
    return read_results(path, lambda row: f"task {row['task']}, {row['name']}")


@dataclasses.dataclass(frozen=True)
class Place(TaskRows):
    """All systems of a regime under one condition, such as a number of inputs."""

    condition: str

    @property
    def title(self) -> str:
        """What a column is headed by: `250 inputs`."""
        return self.condition or self.name

    def runs(self, method: str) -> Runs:
        """The runs of a method, once there is one for every start that was measured; `best
        on-policy` is the best on dev, `best supervised` on test."""
        if method == TEACHER:
            return self.rows(TEACHER)
        return self._measured(self.best.get(method, method))

    def _measured(self, method: str) -> Runs:
        starts, found = (
            self.rows("main", method=name, condition=self.condition) for name in (START, method)
        )
        seeds = {row["seed"] for row in found}
        return found if all(row["seed"] in seeds for row in starts) else ()

    @functools.cached_property
    def best(self) -> dict[str, str]:
        """Which method is meant by `best on-policy` and `best supervised`, where one was measured:
        that which gains most over the start of its seeds, the earlier of equal ones."""
        return {
            name: best
            for name, methods, measure in (
                ("best on-policy", ON_POLICY, (self.shown.dev.key, self.shown.dev.sign)),
                ("best supervised", SUPERVISED, (self.key, self.measure.sign)),
            )
            if (best := self._best(methods, *measure)) is not None
        }

    def _best(self, methods: Sequence[str], key: str, sign: int) -> str | None:
        start = self._measured(START)
        found = {method: gain(self._measured(method), key, start, sign) for method in methods}
        known = {method: gained.value for method, gained in found.items() if gained is not None}
        return max(known, key=lambda method: known[method], default=None)

    @property
    def methods(self) -> list[str]:
        """The methods that were measured, in the order of tables."""
        return [method for method in METHODS if self.runs(method)]

    @property
    def num_inputs(self) -> int | None:
        """How many inputs students saw, where that varies."""
        return next((row["num_inputs"] for row in self.runs(START) if "num_inputs" in row), None)

    @property
    def lengths(self) -> dict[str, str]:
        """Keys of the lengths of outputs that success is told apart by, and their names."""
        start = self.runs(START)
        return {
            length: name
            for length, name in LENGTH_NAMES.items()
            if average(start, self.key_of("greedy", length)) is not None
        }

    def key_of(self, suffix: str, length: str = "") -> str:
        """The key of a score: `greedy`, `sample_t1` or `forced`, of all or of a length."""
        return "_".join(filter(None, (self.measure.key, suffix, length)))

    @property
    def rates(self) -> Runs:
        """The students of the first seed that chose a learning rate on dev."""
        return self.rows("rate", condition=self.condition)

    def better_by(self, method: str, base: str, suffix: str = "greedy") -> Estimate | None:
        """By how much a method is better than another, over the seeds of both; positive is better.

        None for a method and itself, as for what was not measured.
        """
        own, other = self.runs(method), self.runs(base)
        if not own or own == other:
            return None
        return gain(own, f"{self.measure.key}_{suffix}", other, self.measure.sign)

    def gain_of(self, method: str, suffix: str = "greedy") -> Estimate | None:
        """By how much a method is better than its start."""
        return None if method == TEACHER else self.better_by(method, START, suffix)

    def multiple(self, suffix: str = "greedy") -> str:
        """The gain of the best on-policy method as a multiple of the best supervised one's."""
        own, base = (self.gain_of(f"best {kind}", suffix) for kind in ("on-policy", "supervised"))
        if own is None or base is None or min(own.value, base.value) <= 0.0:
            return MISSING
        return times(own.value / base.value)

    def figure(self, figure: Mapping[str, Any]) -> Estimate | None:
        """The number that a line of claims.yaml asks for; None where a part was not measured.

        By its kind: how much better `system` is than `base` where none is given; `weighted`, a sum
        of gains over the start, linear, so that no ratio is of noisy numbers; `room`, the start's
        distance to the teacher less twice the effect that was sought; `fall` and `rise` of what is
        no score; `with length`, how much more a lead is on the longest outputs than on the
        shortest.
        """
        kind, key = figure.get("kind"), f"{self.measure.key}_{figure.get('metric', 'greedy')}"
        sign, start = self.measure.sign, self.runs(START)
        if kind == "weighted":
            weights = {method: float(weight) for method, weight in figure["weights"].items()}
            systems = [(self.runs(method), weight) for method, weight in weights.items()]
            return self._sum([*systems, (start, -sum(weights.values()))], key)
        if kind == "room":
            goal, reached = average(self.runs(TEACHER), key), estimate(start, key)
            if goal is None or reached is None or self.name not in figure["sought"]:
                return None
            sought = 2.0 * float(figure["sought"][self.name])
            return reached.turned(lambda value: sign * (goal - value) - sought)
        own, base = self.runs(figure["system"]), self.runs(figure["base"])
        if not own or own == base:
            return None
        if kind in ("fall", "rise"):
            found = difference(own, figure["metric"], base)
            return found if found is None or kind == "rise" else found.negated()
        if kind == "with length":
            if len(self.lengths) < 2:
                return None
            short, *_, long = (f"{key}_{length}" for length in self.lengths)
            return gain(_less(own, long, short), "less", _less(base, long, short), sign)
        return gain(own, key, base, sign)

    def _sum(self, systems: Sequence[tuple[Runs, float]], key: str) -> Estimate | None:
        if not all(runs for runs, _ in systems):
            return None
        return contrast(systems, key, self.measure.sign)


def _less(runs: Runs, key: str, other: str) -> Runs:
    return tuple(
        {"seed": row["seed"], "method": row["method"], "less": row[key] - row[other]}
        for row in runs
        if key in row and other in row
    )


def places_of(results: Results) -> list[Place]:
    """Every condition that rows are of, by regime and number of inputs."""
    found = []
    for shown in SHOWN:
        rows = select(results.rows, task=shown.name, experiment="main")
        known = [Place(results, shown, condition) for (condition,) in grouped(rows, "condition")]
        found += sorted(known, key=lambda place: place.num_inputs or 0)
    return found


def summary_table(results: Results) -> str:
    """Scores and gains over the start, greedily, of the methods whose seeds are all there."""
    places = places_of(results)
    names = {m: name for m, name in METHOD_NAMES.items() if any(p.runs(m) for p in places)}
    return summary(places, names)


def judged(claim: Claim, places: Sequence[Place]) -> dict[str, list[tuple[str, str]]]:
    """By the verdict on the claim the titles of the places, each with the claim's first figure."""
    found: dict[str, list[tuple[str, str]]] = {HOLDS: [], FAILS: [], OPEN: [], MISSED: []}
    for place in places:
        verdict, figures = decide(claim, place.figure)
        found[verdict].append((place.title, figures[0][1]))
    return found


def conditions(claims: Sequence[Claim], places: Sequence[Place]) -> str:
    """A line a claim that was measured: where it holds, where it does not, where that is open."""
    lines = []
    for number, claim in enumerate(claims, start=1):
        found = judged(claim, places)
        cells = [
            "; ".join(f"{title}: {figure}" for title, figure in found[verdict]) or MISSING
            for verdict in (HOLDS, FAILS, OPEN)
        ]
        if set(cells) != {MISSING}:
            lines.append([str(number), claim.claim, *cells])
    headings = ["", "claim", "holds when", "does not hold when", "undecided"]
    return table(headings, lines, text_columns=5)


def details(claim: Claim, places: Sequence[Place]) -> str:
    """Every figure of a claim where it was measured; nothing where it was nowhere."""
    lines = []
    for place in places:
        verdict, figures = decide(claim, place.figure)
        if verdict != MISSED:
            lines += [[place.title, *line] for line in figures]
    return table(["where", "", "figure", "verdict"], lines, text_columns=4) if lines else ""


def pictures(places: Sequence[Place]) -> dict[str, bytes]:
    """Every plot as SVG, by its file's name: those that there are rows for."""
    drawn = {}
    counted = [place for place in places if place.num_inputs is not None]
    if len(counted) > 1:
        known = [method for method in METHODS if any(place.runs(method) for place in counted)]

        def gains(method: str, suffix: str) -> plots.Points:
            return [(float(p.num_inputs or 0), p.gain_of(method, suffix)) for p in counted]

        with _panes("inputs") as plot:
            for axes, suffix in zip(plot.axes, DECODED, strict=True):
                plots.lines(axes, {METHOD_NAMES[m]: gains(m, suffix) for m in known}, log=True)
                plots.level(axes, 0.0, "start")
                axes.set(xlabel="inputs that students saw", title=DECODED[suffix])
                axes.set_ylabel(f"gain in {counted[0].measure.name} over the start (better →)")
        drawn["inputs"] = plot.image
    for place in places:
        if not place.lengths:
            continue
        with _panes(length_picture(place)) as plot:
            for axes, suffix in zip(plot.axes, DECODED, strict=True):
                points: dict[str, plots.Points] = {
                    METHOD_NAMES[method]: [
                        (float(x), estimate(place.runs(method), place.key_of(suffix, length)))
                        for x, length in enumerate(place.lengths)
                    ]
                    for method in (TEACHER, START, *place.methods)
                }
                plots.lines(axes, points)
                axes.set_xticks(range(len(place.lengths)), list(place.lengths.values()))
                axes.set(xlabel="steps of the shortest way", title=DECODED[suffix])
                plots.quality(axes, place.measure)
        drawn[length_picture(place)] = plot.image
    return drawn


@contextlib.contextmanager
def _panes(name: str) -> Iterator[plots.Plot]:
    """A figure of two panes, greedy and sampled, with the legend of the second."""
    with plots.plot(name, len(DECODED), size=(10.0, 3.8)) as plot:
        yield plot
        if (legend := plot.axes[0].get_legend()) is not None:
            legend.remove()


@dataclasses.dataclass(frozen=True)
class Step:
    """A step on the way to the best student, in one arithmetic and one way of decoding."""

    name: str
    row: Row
    mode: str
    beam_speed: float
    """Words per second of the teacher's beam search in fp32."""

    @property
    def over_teacher(self) -> Estimate | None:
        """By how much BLEU is above that of the teacher's beam search in fp32."""
        return estimate((self.row,), f"bleu_{self.mode}_over_teacher")

    @property
    def bleu(self) -> Estimate | None:
        """Its BLEU."""
        return estimate((self.row,), f"bleu_{self.mode}")

    @property
    def speed(self) -> float:
        """As a multiple of the teacher's beam search in fp32."""
        return float(self.row[f"words_per_second_{self.mode}"]) / self.beam_speed


def steps_of(results: Results) -> list[Step]:
    """What was measured in one run on the way to the best student."""
    rows = results.of(BEST, BEST)
    beam = select(rows, method=TEACHER, compute_type="float32")
    return [
        Step(name, row, mode, float(beam[0]["words_per_second_beam"]))
        for method, name in STEP_NAMES.items()
        for row in select(rows, method=method)
        for mode in ("beam", "greedy")
    ]


def quality_picture(steps: Sequence[Step]) -> bytes:
    """BLEU against speed, a line a step from beam search in fp32 to greedy in int8."""
    with plots.plot("quality") as plot:
        axes = plot.axes[0]
        for place, name in enumerate(dict.fromkeys(step.name for step in steps)):
            own = sorted((s for s in steps if s.name == name), key=lambda s: s.speed)
            points = [(s.speed, s.bleu.value) for s in own if s.bleu is not None]
            axes.plot(*zip(*points, strict=True), label=name, **plots.look(place))
        axes.set_xscale("log")
        ticks = [1, 2, 5, 10, 20, 50]
        axes.set_xticks(ticks, [times(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="words per second, as a multiple of the teacher's beam search in fp32")
        axes.set_ylabel("BLEU (better →)")
        plots.legend(axes)
    return plot.image


def length_picture(place: Place) -> str:
    """The name of a place's picture of success by length."""
    return "_".join(["length", place.name, *place.condition.lower().split()])


def write_page(path: Path = RESULTS) -> None:
    """Writes the page and its plots beside the rows."""
    results = read(path)
    places = places_of(results)
    steps = steps_of(results)
    drawn = pictures(places)
    if steps:
        drawn["quality"] = quality_picture(steps)
    regimes = [found for s in SHOWN if (found := [p for p in places if p.shown == s])]
    write_paper(
        path,
        Path(__file__).parent,
        results,
        {},  # the tables of claims are our own, since conditions differ in what is measured
        drawn,
        {**globals(), "places": places, "steps": steps, "drawn": drawn, "regimes": regimes},
    )


if __name__ == "__main__":
    exits(write_page)
