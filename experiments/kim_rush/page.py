"""Writes docs/results/kim_rush.md and its plots: `python -m experiments.kim_rush.page`.

Reads docs/results/kim_rush.parquet and kim_rush_differences.parquet alone, so equal rows give equal
bytes. The prose is in page.md.jinja, what the paper claims in claims.yaml. Measures nothing.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
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
    change,
    distinct,
    estimate,
    gain,
    gap,
    grouped,
    ratio,
    read_results,
    select,
    summary,
)
from experiments.pages import exits, write_paper
from experiments.shapes import read_tasks

RESULTS = Path("docs/results/kim_rush.parquet")
FLOAT32, INT8 = "ctranslate2 float32", "ctranslate2 int8"
METHODS = (
    *("teacher", "teacher+seq_inter", "baseline", "word_kd", "seq_kd", "baseline+seq_inter"),
    *("word_kd+seq_inter", "seq_kd+seq_inter", "seq_kd+word_kd", "seq_kd+word_kd+seq_inter"),
)
"""The rows of the paper's table 1, in its order."""
PRUNED = "seq_kd+prune+seq_inter"
_STAGES = {"seq_kd": "Seq-KD", "word_kd": "Word-KD", "seq_inter": "Seq-Inter"}
_IDENTITY = (
    *("task", "experiment", "question", "variant", "size", "method", "engine"),
    *("pruned_share", "learning_rate", "updates", "seed"),
)
_FORMS = ("fp16", "fp16_sparse", "int8", "int8_sparse")


TASKS = read_tasks(Path(__file__).parents[1] / "shown.yaml", tuple[Shown, ...])["kim_rush"]


def read(path: Path = RESULTS) -> Results:
    """The committed rows, in the order of tables."""
    return read_results(
        path, lambda r: ", ".join(f"{key} {r[key]}" for key in _IDENTITY if key in r)
    )


def method_name(method: str) -> str:
    """The paper's name: `seq_kd+seq_inter` is `Seq-KD + Seq-Inter`."""
    return " + ".join(_STAGES.get(stage, stage.capitalize()) for stage in method.split("+"))


def named(text: str) -> str:
    """`64x2+2` as `64×2+2`, `4x_updates` as `4× updates`."""
    return re.sub(r"(\d)x", r"\1×", text).replace("_", " ")


