"""Writes docs/results/kim_rush.md and its plots: `python -m experiments.kim_rush.page`.

Reads docs/results/kim_rush.parquet and kim_rush_differences.parquet alone, so equal rows give equal
bytes. The prose is in page.md.jinja, what the paper claims in claims.yaml. Measures nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments import plots
from experiments.claims import claim_tables
from experiments.estimates import (
    TEACHER,
    Estimate,
    Results,
    Runs,
    Shown,
    average,
    change,
    distinct,
    estimate,
    gain,
    gap,
    grouped,
    rates_line,
    ratio,
    read_results,
    score,
    select,
    share_name,
    table,
)
from experiments.pages import VERSIONS, exits, write_pictured
from experiments.shapes import read_tasks
from seqdistill.report.numbers import MISSING, count, duration, fixed, percent, rate, size, times

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
class Students:
    """All systems of one task and student size, with that task's teacher."""

    results: Results
    task: Shown
    size: str

    @property
    def name(self) -> str:
        """`g2p 64×2+2`."""
        return f"{self.task.name} {named(self.size)}"

    def runs(self, method: str, **values: object) -> Runs:
        """The float32 runs of a method of the main table, or those pruned to `pruned_share`."""
        experiment = "pruning" if "pruned_share" in values else "main"
        of = TEACHER if method.startswith(TEACHER) else self.size
        found = {"method": method, "size": of, "engine": FLOAT32, **values}
        return self.results.of(self.task.name, experiment, **found)

    @property
    def methods(self) -> list[str]:
        """The methods by which students of this size were trained, in the paper's order."""
        return [m for m in METHODS if not m.startswith(TEACHER) and self.runs(m)]

    def gain(self, method: str, base: str, mode: str = "greedy") -> Estimate | None:
        """By how much one method is better than another; positive is better."""
        measure = self.task.measure
        return gain(self.runs(method), f"{measure.key}_{mode}", self.runs(base), measure.sign)

    def over_teacher(self, runs: Runs, mode: str) -> Estimate | None:
        """By how much runs are better than the teacher's beam search."""
        measure = self.task.measure
        return gain(runs, f"{measure.key}_{mode}", self.runs(TEACHER), measure.sign, measure.beam)

    def best(self, mode: str) -> str:
        """The method with the best mean, the earlier on equal ones."""
        key, sign = f"{self.task.measure.key}_{mode}", self.task.measure.sign
        return max(self.methods, key=lambda m: sign * (average(self.runs(m), key) or 0.0))

    def timed(self, of: str, engine: str = FLOAT32) -> Runs:
        """The row of the run that timed all models: of a size, or of the teacher."""
        return self.results.of(self.task.name, "speed", size=of, engine=engine)

    def figure(self, figure: Mapping[str, Any]) -> Estimate | None:
        """The number that a line of claims.yaml asks for."""
        measure, method = self.task.measure, str(figure["system"])
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


def main_table(students: Students) -> str:
    """Scores and gains of the teacher and of one student size; the best students in bold."""
    measure = students.task.measure
    best = {students.best("greedy"), students.best("beam")}
    rows = []
    for method in ("teacher", "teacher+seq_inter", *students.methods):
        runs = students.runs(method)
        base = TEACHER if method.startswith(TEACHER) else "baseline"
        gains = [
            None if method == base else students.gain(method, base, mode)
            for mode in ("greedy", "beam")
        ]
        found = estimate(runs, measure.greedy)
        name = method_name(method)
        rows.append(
            [
                f"**{name}**" if method in best else name,
                *(score(estimate(runs, key)) for key in (measure.greedy, measure.beam)),
                *map(change, gains),
                *(score(estimate(runs, key)) for key in students.task.further.values()),
                fixed(average(runs, "perplexity"), 2),
                percent(average(runs, "mode_share")),
                MISSING if found is None else found.told_basis,
            ]
        )
    headings = ["system", f"{measure.name} greedy", f"{measure.name} beam", "gain greedy"]
    headings += ["gain beam", *students.task.further]
    return table([*headings, "perplexity", "p(t=ŷ)", "interval"], rows)


