"""Writes docs/results/gkd.md and its plots: `python -m experiments.gkd.page`.

Reads docs/results/gkd.parquet and gkd_differences.parquet alone, so equal rows give equal bytes.
The prose is in page.md.jinja, what the paper claims in claims.yaml. Measures nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import plots
from experiments.claims import claim_tables, decide, read_claims
from experiments.estimates import (
    TEACHER,
    Estimate,
    Results,
    Runs,
    Shown,
    average,
    change,
    contrast,
    difference,
    distinct,
    estimate,
    gain,
    grouped,
    of_the_same_seeds,
    rates_line,
    read_results,
    scaled,
    score,
    select,
    share_name,
    table,
)
from experiments.gkd.methods import (
    BASELINES,
    DIVERGENCES,
    LENGTHENED,
    SHARES,
    THRIFTY,
    grid_name,
)
from experiments.pages import VERSIONS, exits, write_pictured
from experiments.shapes import read_tasks
from seqdistill.report.numbers import MISSING, duration, fixed, percent, times

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
_DIVERGENCE_NAMES = {
    **{"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd_0.1": "JSD(0.1)"},
    **{"jsd_0.5": "JSD(0.5)", "jsd_0.9": "JSD(0.9)"},
}
_METHOD_NAMES = {
    **{TEACHER: "Teacher", INITIAL: "Initial student", "supervised_ft": "Supervised FT"},
    **{"seq_kd": "SeqKD", "supervised_kd": "Supervised KD", "imitkd": "ImitKD"},
    **{ON_POLICY: "On-policy KD", "gkd_rl": "RL + GKD"},
}
REWARD_COLUMNS = (
    ("ROUGE-L (rewarded)", "rouge_l_greedy", 1),
    ("ROUGE-2 (not rewarded)", "rouge_2_greedy", 1),
    ("agrees with teacher, %", "agreement_top1", 1),
    ("KL from teacher, nats", "last_teacher_reverse_kl", 3),
    ("entropy, nats", "last_student_entropy", 3),
    ("length / reference", "length_ratio_greedy", 2),
    ("repetition at T 1", "repetition_sample_t1", 3),
)
"""What is rewarded, what is held out, and signs of reward hacking; with their decimals."""


SHOWN = read_tasks(Path(__file__).parents[1] / "shown.yaml", tuple[Shown, ...])["gkd"]


def read(path: Path = RESULTS) -> Results:
    """The committed rows, in the order of tables."""
    return read_results(path, lambda row: f"task {row['task']}, {row['name']}")


def method_name(method: str) -> str:
    """The paper's name: `gkd-reverse_kl-0.5` is `GKD reverse KL, λ 0.5`."""
    if method.startswith("gkd-"):
        _, divergence, share = method.split("-")
        return f"GKD {_DIVERGENCE_NAMES[divergence]}, λ {share}"
    return _METHOD_NAMES[method]


@dataclasses.dataclass(frozen=True)
class Students:
    """All systems of one task; `experiment` says whose rows the students are: those of the main
    table, those trained for longer (follow_up), or those that start from a later student."""

    results: Results
    shown: Shown
    experiment: str = "main"

    @property
    def key(self) -> str:
        """The main score of the test set."""
        return self.shown.measure.greedy

    def rows(self, *experiments: str, **values: object) -> Runs:
        """The task's rows of some experiments."""
        return self.results.of(self.shown.name, *experiments, **values)

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
    def temperatures(self) -> list[str]:
        """At which samples were measured."""
        start = self.runs(INITIAL)
        return [t for t in ("0.3", "1") if average(start, f"self_bleu_sample_t{t}") is not None]

    def better_by(self, runs: Runs, base: Runs, key: str | None = None) -> Estimate | None:
        """By how much one system is better than another; positive is better."""
        return gain(runs, key or self.key, base, self.shown.measure.sign)

    def gained(self, runs: Runs) -> Estimate | None:
        """By how much a student is better than the one that it started from."""
        return self.better_by(runs, self.runs(INITIAL))

    def best(self, methods: Iterable[str], *, on_dev: bool = False) -> str:
        """The method that gains most over the start of the same seed, the earlier of equal ones."""
        key, sign = (
            (self.shown.dev.key, self.shown.dev.sign)
            if on_dev
            else (self.key, self.shown.measure.sign)
        )
        gains = {m: gain(self.runs(m), key, self.runs(INITIAL), sign) for m in methods}
        known = {method: found.value for method, found in gains.items() if found is not None}
        return max(known, key=lambda method: known[method], default=INITIAL)

    def figure(self, figure: Mapping[str, Any]) -> Estimate | None:
        """The number that a line of claims.yaml asks for."""
        kind, sign = figure.get("kind"), self.shown.measure.sign
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
            points = [[self.runs(grid_name(d, s)) for s in SHARES] for d in DIVERGENCES]
            complete = [dict(zip(SHARES, runs, strict=True)) for runs in points if all(runs)]
            weight = 1.0 / max(1, len(complete))
            systems = [(of[ends[0]], weight) for of in complete]
            systems += [(of[ends[1]], -weight) for of in complete]
            return contrast(systems, self.key, sign)
        own, base = self.runs(figure["system"]), self.runs(figure["base"])
        if kind == "rise":
            return difference(own, figure["metric"], base)
        suffix = figure.get("metric")
        return self.better_by(own, base, f"{self.shown.measure.key}_{suffix}" if suffix else None)