@dataclasses.dataclass(frozen=True)
class Students(TaskRows):
    """All systems of one task and student size, with that task's teacher."""

    size: str

    @property
    def title(self) -> str:
        """`g2p 64×2+2`."""
        return f"{self.name} {named(self.size)}"

    def runs(self, method: str, **values: object) -> Runs:
        """The float32 runs of a method of the main table, or those pruned to `pruned_share`."""
        experiment = "pruning" if "pruned_share" in values else "main"
        of = TEACHER if method.startswith(TEACHER) else self.size
        found = {"method": method, "size": of, "engine": FLOAT32, **values}
        return self.rows(experiment, **found)

    @property
    def methods(self) -> list[str]:
        """The methods by which students of this size were trained, in the paper's order."""
        return [m for m in METHODS if not m.startswith(TEACHER) and self.runs(m)]

    def gain_of(self, method: str, mode: str = "greedy") -> Estimate | None:
        """By how much a method is better than the undistilled student, or the teacher of itself;
        positive is better; None for those two themselves."""
        base, measure = TEACHER if method.startswith(TEACHER) else "baseline", self.measure
        if method == base:
            return None
        return gain(self.runs(method), f"{measure.key}_{mode}", self.runs(base), measure.sign)

    def over_teacher(self, runs: Runs, mode: str) -> Estimate | None:
        """By how much runs are better than the teacher's beam search."""
        measure = self.measure
        return gain(runs, f"{measure.key}_{mode}", self.runs(TEACHER), measure.sign, measure.beam)

    @property
    def pruned(self) -> dict[float, Runs]:
        """The students of the pruning table by their pruned share."""
        rows = self.rows("pruning", engine=FLOAT32)
        return {share: select(rows, pruned_share=share) for share in distinct(rows, "pruned_share")}

    def used_rates(self, of: str, method: str, share: float | None) -> list[float]:
        """The rates that the tables use."""
        if share is None:
            main = self.rows("main", size=of, method=method, engine=FLOAT32)
            return distinct(main, "learning_rate")
        rows = self.rows("pruning", size=of, pruned_share=share, engine=FLOAT32)
        return [float(row["learning_rates"][-2]) for row in rows]

    def best(self, mode: str) -> str:
        """The method with the best mean, the earlier on equal ones."""
        key, sign = f"{self.measure.key}_{mode}", self.measure.sign
        return max(self.methods, key=lambda m: sign * (average(self.runs(m), key) or 0.0))

    def timed(self, of: str, engine: str = FLOAT32) -> Runs:
        """The row of the run that timed all models: of a size, or of the teacher."""
        return self.rows("speed", size=of, engine=engine)

    def beam_speed(self, engine: str) -> float | None:
        """Words per second of the teacher's beam search."""
        return average(self.timed(TEACHER, engine), "words_per_second_beam")

    def figure(self, figure: Mapping[str, Any]) -> Estimate | None:
        """The number that a line of claims.yaml asks for."""
        measure, method = self.measure, str(figure["system"])
        if figure.get("kind") == "gap":
            return gap(self.runs(method), measure)
        if figure["metric"] == "speed":
            key = "words_per_second"
            return ratio(self.timed(self.size), f"{key}_greedy", self.timed(TEACHER), f"{key}_beam")
        own = {
            "fast": self.runs("seq_kd+seq_inter"),
            "pruned": self.runs(PRUNED, pruned_share=0.8),
        }.get(method, self.runs(method))
        base = self.runs(str(figure["base"]))
        if figure.get("kind") == "ratio":
            return ratio(own, figure["metric"], base)
        keys = [
            f"{measure.key}_{figure.get(k, figure['metric'])}" for k in ("metric", "base_metric")
        ]
        return gain(own, keys[0], base, measure.sign, keys[1])


def students_of(results: Results) -> list[Students]:
    """The students of the main table by task and size, the largest size first."""
    found = []
    for task in TASKS:
        rows = results.of(task.name, "main")
        sizes = {str(r["size"]): int(r["parameters"]) for r in rows if r["size"] != TEACHER}
        found += [Students(results, task, s) for s in sorted(sizes, key=lambda s: -sizes[s])]
    return found


def largest_of(results: Results) -> list[Students]:
    """The largest students of each task."""
    largest = {s.name: s for s in reversed(students_of(results))}
    return [largest[task.name] for task in TASKS]


def summary_table(results: Results) -> str:
    """Every method on the largest student of each task, decoded greedily."""
    found = largest_of(results)
    methods = ("teacher", *(m for m in METHODS if any(m in s.methods for s in found)))
    return summary(found, {method: method_name(method) for method in methods})


def longer_training(results: Results) -> str:
    """What Seq-KD gains over undistilled students trained as long, at each length."""
    told = []
    for task in TASKS:
        rows = results.of(task.name, "follow_up", variant="4x_updates", engine=FLOAT32)
        of = str(rows[0]["size"])
        own, base = (select(rows, method=m) for m in ("seq_kd", "baseline"))
        longer = gain(own, task.measure.greedy, base, task.measure.sign)
        shorter = Students(results, task, of).gain_of("seq_kd")
        told.append(
            f"on {task.name} ({named(of)}) {change(shorter)} greedy, and with 4× updates "
            f"{change(longer)}"
        )
    start = "Seq-KD gains over an undistilled student that was trained as long: "
    return start + "; ".join(told)


def curve(students: Students, experiment: str) -> Runs:
    """The rows of a curve over size or length, with those of the main table that lie on it."""
    own = students.rows(experiment, engine=FLOAT32)
    sizes = {row["size"] for row in own}
    return own + tuple(
        row
        for row in students.rows("main", engine=FLOAT32)
        if row["method"] in ("baseline", "seq_kd")
        and (experiment == "size_curve" or row["size"] in sizes)
    )


