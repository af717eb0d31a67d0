"""By how much each method of a sweep is better than the baseline: seed by seed, and over seeds.

Of one seed the interval is a paired bootstrap's over the test set; over several, Student's t of the
seeds' differences. Reads what the runs wrote for the test set; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from seqdistill.core.generators import derived_seed
from seqdistill.jobs.cells import Cell
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.metrics.repetitions import mean, t_interval
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.scripts import Units
from seqdistill.recipe.sweep_schema import Sweep
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row

MODES = ("greedy", "beam")
_CONFIDENCE, _NUM_RESAMPLES = 0.95, 1000


def differences(sweep: Sweep, cells: Mapping[str, Cell], rows: Sequence[Row]) -> list[Row]:
    """One row a method, combination, mode and seed, and one over the seeds; positive is better."""
    tested = {row["cell"] for row in rows if row.get("split") == "test" and "value" in row}
    found = {cell.key: cell for cell in cells.values() if cell.key in tested}
    systems: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in found.values():
        varied = {key: cell.facts[key] for key in cell.facts if key not in sweep.choose}
        varied_key = str({k: v for k, v in varied.items() if k not in ("method", "seed")})
        systems.setdefault((cell.facts["method"], varied_key), {})[cell.facts["seed"]] = cell
    compared: list[Row] = []
    for (method, varied_key), own in systems.items():
        base = systems.get((sweep.base, varied_key), {})
        if method != sweep.base:
            shared = [(own[seed], base[seed]) for seed in own if seed in base]
            compared += _of_seeds(shared, sweep)
    return compared


def _of_seeds(pairs: Sequence[tuple[Cell, Cell]], sweep: Sweep) -> Iterator[Row]:
    by_mode: dict[str, list[Row]] = {}
    for own, base in pairs:
        for row in _of_one(own, base):
            by_mode.setdefault(row["metric"], []).append({**row, "baseline": sweep.base})
    for rows in by_mode.values():
        yield from rows
        gains = [row["gain"] for row in rows]
        if len(gains) > 1:
            low, high = t_interval(gains, confidence=_CONFIDENCE)
            whole = {key: value for key, value in rows[0].items() if key != "seed"}
            ends = {"gain": mean(gains), "low": low, "high": high}
            yield {**whole, **ends, "interval": "t over seeds", "num_seeds": len(gains)}


def _of_one(own: Cell, base: Cell) -> Iterator[Row]:
    for mode in MODES:
        metric, sign, mine = scored(own.run, mode)
        _, _, theirs = scored(base.run, mode)
        generator = np.random.default_rng(derived_seed(1, "paired sweep"))
        found = paired_bootstrap(
            mine, theirs, num_resamples=_NUM_RESAMPLES, confidence=_CONFIDENCE, generator=generator
        )
        low, high = sorted((sign * found.low, sign * found.high))
        gain = sign * (mine.score().value - theirs.score().value)
        ends = {"gain": gain, "low": low, "high": high}
        name = f"{metric}_{mode}"
        yield {
            **own.facts,
            "metric": name,
            **ends,
            "interval": "bootstrap of the test set",
            "num_seeds": 1,
        }


def scored(
    run: RunDirectory, mode: str, system: str | None = None
) -> tuple[str, int, SummedStatistics]:
    """The run's main metric, +1 where more is better and -1 where less is, and the statistics of
    the test set of a system, or of the student, decoded `greedy` or by `beam`."""
    results = run.read_results()
    main = results.metrics[0]
    units = Units(**cast("dict[str, Any]", results.units))
    outputs, name = run.read_outputs(), system or str(results.student)
    texts = [cast("dict[str, str]", line[mode])[name] for line in outputs]
    references = [str(line["reference"]) for line in outputs]
    statistics = corpus_metrics(units)[main.name].statistics(texts, references)
    return main.name, 1 if main.higher_is_better else -1, statistics