def students_of(results: Results) -> list[Students]:
    """Every task, in their order."""
    return [Students(results, shown) for shown in SHOWN]


def main_table(students: Students) -> str:
    """Scores and gains of the teacher, the initial student and every method; the best in bold."""
    best = students.best(students.methods)
    base = students.gained(students.runs(students.best(BASELINES)))
    lines = []
    for method in (TEACHER, INITIAL, *students.methods):
        runs, name = students.runs(method), method_name(method)
        gained = None if method in (TEACHER, INITIAL) else students.gained(runs)
        found = estimate(runs, students.key)
        ratio = MISSING
        if gained is not None and base is not None and base.value > 0.0:
            of_base = gained.value / base.value
            ratio = times(of_base) if of_base > 0.0 else f"{of_base:.2f}×".replace("-", "−")
        seconds = average(runs, "seconds_per_update")
        lines.append(
            [
                f"**{name}**" if method == best else name,
                *(score(found), change(gained), ratio),
                *(fixed(average(runs, key)) for key in students.shown.further.values()),
                percent(average(runs, "agreement_top1")),
                MISSING if seconds is None else fixed(1000.0 * seconds, 0),
                MISSING if found is None else found.told_basis,
            ]
        )
    headings = ["system", f"{students.shown.measure.name} greedy", "gain", "to best baseline's"]
    headings += [*students.shown.further]
    return table([*headings, "agrees with teacher", "ms/update", "interval"], lines)


def summary_table(results: Results) -> str:
    """Scores and gains of the methods that most tasks have: two columns for each task."""
    found = students_of(results)
    headings = ["system"]
    for students in found:
        headings += [f"{students.shown.name}: {students.shown.measure.name}", "gain"]
    lines = []
    for method in (TEACHER, INITIAL, *SUMMARIZED):
        cells = []
        for students in found:
            runs = students.runs(method)
            gained = None if method in (TEACHER, INITIAL) else students.gained(runs)
            cells += [score(estimate(runs, students.key)), change(gained)]
        lines.append([method_name(method), *cells])
    return table(headings, lines)


def grid_table(students: Students) -> str:
    """Gains over the initial student: a line for each divergence, a column for each lambda."""
    lines = []
    for divergence in DIVERGENCES:
        points = [students.runs(grid_name(divergence, share)) for share in SHARES]
        if points[-1]:
            cells = [change(students.gained(runs)) for runs in points]
            lines.append([_DIVERGENCE_NAMES[divergence], *cells])
    return table(["gain over the initial student", *(f"λ {share:g}" for share in SHARES)], lines)


def sampled_methods(students: Students) -> list[str]:
    """The teacher, the start, the baselines and every divergence with lambda 1."""
    on_policy = [m for m in students.methods if m == ON_POLICY or m.endswith("-1")]
    return [TEACHER, INITIAL, *BASELINES, *on_policy]


def sampled_table(students: Students) -> str:
    """Quality and self-BLEU of samples, at each temperature."""
    measure = students.shown.measure
    columns = [
        (f"{name}, T {temperature}", f"{key}_sample_t{temperature}")
        for temperature in students.temperatures
        for name, key in ((measure.name, measure.key), ("self-BLEU", "self_bleu"))
    ]
    lines = [
        [method_name(m), *(score(estimate(students.runs(m), key)) for _, key in columns)]
        for m in sampled_methods(students)
    ]
    return table(["system", *(heading for heading, _ in columns)], lines)


def trained_on(students: Students, method: str, share: float) -> Runs:
    """The runs of a method on a part of the inputs, or on all of them: of the same seeds."""
    runs = students.rows("main", "data", method=method, data_share=share)
    return of_the_same_seeds(runs, students.rows("data"))


def data_shares(students: Students) -> list[float]:
    """The parts of the inputs that students were trained on, and the whole; or none."""
    rows = students.rows("data")
    return [*distinct(rows, "data_share"), 1.0] if rows else []


