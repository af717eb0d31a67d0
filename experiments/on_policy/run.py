"""Runs the sweeps, or goes on with them: `python -m experiments.on_policy.run [REGIME ...]`.

Makes what they need (data, the teacher of the routes, shapes of students), runs what is missing,
adds success by length, and writes rows and page. A cell that has rows is not run again, whether or
not its run directory is still there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from experiments.followers import page as followers
from experiments.on_policy import routes
from experiments.on_policy.page import RESULTS, write_page
from experiments.pages import exits
from experiments.preparing import make_g2p_data, publish_model, split_sizes, write_subset
from experiments.running import add_rows, exit_if_failed, write_differences
from experiments.shapes import Settings, Size
from experiments.teachers import TEACHERS, train_teacher
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.cells import Cell, train_cell
from seqdistill.jobs.sweep import ROWS, pending_cells, planned_cells, run_sweep
from seqdistill.jobs.train import train
from seqdistill.metrics.corpus_metrics import score_key_of
from seqdistill.models.loading import load_tokenizer
from seqdistill.models.scratch import configuration
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sweep_schema import START, Sweep, read_sweep
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_facts, read_rows, write_rows

_TOLD_LAST = ("skipped_updates", "student_fraction", "beta")
"""Of the metrics of a run's last update, what its row has."""


@dataclasses.dataclass(frozen=True)
class Regime:
    """One sweep, and what has to be there before it runs."""

    name: str
    make_data: Callable[[Path, Settings], None]
    """Makes what a combination's settings name, beside the dev set."""
    shape: Callable[[str], Mapping[str, Any]]
    """The configuration that the name of a student's folder means."""
    results: Path = RESULTS
    """Where its rows are kept."""

    @functools.cached_property
    def sweep(self) -> Sweep:
        """What is compared."""
        return read_sweep(Path(__file__).with_name(f"{self.name}.yaml"))

    @property
    def teacher(self) -> Path:
        """The teacher's folder."""
        return Path(self.sweep.settings["teacher.model"])

    def facts(self, cell: Cell) -> Row:
        """What a cell's rows say beside scores; `condition` sets a place apart in its regime."""
        facts = dict(cell.facts)
        row: Row = {"task": self.name, "cell": cell.key}
        row |= {key: facts.pop(key) for key in ("method", "seed")}
        if (rate := facts.pop("training.learning_rate", None)) is not None:
            row["learning_rate"] = rate
        if "data.train" in facts:
            row["num_inputs"] = _number_in(Path(facts["data.train"]))
        return {**row, "condition": ", ".join(_said(*item) for item in facts.items())}

    def prepare(self) -> dict[str, int]:
        """How many examples dev and test have. Makes what lacks."""
        for varied in self.sweep.combinations():
            settings = {**self.sweep.settings, **varied}
            folder = Path(settings["student.model"])
            self.make_data(folder.parent, settings)
            tokenizer = load_tokenizer(settings["teacher.model"])
            configuration(self.shape(folder.name), tokenizer).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        own = {k: v for k, v in settings.items() if k.split(".")[0] in ("data", "plugins")}
        sizes = split_sizes(own, settings["teacher.model"])
        return {split: sizes[split] for split in ("dev", "test")}


def _make_few_inputs(folder: Path, settings: Settings) -> None:
    make_g2p_data(folder)
    train = Path(settings["data.train"])
    # Drawn once for all seeds, each subset a part of the larger ones.
    write_subset(train, str(folder / "train.tsv"), "train", _number_in(train), seed_name="few")


def _make_routes(folder: Path, _settings: Settings) -> None:
    routes.write_data(folder)
    if not TEACHERS["routes"].model.is_dir():
        train_teacher("routes")