def curve_points(students: Students, experiment: str) -> list[tuple[tuple[str, int], Runs]]:
    """The runs of each (size, updates) of a curve, the smallest first."""
    key = operator.itemgetter("parameters", "size", "updates")
    rows = sorted(curve(students, experiment), key=key)
    return list(grouped(rows, "size", "updates").items())


def behaviour(students: Students, every: Sequence[Students]) -> list[tuple[str, str, Runs]]:
    """Size, method and runs of all systems of the task."""
    systems = [(TEACHER, m, students.runs(m)) for m in METHODS[:2]]
    systems += [(s.size, m, s.runs(m)) for s in every if s.name == students.name for m in s.methods]
    return systems


def follow_ups(students: Students) -> Iterator[tuple[str, Runs]]:
    """The questions that were asked after the claims, and the runs that answer each."""
    keys = ("size", "seed", "pruned_share")
    known = students.rows("main", "pruning", engine=FLOAT32)
    asked_rows = students.rows("follow_up", engine=FLOAT32)
    for (question,), asked in grouped(asked_rows, "question").items():
        wanted = {(row["compared_with"], *map(row.get, keys)) for row in asked}
        beside = (row for row in known if (row["method"], *map(row.get, keys)) in wanted)
        yield question, (*asked, *beside)


def pictures(results: Results) -> dict[str, bytes]:
    """Every plot as SVG, by its file's name."""
    drawn = {}
    for students in largest_of(results):
        stem, measure = students.name.replace("-", "_"), students.measure
        systems = [
            (method_name(m) + ("" if of == TEACHER else f"  {named(of)}"), runs)
            for of, m, runs in behaviour(students, students_of(results))
        ]
        with plots.plot(f"{stem} main", size=(7.2, 0.9 + 0.26 * len(systems))) as plot:
            scores = [
                (n, estimate(r, measure.greedy), estimate(r, measure.beam)) for n, r in systems
            ]
            plots.pairs(plot.axes[0], scores, ("greedy", "beam 5"))
            plots.quality(plot.axes[0], measure, "x")
        drawn[f"{stem}_main"] = plot.image
        with plots.plot(f"{stem} pruning") as plot:
            points = [
                (average(runs, "nonzero") or 1, estimate(runs, measure.beam))
                for runs in students.pruned.values()
            ]
            plots.lines(plot.axes[0], {"pruned student, beam": points}, log=True)
            teacher = average(students.runs(TEACHER), measure.beam)
            plots.level(plot.axes[0], teacher, "teacher, beam")
            plots.quality(plot.axes[0], measure)
            plot.axes[0].set_xlabel("weights that are not zero")
        drawn[f"{stem}_pruning"] = plot.image
        largest = {method_name(m): students.runs(m) for m in METHODS if students.runs(m)}
        panes = [
            ("perplexity", measure.greedy, measure.name),
            ("perplexity", "mode_share", "p(t=ŷ)"),
        ]
        labels = "perplexity of the references", measure
        drawn[f"{stem}_likelihood"] = plots.scatter(f"{stem} likelihood", largest, panes, *labels)
        if not students.rows("size_curve"):
            continue
        with plots.plot(f"{stem} curves", 2, size=(10.0, 3.8)) as plot:
            for axes, (experiment, key) in zip(
                plot.axes, (("size_curve", "parameters"), ("length_curve", "updates")), strict=True
            ):
                rows = curve(students, experiment)
                systems_of = {
                    method_name(m): [
                        (x, estimate(select(rows, method=m, **{key: x}), measure.greedy))
                        for x in distinct(select(rows, method=m), key)
                    ]
                    for m in ("baseline", "seq_kd")
                }
                plots.lines(axes, systems_of, log=True)
                plots.quality(axes, measure)
                axes.set_xlabel(key)
        drawn[f"{stem}_curves"] = plot.image
    return drawn


def write_page(path: Path = RESULTS) -> None:
    """Writes the page and its plots beside the rows."""
    results = read(path)
    found = students_of(results)
    write_paper(
        path,
        Path(__file__).parent,
        results,
        {students.title: students.figure for students in found},
        pictures(results),
        {**globals(), "students": found, "largest": largest_of(results)},
    )


if __name__ == "__main__":
    exits(write_page)
