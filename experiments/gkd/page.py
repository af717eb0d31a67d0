"""Writes docs/results/gkd.md and its plots: `python -m experiments.gkd.page`.

Reads docs/results/gkd.parquet and gkd_differences.parquet alone, so equal rows give equal bytes.
The prose is in page.md.jinja, what the paper claims in claims.yaml. Measures nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import plots
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
    distinct,
    estimate,
    gain,
    grouped,
    of_the_same_seeds,
    read_results,
    select,
    summary,
)
from experiments.gkd.methods import (
    BASELINES,
    DIVERGENCES,
    LENGTHENED,
    SHARES,
    THRIFTY,
    grid_name,
)
from experiments.pages import exits, write_paper
from experiments.shapes import read_tasks
from seqdistill.report.numbers import MISSING, fixed, times

RESULTS = Path("docs/results/gkd.parquet")
INITIAL, ON_POLICY = "initial", "on_policy_kd"
METHODS = tuple(
    dict.fromkeys((*BASELINES, *(grid_name(d, share) for share in SHARES for d in DIVERGENCES)))
)
"""Every method of the main tables: baselines, then the grid by lambda."""
SUMMARIZED = (
    *(*BASELINES, grid_name("forward_kl", 0.5)),
    *(grid_name(divergence, 1.0) for divergence in DIVERGENCES),
)
DIVERGENCE_NAMES = {
    **{"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd_0.1": "JSD(0.1)"},
    **{"jsd_0.5": "JSD(0.5)", "jsd_0.9": "JSD(0.9)"},
}
_METHOD_NAMES = {
    **{TEACHER: "Teacher", INITIAL: "Initial student", "supervised_ft": "Supervised FT"},
    **{"seq_kd": "SeqKD", "supervised_kd": "Supervised KD", "imitkd": "ImitKD"},
    **{ON_POLICY: "On-policy KD", "gkd_rl": "RL + GKD"},
}
REWARD_COLUMNS = (
    ("ROUGE-L (rewarded)", "rouge_l_greedy", 1, 1.0),
    ("ROUGE-2 (not rewarded)", "rouge_2_greedy", 1, 1.0),
    ("agrees with teacher, %", "agreement_top1", 1, 100.0),
    ("KL from teacher, nats", "last_teacher_reverse_kl", 3, 1.0),
    ("entropy, nats", "last_student_entropy", 3, 1.0),
    ("length / reference", "length_ratio_greedy", 2, 1.0),
    ("repetition at T 1", "repetition_sample_t1", 3, 1.0),
)
"""What is rewarded, what is held out, and signs of reward hacking; with decimals and scale."""
SHOWN = read_tasks(Path(__file__).parents[1] / "shown.yaml", tuple[Shown, ...])["gkd"]


def read(path: Path = RESULTS) -> Results:
    """The committed rows, in the order of tables."""
    return read_results(path, lambda row: f"task {row['task']}, {row['name']}")


def method_name(method: str) -> str:
    """The paper's name: `gkd-reverse_kl-0.5` is `GKD reverse KL, λ 0.5`."""
    if method.startswith("gkd-"):
        _, divergence, share = method.split("-")
        return f"GKD {DIVERGENCE_NAMES[divergence]}, λ {share}"
    return _METHOD_NAMES[method]