def _make_better_policy(folder: Path, settings: Settings) -> None:
    """The teacher is a start of the routes, improved by a reward."""
    _make_routes(folder, settings)
    improved = Path(settings["teacher.model"])
    if improved.is_dir():
        return
    cells = planned_cells(REGIMES["routes"].sweep).values()
    start = train_cell(next(cell for cell in cells if cell.facts["method"] == START))[-1]
    recipe = load_recipe(
        str(Path(__file__).with_name("improved.yaml")), [f"student.model={start.student_path}"]
    )
    run = train(recipe, progress=NoProgress(), resume=True)
    publish_model(run, improved, record=improved.with_name(f"{improved.name}_record"))


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _number_in(path: Path) -> int:
    return _numbers(path.stem)[0]


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("few_inputs", _make_few_inputs, lambda name: Size(*_numbers(name)).architecture),
        Regime("routes", _make_routes, lambda name: routes.shape(*_numbers(name))),
        Regime("better_policy", _make_better_policy, lambda name: routes.shape(*_numbers(name))),
        *(
            Regime(
                name, _make_routes, lambda name: routes.shape(*_numbers(name)), followers.RESULTS
            )
            for name in ("followers", "frontier", "mixtures")
        ),
    )
}


def _said(key: str, value: object) -> str:
    if key == "data.train":
        return f"{_number_in(Path(str(value))):,} inputs"
    return f"student {Path(str(value)).name}" if key == "student.model" else f"{key}={value}"


def restore(regime: Regime, cells: Mapping[str, Cell]) -> None:
    """Gives the sweep the rows that are kept of cells whose run directories are elsewhere."""
    path = Path(regime.sweep.output_dir) / ROWS
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(path)
    there = {(row["cell"], row["split"]) for row in rows if "error" not in row}
    by_key = {cell.key: cell for cell in cells.values()}
    for row in read_rows(regime.results):
        split = {"rate": "dev", "main": "test"}.get(row["experiment"])
        cell = by_key.get(row["cell"]) if row["task"] == regime.name else None
        if cell is not None and split is not None and (cell.key, split) not in there:
            facts = {"cell": cell.key, **cell.facts, "split": split, "system": "student"}
            rows += ({**facts, **scores} for scores in _sweep_scores(row, cell))
    write_rows(path, rows)


def _sweep_scores(row: Row, cell: Cell) -> Iterator[Row]:
    """A kept row as those of a sweep: the score on dev, or each score that has an interval."""
    if row["experiment"] == "rate":
        training, score = cell.recipes[-1].training, row["dev"]
        metric = str(training.eval_metric)
        worth = score_key_of(metric)(score)
        yield {"metric": metric, "value": score, "worth": worth, "steps": training.steps}
        return
    facts = {key: row[key] for key in ("steps", "seconds", "parameters")}
    for key in [key for key in row if f"{key}_low" in row]:
        ends = {end: row[f"{key}_{end}"] for end in ("low", "high")}
        yield {**facts, "metric": key, "value": row[key], **ends}