def data_table(students: Students) -> str:
    """Scores over the part of the inputs: a line for each part, a column for each method."""
    lines = [
        [
            share_name(share),
            *(score(estimate(trained_on(students, m, share), students.key)) for m in THRIFTY),
        ]
        for share in data_shares(students)
    ]
    return table(["inputs", *map(method_name, THRIFTY)], lines)


def time_table(students: Students) -> str:
    """On-policy KD beside methods with as many updates, and with as much time; of equal seeds."""
    longer = students.rows("wall_clock")
    timed = of_the_same_seeds(students.runs(ON_POLICY), longer)
    systems = [(method_name(ON_POLICY), timed)]
    for method in LENGTHENED:
        name = method_name(method)
        systems.append((name, of_the_same_seeds(students.runs(method), longer)))
        systems.append((f"{name}, longer", students.runs(f"longer: {method}")))
    lines = [
        [
            *(name, _updates(runs), duration(average(runs, "wall_s"))),
            score(estimate(runs, students.key)),
            MISSING if runs is timed else change(students.better_by(timed, runs)),
        ]
        for name, runs in systems
    ]
    headings = ["system", "updates", "training", students.shown.measure.name]
    return table([*headings, "On-policy KD is better by"], lines)


def _compared_table(
    found: Sequence[tuple[Students, str]], methods: Sequence[str], seeds: Runs
) -> str:
    """Scores and gains of students that were trained otherwise side by side, of equal seeds."""
    lines = []
    for method in methods:
        cells = []
        for students, _ in found:
            runs = of_the_same_seeds(students.runs(method), seeds)
            gained = None if method == INITIAL else students.gained(runs)
            cells += [score(estimate(runs, students.key)), change(gained)]
        lines.append([method_name(method), *cells])
    headings = [text for _, heading in found for text in (heading, "gain")]
    return table(["system", *headings], lines)


def length_table(students: Students) -> str:
    """Scores and gains after the main table's updates and the follow-up's."""
    longer = dataclasses.replace(students, experiment="follow_up")
    found = [
        (of, f"{students.shown.measure.name} after {_updates(of.rows(of.experiment))} updates")
        for of in (students, longer)
    ]
    return _compared_table(found, longer.methods, longer.rows("follow_up"))


def start_table(students: Students) -> str:
    """Scores and gains from the start of all other tables and from the later one.

    All were trained equally long: what begins at the first start is the follow-up's.
    """
    first, later = (dataclasses.replace(students, experiment=e) for e in ("follow_up", "later"))
    name = students.shown.measure.name
    found = [
        (of, f"{name}, start of {_updates(of.runs(INITIAL))} updates") for of in (first, later)
    ]
    return _compared_table(found, (INITIAL, *later.methods), later.rows("later"))


def reward_table(students: Students) -> str:
    """Rewarded students: a line for each alpha, the start before them."""
    rows = students.rows("reward")
    systems = [("initial student", students.starts_of(rows))]
    systems += [(f"α {weight:g}", select(rows, alpha=weight)) for weight in distinct(rows, "alpha")]
    lines = []
    for name, runs in systems:
        cells = [
            score(
                estimate(scaled(runs, key, 100.0 if key == "agreement_top1" else 1.0), key), places
            )
            for _, key, places in REWARD_COLUMNS
        ]
        lines.append([name, *cells])
    return table(["", *(heading for heading, _, _ in REWARD_COLUMNS)], lines)


def rates_table(students: Students) -> str:
    """Dev scores of the grid of learning rates; bold is the rate that was taken."""
    is_later = students.experiment == "later"
    rows = students.rows("later_rates" if is_later else "learning_rates")
    taken = students.rows(*(("later",) if is_later else ("main", "reward")))
    rates = distinct(rows, "learning_rate")
    lines = []
    for (method,), runs in grouped(rows, "method").items():
        used = distinct(select(taken, method=method), "learning_rate")
        line = rates_line(runs, rates, students.shown.dev.key, used)
        lines.append([method_name(method), *line])
    headings = [f"{students.shown.dev.name} on dev", *(f"{rate:g}" for rate in rates)]
    return table(headings, sorted(lines))


def run_table(results: Results) -> str:
    """Tasks, data, models, budgets: a line for each task."""
    lines = []
    for students in students_of(results):
        name = students.shown.name
        facts = results.facts["tasks"][name]
        teacher, initial = students.runs(TEACHER), students.runs(INITIAL)
        every = select(results.rows, task=name)
        lines.append(
            [
                students.shown.title,
                " / ".join(f"{facts[split]:,}" for split in ("train", "dev", "test")),
                *(f"{(average(r, 'parameters') or 0) / 1e6:.2f} M" for r in (teacher, initial)),
                *(_updates(rows) for rows in (initial, students.rows("main"))),
                str(len(distinct(students.rows("main"), "seed"))),
                *(score(estimate(runs, students.key)) for runs in (teacher, initial)),
                duration(sum(row.get("seconds", 0.0) for row in every)),
            ]
        )
    headings = ["task", "train / dev / test", "teacher", "student", "updates before", "updates"]
    headings += ["seeds", "teacher's score", "initial score", "all cells took"]
    return table(headings, lines)