@dataclasses.dataclass(frozen=True)
class Students(TaskRows):
    """All systems of one task; `experiment` says whose rows the students are: those of the main
    table, those trained for longer (follow_up), or those that start from a later student."""

    experiment: str = "main"

    def of(self, experiment: str) -> Students:
        """The same task's students of another experiment."""
        return dataclasses.replace(self, experiment=experiment)

    def starts_of(self, runs: Runs) -> Runs:
        """The supervised students of the seeds that the runs have."""
        start = "later_initial" if self.experiment == "later" else "initial"
        return of_the_same_seeds(self.rows(start), runs)

    def runs(self, method: str) -> Runs:
        """The runs of a method; of teacher or start by name; `5 %: METHOD` on a part of the inputs,
        `longer: METHOD` in equal time, `α 0.5` with a reward."""
        if method == TEACHER:
            return self.rows(TEACHER)
        if method == INITIAL:
            return self.starts_of(self.rows(self.experiment))
        if method == "best on-policy":
            names = [grid_name(divergence, 1.0) for divergence in DIVERGENCES]
            return self.runs(self.best(names, on_dev=True))
        kind, colon, name = method.partition(": ")
        if colon:
            return (
                self.rows("data", method=name, data_share=0.05)
                if kind == "5 %"
                else self.rows("wall_clock", method=name)
            )
        if method.startswith("α "):
            return self.rows("reward", alpha=float(method[2:]))
        return self.rows(self.experiment, method=method)

    @property
    def methods(self) -> list[str]:
        """The methods that were measured, in the order of tables."""
        return [method for method in METHODS if self.rows(self.experiment, method=method)]

    @property
    def grid(self) -> dict[str, list[Runs]]:
        """By the measured divergence, the runs at each lambda."""
        points = {d: [self.runs(grid_name(d, share)) for share in SHARES] for d in DIVERGENCES}
        return {divergence: runs for divergence, runs in points.items() if runs[-1]}

    @property
    def sampled(self) -> list[str]:
        """The teacher, the start, the baselines and every divergence with lambda 1."""
        on_policy = [m for m in self.methods if m == ON_POLICY or m.endswith("-1")]
        return [TEACHER, INITIAL, *BASELINES, *on_policy]

    @property
    def data_shares(self) -> list[float]:
        """The parts of the inputs that students were trained on, and the whole; or none."""
        rows = self.rows("data")
        return [*distinct(rows, "data_share"), 1.0] if rows else []

    def trained_on(self, method: str, share: float) -> Runs:
        """The runs of a method on a part of the inputs, or on all of them: of the same seeds."""
        runs = self.rows("main", "data", method=method, data_share=share)
        return of_the_same_seeds(runs, self.rows("data"))

    @property
    def timed(self) -> list[tuple[str, Runs]]:
        """On-policy KD, and methods with as many updates and with as much time; of equal seeds."""
        longer, systems = self.rows("wall_clock"), []
        for method in (ON_POLICY, *LENGTHENED):
            name = method_name(method)
            systems.append((name, of_the_same_seeds(self.runs(method), longer)))
            if method != ON_POLICY:
                systems.append((f"{name}, longer", self.runs(f"longer: {method}")))
        return systems

    @property
    def by_alpha(self) -> list[tuple[str, Runs]]:
        """The rewarded students by the weight of the teacher."""
        rows = self.rows("reward")
        return [(f"α {w:g}", select(rows, alpha=w)) for w in distinct(rows, "alpha")]

    @property
    def temperatures(self) -> list[str]:
        """At which samples were measured."""
        start = self.runs(INITIAL)
        return [t for t in ("0.3", "1") if average(start, f"self_bleu_sample_t{t}") is not None]

    def better_by(self, runs: Runs, base: Runs, key: str | None = None) -> Estimate | None:
        """By how much one system is better than another; positive is better."""
        return gain(runs, key or self.key, base, self.measure.sign)

    def gain_of(self, method: str) -> Estimate | None:
        """As `gained`, of a method's runs."""
        return None if method in (TEACHER, INITIAL) else self.gained(self.runs(method))

    def gained(self, runs: Runs) -> Estimate | None:
        """By how much a student is better than the one that it started from."""
        return self.better_by(runs, self.runs(INITIAL))

    def best(self, methods: Iterable[str], *, on_dev: bool = False) -> str:
        """The method that gains most over the start of the same seed, the earlier of equal ones."""
        key, sign = (
            (self.shown.dev.key, self.shown.dev.sign) if on_dev else (self.key, self.measure.sign)
        )
        gains = {m: gain(self.runs(m), key, self.runs(INITIAL), sign) for m in methods}
        known = {method: found.value for method, found in gains.items() if found is not None}
        return max(known, key=lambda method: known[method], default=INITIAL)

    def figure(self, figure: Mapping[str, Any]) -> Estimate | None:
        """The number that a line of claims.yaml asks for."""
        kind, sign = figure.get("kind"), self.measure.sign
        if kind == "twice":
            base = self.runs(self.best([b for b in BASELINES if b != "supervised_ft"]))
            gained = self.gained(base)
            if gained is None or gained.value <= 0.0:
                return None  # less of a loss would pass for a multiple of a gain
            # g - 1.5 b, of gains over the same start, is linear: no ratio of noisy numbers.
            own, start = self.runs("best on-policy"), self.runs(INITIAL)
            return contrast([(own, 1.0), (base, -1.5), (start, 0.5)], self.key, sign)
        if kind == "step":
            ends = [float(figure[end]) for end in ("system", "base")]
            complete = [dict(zip(SHARES, r, strict=True)) for r in self.grid.values() if all(r)]
            weight = 1.0 / max(1, len(complete))
            systems = [(of[ends[0]], weight) for of in complete]
            systems += [(of[ends[1]], -weight) for of in complete]
            return contrast(systems, self.key, sign)
        own, base = self.runs(figure["system"]), self.runs(figure["base"])
        if kind == "rise":
            return difference(own, figure["metric"], base)
        suffix = figure.get("metric")
        return self.better_by(own, base, f"{self.measure.key}_{suffix}" if suffix else None)