def collected(regime: Regime, cells: Mapping[str, Cell]) -> list[Row]:
    """One row for each student that was measured, each that chose a rate, and the teacher."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in read_rows(Path(regime.sweep.output_dir) / ROWS):
        if "error" not in row:
            found.setdefault((row["cell"], row["split"]), []).append(row)
    rows = []
    for name, cell in cells.items():
        own = regime.facts(cell)
        for row in found.get((cell.key, "dev"), []):
            rows.append({**own, "experiment": "rate", "name": f"rate/{name}", "dev": row["value"]})
        scores = found.get((cell.key, "test"), [])
        if scores and cell.run.outputs_path.is_file():
            parts = ("main", own["method"], own["condition"], f"seed{own['seed']}")
            own |= {"experiment": "main", "name": "/".join(filter(None, parts))}
            own |= {key: scores[0][key] for key in ("steps", "seconds")}
            rows.append({**own, **_columns(scores, "student"), **_of_run(cell.run)})
            teacher = {"task": regime.name, "cell": cell.key, "method": "teacher", "seed": 0}
            teacher |= {"experiment": "teacher", "name": "teacher"}
            columns = _columns(scores, "teacher")
            rows.append({**teacher, **columns, **_by_length(cell.run, "teacher")})
    return rows


def _columns(scores: Sequence[Row], system: str) -> Row:
    columns: Row = {}
    for row in (row for row in scores if row["system"] == system):
        columns |= {"parameters": row["parameters"], row["metric"]: row["value"]}
        columns |= {f"{row['metric']}_{end}": row[end] for end in ("low", "high") if end in row}
    return columns


def _of_run(run: RunDirectory) -> Row:
    training = cast("dict[str, Any]", run.read_manifest()["training"])
    student = str(run.read_results().student)
    last = [row for row in run.read_metrics() if "loss_nats" in row][-1]
    told = {key: last[key] for key in _TOLD_LAST if key in last}
    return {"dev": float(training["best"][0][0]), **told, **_by_length(run, student)}


def _by_length(run: RunDirectory, system: str) -> Row:
    """Of routes, the success of greedy outputs and of samples by length of the shortest way."""
    found: Row = {}
    metric = run.read_results().metrics[0].name
    if metric == "reaches_goal":
        lines = cast("list[Any]", run.read_outputs())
        greedy = [(line["greedy"][system], line["reference"]) for line in lines]
        sampled = [
            (text, line["reference"]) for line in lines for text in line["sample_t1"][system]
        ]
        for mode, pairs in (("greedy", greedy), ("sample_t1", sampled)):
            by_length = routes.by_length([o for o, _ in pairs], [r for _, r in pairs])
            found |= {f"{metric}_{mode}_{length}": value for length, value in by_length.items()}
    return found


def keep(regime: Regime, sizes: Mapping[str, int]) -> None:
    """Writes the regime's rows in place of those that no cell of the sweep stands for any more."""
    cells = planned_cells(regime.sweep)
    planned = {cell.key for cell in cells.values()}
    path = regime.results
    if path.is_file():
        old = read_rows(path)
        kept = [row for row in old if row["task"] != regime.name or row["cell"] in planned]
        write_rows(path, kept, read_facts(path))
    rows = collected(regime, cells)
    add_rows(path, rows, {regime.name: sizes})
    by_key = {cell.key: cell for cell in cells.values()}
    tested = {
        f"{row['task']}/{row['name']}": by_key[row["cell"]]
        for row in rows
        if row["experiment"] == "main"
    }
    keys = ("condition", "method")
    write_differences(path, tested, keys, _held_against, [("greedy", "greedy")])


def _held_against(row: Row, base: Row) -> bool:
    return base["method"] == "teacher" or bool(base["condition"] == row["condition"])


def main() -> None:
    """The command line. Exits with a sentence when cells failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("regimes", nargs="*", choices=[*REGIMES, []], metavar="REGIME")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell later")
    parser.add_argument("--list", action="store_true", help="show what waits, and stop")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    keep_freed_memory()
    failed: dict[str, str] = {}
    for regime in (REGIMES[name] for name in options.regimes or REGIMES):
        if options.list and not regime.teacher.is_dir():
            raise UserError(
                f"{regime.teacher} must hold the teacher before cells can be listed, found none; "
                "run without --list, which trains it"
            )
        sizes = regime.prepare()
        if options.list:
            cells = planned_cells(regime.sweep)
            restore(regime, cells)
            for cell in pending_cells(regime.sweep, cells):
                print(f"{regime.name}: {cell.name}")
            continue
        restore(regime, planned_cells(regime.sweep))
        done = run_sweep(regime.sweep, jobs=options.jobs, until=until, tell=print)
        failed |= {f"{regime.name}: {name}": error for name, error in done.failed.items()}
        keep(regime, sizes)
    if options.list:
        return
    for write, path in ((write_page, RESULTS), (followers.write_page, followers.RESULTS)):
        if path.is_file():
            write(path)
    exit_if_failed(failed)


if __name__ == "__main__":
    exits(main)