def machines(results: Results) -> str:
    """The CPUs that each task's students were trained on: times compare within one of them."""
    told = []
    for shown in SHOWN:
        names = distinct(select(results.rows, task=shown.name), "machine")
        told.append(f"{shown.name}: {' and '.join(names)}")
    return "; ".join(told)


def _updates(rows: Runs) -> str:
    return " / ".join(f"{value:,.0f}" for value in distinct(rows, "updates")) or MISSING


def pictures(results: Results) -> dict[str, bytes]:
    """Every plot as SVG, by its file's name."""
    drawn = {}
    for students in students_of(results):
        stem, key = students.shown.name.replace("-", "_"), students.key
        measure, start = students.shown.measure, average(students.runs(INITIAL), key)

        def over(name: str, points: dict[str, plots.Points], label: str, *, log: bool) -> bytes:
            with plots.plot(name) as plot:
                plots.lines(plot.axes[0], points, log=log)
                plots.level(plot.axes[0], start, "initial student")  # noqa: B023
                plots.quality(plot.axes[0], measure)  # noqa: B023
                plot.axes[0].set_xlabel(label)
            return plot.image

        points: dict[str, plots.Points] = {}
        for place, divergence in enumerate(DIVERGENCES):
            at = [students.runs(grid_name(divergence, share)) for share in SHARES]
            if at[-1]:  # moved aside a little, so that intervals do not cover each other
                moved = [share + 0.012 * place for share in SHARES]
                scores = [estimate(runs, key) for runs in at]
                points[_DIVERGENCE_NAMES[divergence]] = list(zip(moved, scores, strict=True))
        label = "λ: the fraction of the batches that the student generates"
        drawn[f"{stem}_share"] = over(f"{stem} share", points, label, log=False)
        if shares := data_shares(students):
            points = {
                method_name(m): [(s, estimate(trained_on(students, m, s), key)) for s in shares]
                for m in THRIFTY
            }
            label = "part of the training inputs"
            drawn[f"{stem}_data"] = over(f"{stem} data", points, label, log=True)
        systems = {
            method_name(m): students.runs(m) for m in sampled_methods(students) if m != TEACHER
        }
        panes = [
            (f"self_bleu_sample_t{t}", f"{measure.key}_sample_t{t}", f"samples at temperature {t}")
            for t in students.temperatures
        ]
        labels = "self-BLEU (← more diverse)", measure
        drawn[f"{stem}_diversity"] = plots.scatter(f"{stem} diversity", systems, panes, *labels)
        rewarded = students.rows("reward")
        systems = {f"α {w:g}": select(rewarded, alpha=w) for w in distinct(rewarded, "alpha")}
        chosen = [REWARD_COLUMNS[place] for place in (1, 2, 5)]
        panes = [("rouge_l_greedy", key, heading.strip(", %")) for heading, key, _ in chosen]
        if systems:
            label = "ROUGE-L, the reward"
            drawn[f"{stem}_reward"] = plots.scatter(f"{stem} reward", systems, panes, label, None)
    return drawn


def write_page(path: Path = RESULTS) -> None:
    """Writes the page and its plots beside the rows."""
    results = read(path)
    found = students_of(results)
    later = dataclasses.replace(found[0], experiment="later")
    path_of_claims = Path(__file__).with_name("claims.yaml")
    places = {students.shown.name: students.figure for students in found}
    verdicts, details = claim_tables(path_of_claims, places)
    of_later = [
        [claim.claim, *(decide(claim, of.figure)[0] for of in (found[0], later))]
        for claim in read_claims(path_of_claims)[:2]
    ]
    versions = results.facts["environment"]["versions"]
    values: dict[str, object] = {
        name: function for name, function in globals().items() if name.endswith("_table")
    }
    values |= {"results": results, "students": found, "by": {s.shown.name: s for s in found}}
    values |= {"verdicts": verdicts, "claims": details, "change": change, "later": later}
    headings = ["claim", "main table", "later start"]
    values["later_verdicts"] = table(headings, of_later, text_columns=3)
    values["score"] = score
    values |= {"method_name": method_name, "estimate": estimate, "machines": machines(results)}
    values["versions"] = ", ".join(f"{name} {versions[name]}" for name in VERSIONS)
    write_pictured(path, Path(__file__).with_name("page.md.jinja"), pictures(results), values)


if __name__ == "__main__":
    exits(write_page)