def multiple(gained: Estimate | None, base: Estimate | None) -> str:
    """A gain as a multiple of another: `1.2×`; a negative one has two decimals."""
    if gained is None or base is None or base.value <= 0.0:
        return MISSING
    of_base = gained.value / base.value
    return times(of_base) if of_base > 0.0 else f"{fixed(of_base, 2)}×"


def by_name(rows: Runs) -> list[tuple[str, str, Runs]]:
    """The rows of each method, after the paper's name and our own."""
    return sorted((method_name(m), m, runs) for (m,), runs in grouped(rows, "method").items())


def updates(rows: Runs) -> str:
    """How many updates the rows' students had."""
    return " / ".join(f"{value:,.0f}" for value in distinct(rows, "updates")) or MISSING


def students_of(results: Results) -> list[Students]:
    """Every task, in their order."""
    return [Students(results, shown) for shown in SHOWN]


def summary_table(results: Results) -> str:
    """Scores and gains of the methods that most tasks have: two columns for each task."""
    names = {method: method_name(method) for method in (TEACHER, INITIAL, *SUMMARIZED)}
    return summary(students_of(results), names)


def pictures(results: Results) -> dict[str, bytes]:
    """Every plot as SVG, by its file's name."""
    drawn = {}
    for students in students_of(results):
        stem, key = students.name.replace("-", "_"), students.key
        measure, start = students.measure, average(students.runs(INITIAL), key)

        def over(name: str, points: dict[str, plots.Points], label: str, *, log: bool) -> bytes:
            with plots.plot(name) as plot:
                plots.lines(plot.axes[0], points, log=log)
                plots.level(plot.axes[0], start, "initial student")  # noqa: B023
                plots.quality(plot.axes[0], measure)  # noqa: B023
                plot.axes[0].set_xlabel(label)
            return plot.image

        points: dict[str, plots.Points] = {}
        for divergence, at in students.grid.items():
            # Moved aside a little, so that intervals do not cover each other.
            moved = [share + 0.012 * DIVERGENCES.index(divergence) for share in SHARES]
            scores = [estimate(runs, key) for runs in at]
            points[DIVERGENCE_NAMES[divergence]] = list(zip(moved, scores, strict=True))
        label = "λ: the fraction of the batches that the student generates"
        drawn[f"{stem}_share"] = over(f"{stem} share", points, label, log=False)
        if shares := students.data_shares:
            points = {
                method_name(m): [(s, estimate(students.trained_on(m, s), key)) for s in shares]
                for m in THRIFTY
            }
            label = "part of the training inputs"
            drawn[f"{stem}_data"] = over(f"{stem} data", points, label, log=True)
        systems = {method_name(m): students.runs(m) for m in students.sampled if m != TEACHER}
        panes = [
            (f"self_bleu_sample_t{t}", f"{measure.key}_sample_t{t}", f"samples at temperature {t}")
            for t in students.temperatures
        ]
        labels = "self-BLEU (← more diverse)", measure
        drawn[f"{stem}_diversity"] = plots.scatter(f"{stem} diversity", systems, panes, *labels)
        systems = dict(students.by_alpha)
        chosen = [REWARD_COLUMNS[place] for place in (1, 2, 5)]
        panes = [("rouge_l_greedy", key, heading.strip(", %")) for heading, key, *_ in chosen]
        if systems:
            label = "ROUGE-L, the reward"
            drawn[f"{stem}_reward"] = plots.scatter(f"{stem} reward", systems, panes, label, None)
    return drawn


def write_page(path: Path = RESULTS) -> None:
    """Writes the page and its plots beside the rows."""
    results = read(path)
    found = students_of(results)
    write_paper(
        path,
        Path(__file__).parent,
        results,
        {students.name: students.figure for students in found},
        pictures(results),
        {**globals(), "students": found, "later": found[0].of("later")},
    )


if __name__ == "__main__":
    exits(write_page)