def summary_table(results: Results) -> str:
    """Every method on the largest student of each task, decoded greedily."""
    largest = {s.task.name: s for s in reversed(students_of(results))}
    found = [largest[task.name] for task in TASKS]
    headings = ["system"]
    for students in found:
        headings += [f"{students.name}: {students.task.measure.name}", "gain"]
    rows = []
    for method in ("teacher", *(m for m in METHODS if any(m in s.methods for s in found))):
        cells = []
        for students in found:
            key = students.task.measure.greedy
            is_base = method in (TEACHER, "baseline")
            cells += [
                score(estimate(students.runs(method), key)),
                change(None if is_base else students.gain(method, "baseline")),
            ]
        rows.append([method_name(method), *cells])
    return table(headings, rows)


def longer_training(results: Results) -> str:
    """What Seq-KD gains over undistilled students trained as long, at each length."""
    told = []
    for task in TASKS:
        rows = results.of(task.name, "follow_up", variant="4x_updates", engine=FLOAT32)
        of = str(rows[0]["size"])
        own, base = (select(rows, method=m) for m in ("seq_kd", "baseline"))
        longer = gain(own, task.measure.greedy, base, task.measure.sign)
        shorter = Students(results, task, of).gain("seq_kd", "baseline")
        told.append(
            f"on {task.name} ({named(of)}) {change(shorter)} greedy, and with 4× updates "
            f"{change(longer)}"
        )
    start = "Seq-KD gains over an undistilled student that was trained as long: "
    return start + "; ".join(told)


def run_table(results: Results) -> str:
    """Tasks, data, teacher, students, updates, seeds."""
    lines = []
    for task in TASKS:
        found = [s for s in students_of(results) if s.task == task]
        teacher = average(found[0].runs(TEACHER), "parameters") or 0.0
        sizes = [(s, average(s.runs("baseline"), "parameters") or 0.0) for s in found]
        main = tuple(r for r in results.of(task.name, "main") if r["size"] != TEACHER)
        every = [row for row in results.rows if row["task"] == task.name]
        facts = results.facts["tasks"][task.name]
        lines.append(
            [
                task.title,
                " / ".join(f"{facts[split]:,}" for split in ("train", "dev", "test")),
                count(teacher),
                "; ".join(
                    f"{named(s.size)}: {count(n)}, {times(teacher / n)} smaller" for s, n in sizes
                ),
                ", ".join(f"{updates:,}" for updates in distinct(main, "updates")),
                str(len(distinct(main, "seed"))),
                duration(sum(row.get("seconds_training", 0.0) for row in every)),
            ]
        )
    headings = ["task", "train / dev / test", "teacher", "students", "updates", "seeds"]
    return table([*headings, "training, all rows"], lines)


def speed_table(results: Results, task: Shown) -> str:
    """Words per second of each model and engine, and ratios to the teacher's beam search."""
    found = [s for s in students_of(results) if s.task == task]
    beams = {
        e: average(found[0].timed(TEACHER, e), "words_per_second_beam") for e in (FLOAT32, INT8)
    }
    lines = []
    for of in (TEACHER, *(s.size for s in found)):
        for engine in (FLOAT32, INT8):
            runs = found[0].timed(of, engine)
            greedy, beam = (average(runs, f"words_per_second_{m}") or 0 for m in ("greedy", "beam"))
            whole, same = beams[FLOAT32] or 1, beams[engine] or 1
            ratios = (greedy / whole, greedy / same, beam / same)
            method, engine_name = (
                method_name(runs[0]["method"]),
                engine.removeprefix("ctranslate2 "),
            )
            quality = fixed(average(runs, task.measure.greedy))
            lines.append([named(of), method, engine_name, quality, rate(greedy), rate(beam)])
            lines[-1] += map(times, ratios)
    headings = ["model", "method", "engine", f"{task.measure.name} greedy", "words/s greedy"]
    headings += ["words/s beam", "greedy / teacher's beam, fp32"]
    headings += [f"{mode} / teacher's beam, same engine" for mode in ("greedy", "beam")]
    return table(headings, lines, text_columns=3)


def pruned(students: Students) -> Iterator[tuple[float, Runs]]:
    """The students of the pruning table by their pruned share."""
    rows = students.results.of(students.task.name, "pruning", engine=FLOAT32)
    for share in distinct(rows, "pruned_share"):
        yield share, select(rows, pruned_share=share)


def pruning_table(students: Students) -> str:
    """Every pruned student: its weights, its scores beside the teacher's, and its stored forms."""
    measure = students.task.measure
    whole = average(students.runs(TEACHER), "parameters") or 0.0
    unpruned = dict(pruned(students))[0.0]
    lines = []
    for share, runs in pruned(students):
        left = average(runs, "nonzero") or 1.0
        copies = students.results.of(students.task.name, "pruning", engine=INT8, pruned_share=share)
        from_unpruned = gain(runs, measure.beam, unpruned, measure.sign) if share else None
        lines.append(
            [
                named(str(runs[0]["size"])),
                method_name(str(runs[0]["method"])),
                share_name(share),
                count(left),
                times(whole / left),
                *(score(estimate(runs, key)) for key in (measure.greedy, measure.beam)),
                score(estimate(copies, measure.beam)),
                change(students.over_teacher(runs, "beam")),
                change(from_unpruned),
                *(size(average(runs, f"bytes_{form}")) for form in _FORMS),
            ]
        )
    headings = ["student", "method", "pruned", "weights left", "fewer than the teacher"]
    headings += [f"{measure.name} {mode}" for mode in ("greedy", "beam", "beam, int8")]
    headings += ["gain over teacher's beam", "gain over 0 % pruned"]
    return table([*headings, *(form.replace("_", " ") for form in _FORMS)], lines, text_columns=2)


def curve(results: Results, task: Shown, experiment: str) -> Runs:
    """The rows of a curve over size or length, with those of the main table that lie on it."""
    own = results.of(task.name, experiment, engine=FLOAT32)
    sizes = {row["size"] for row in own}
    main = results.of(task.name, "main", engine=FLOAT32)
    return own + tuple(
        row
        for row in main
        if row["method"] in ("baseline", "seq_kd")
        and (experiment == "size_curve" or row["size"] in sizes)
    )


def curve_table(results: Results, task: Shown, experiment: str) -> str:
    """Greedy scores of one curve: a line for each point of it, a column for each method."""
    rows = sorted(
        curve(results, task, experiment), key=lambda r: (r["parameters"], r["size"], r["updates"])
    )
    methods = ("baseline", "seq_kd")
    lines = [
        [
            *(named(of), count(average(at, "parameters")), f"{updates:,}"),
            *(score(estimate(select(at, method=m), task.measure.greedy)) for m in methods),
        ]
        for (of, updates), at in grouped(rows, "size", "updates").items()
    ]
    return table(["student", "parameters", "updates", *map(method_name, methods)], lines)


def rates_table(results: Results, task: Shown) -> str:
    """Dev scores of the learning rates that were tried; bold is what the tables use."""
    rows = results.of(task.name, "learning_rates")
    rates = distinct(rows, "learning_rate")
    lines = []
    for (of, method, share), runs in grouped(rows, "size", "method", "pruned_share").items():
        used = _used_rates(results, task, of, method, share)
        name = method_name(method) + ("" if share is None else f", {share_name(share)}")
        lines.append([named(of), name, *rates_line(runs, rates, task.dev.key, used)])
    return table(["model", "method", *(f"{r:g}" for r in rates)], lines, text_columns=2)


def _used_rates(
    results: Results, task: Shown, of: str, method: str, share: float | None
) -> list[float]:
    if share is None:
        main = results.of(task.name, "main", size=of, method=method, engine=FLOAT32)
        return distinct(main, "learning_rate")
    rows = results.of(task.name, "pruning", size=of, pruned_share=share, engine=FLOAT32)
    return [float(row["learning_rates"][-2]) for row in rows]


def behaviour_table(results: Results, task: Shown) -> str:
    """How all systems decode: gain of beam search, agreement, outputs without an end, time."""
    found = [s for s in students_of(results) if s.task == task]
    systems = [(TEACHER, m, found[0].runs(m)) for m in METHODS[:2]]
    systems += [(s.size, m, s.runs(m)) for s in found for m in s.methods]
    lines = [
        [
            *(named(of), method_name(method), change(gap(runs, task.measure))),
            percent(average(runs, "agreement_top1")),
            fixed(average(runs, "unfinished")),
            duration(average(runs, "seconds_training")),
        ]
        for of, method, runs in systems
    ]
    headings = ["model", "method", "beam over greedy", "top-1 agreement", "unfinished", "training"]
    return table(headings, lines, text_columns=2)


def follow_up_tables(results: Results) -> Iterator[tuple[str, str]]:
    """A question that was asked after the claims, and the table that answers it."""
    keys = ("size", "seed", "pruned_share")
    for task in TASKS:
        known = results.of(task.name, "main", "pruning", engine=FLOAT32)
        asked_rows = results.of(task.name, "follow_up", engine=FLOAT32)
        for (question,), asked in grouped(asked_rows, "question").items():
            wanted = {(row["compared_with"], *map(row.get, keys)) for row in asked}
            beside = (row for row in known if (row["method"], *map(row.get, keys)) in wanted)
            yield f"{task.name}: {question}", _follow_up_table(task, (*asked, *beside))


def _follow_up_table(task: Shown, rows: Runs) -> str:
    measure = task.measure
    lines = []
    for key, runs in grouped(rows, "size", "method", "variant", "updates", "learning_rate").items():
        of, method, variant, updates, value = key
        base = select(rows, method="baseline", size=of, variant=variant, updates=updates)
        gained = None if method == "baseline" else gain(runs, measure.greedy, base, measure.sign)
        lines.append(
            [
                *(named(of), method_name(method), MISSING if variant is None else named(variant)),
                *(f"{updates:,}", f"{value:g}"),
                *(score(estimate(runs, key)) for key in (measure.greedy, measure.beam)),
                *(change(gained), fixed(average(runs, "perplexity"), 2)),
                *(percent(average(runs, "mode_share")), str(len(runs))),
            ]
        )
    headings = ["student", "method", "variant", "updates", "rate", f"{measure.name} greedy"]
    headings += [f"{measure.name} beam", "gain greedy", "perplexity", "p(t=ŷ)", "seeds"]
    return table(headings, lines, text_columns=3)


def pictures(results: Results) -> dict[str, bytes]:
    """Every plot as SVG, by its file's name."""
    drawn = {}
    for task in TASKS:
        found = [s for s in students_of(results) if s.task == task]
        stem, measure = task.name.replace("-", "_"), task.measure
        systems = [(method_name(m), found[0].runs(m)) for m in METHODS[:2]]
        systems += [
            (f"{method_name(m)}  {named(s.size)}", s.runs(m)) for s in found for m in s.methods
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
                (average(r, "nonzero") or 1, estimate(r, measure.beam)) for _, r in pruned(found[0])
            ]
            plots.lines(plot.axes[0], {"pruned student, beam": points}, log=True)
            plots.level(
                plot.axes[0], average(found[0].runs(TEACHER), measure.beam), "teacher, beam"
            )
            plots.quality(plot.axes[0], measure)
            plot.axes[0].set_xlabel("weights that are not zero")
        drawn[f"{stem}_pruning"] = plot.image
        largest = {method_name(m): found[0].runs(m) for m in METHODS if found[0].runs(m)}
        panes = [
            ("perplexity", measure.greedy, measure.name),
            ("perplexity", "mode_share", "p(t=ŷ)"),
        ]
        labels = "perplexity of the references", measure
        drawn[f"{stem}_likelihood"] = plots.scatter(f"{stem} likelihood", largest, panes, *labels)
        if not results.of(task.name, "size_curve"):
            continue
        with plots.plot(f"{stem} curves", 2, size=(10.0, 3.8)) as plot:
            for axes, (experiment, key) in zip(
                plot.axes, (("size_curve", "parameters"), ("length_curve", "updates")), strict=True
            ):
                rows = curve(results, task, experiment)
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
    largest = {s.task.name: s for s in reversed(students_of(results))}
    places = {students.name: students.figure for students in students_of(results)}
    verdicts, details = claim_tables(Path(__file__).with_name("claims.yaml"), places)
    values: dict[str, object] = {
        name: function
        for name, function in globals().items()
        if name.endswith(("_table", "_tables")) or name in ("change", "score", "estimate", "gap")
    }
    values |= {"results": results, "tasks": TASKS, "students": students_of(results)}
    values |= {"g2p": largest["g2p"], "en_de": largest["en-de"], "verdicts": verdicts}
    values |= {"claims": details, "longer": longer_training(results), "method_name": method_name}
    versions = results.facts["environment"]["versions"]
    values["machine"] = results.facts["environment"]["machine"]
    values["versions"] = ", ".join(f"{name} {versions[name]}" for name in VERSIONS)
    template = Path(__file__).with_name("page.md.jinja")
    write_pictured(path, template, pictures(results), values)


if __name__ == "__main__":
    exits(write_page)
