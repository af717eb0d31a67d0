"""The cells of the experiment: one student each, as a chain of stages with all its settings.

`plan` lists every cell that the rows measured so far allow to be stated: rates are chosen on dev
first, for each method, and what is fine-tuned starts from the student whose rate was chosen.
Trains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.harness.rates import MOST_MORE, RateGrid
from experiments.harness.shapes import Settings, Size
from experiments.kim_rush.tasks import Budget, Task

Experiment = Literal[
    "main", "learning_rates", "size_curve", "length_curve", "pruning", "speed", "follow_up"
]
Row = Mapping[str, Any]

FROM_SCRATCH = ("baseline", "word_kd", "seq_kd", "seq_kd+word_kd")
"""Methods that begin with random weights; each has its rate chosen."""
INTERPOLATED = tuple(f"{method}+seq_inter" for method in FROM_SCRATCH)
MAIN = ("baseline", "word_kd", "seq_kd", "seq_kd+seq_inter")
"""The rows that the issue asks for in every size and with several seeds."""
PRUNED_SHARES = (0.5, 0.8, 0.85, 0.9)
CURVE_METHODS = ("baseline", "seq_kd")
_NUM_CURVE_SEEDS = 3
_LONGER = 4
"""How many times as long follow-ups train."""
_LOOKED_INTO = 0.8
"""The pruned share that follow-ups look into: where the paper's students lose little. It chooses
the rate of all pruned students; the one at 0 % has its own."""
_MORE_RATES = MOST_MORE
_PRESETS = {"seq_kd+word_kd": "seq_kd_word_kd"}
_ASKS_TEACHER = ("word_kd", "seq_kd_word_kd")
_CORPORA = {
    "seq_kd": "beam-5",
    "seq_kd_word_kd": "beam-5",
    "prune": "beam-5",
    "seq_inter": "best-35",
}


@dataclasses.dataclass(frozen=True)
class StageOfCell:
    """One stage: a preset and the settings that this cell gives it."""

    preset: str
    settings: Settings


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student to train and measure."""

    task: Task
    experiment: Experiment
    size: Size | None
    """None for the teacher itself."""
    method: str
    seed: int
    stages: tuple[StageOfCell, ...]
    learning_rate: float
    """Of the last stage: what a grid varies."""
    measured: bool = True
    """Whether the test set is decoded; cells that choose a rate are scored on dev alone."""
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """More keys of its row."""
    found: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    """Which of its trainings measured cells have done."""

    @property
    def name(self) -> str:
        """Its place under the task's folder, and what finds its row again."""
        size = "teacher" if self.size is None else self.size.name
        parts = [self.experiment, size, self.method.replace("+", "-"), f"seed{self.seed}"]
        if self.experiment == "learning_rates":
            parts.append(f"rate{self.learning_rate:g}")
        parts += [f"{key}{value}" for key, value in self.facts.items() if key in _IN_NAMES]
        return "/".join(parts)

    @property
    def settings(self) -> dict[str, object]:
        """Keys of the recipe and their values."""
        student: dict[str, object]
        if self.size is None:
            student = {"student.model": self.task.teacher}
        else:
            student = {
                "student.init": "scratch",
                "student.architecture": self.size.architecture,
            }
        # A recipe may not say what none of its stages would read.
        overruled = set.intersection(*(set(stage.settings) for stage in self.stages))
        shared = {key: value for key, value in self.task.settings.items() if key not in overruled}
        return {
            "method": self.method,
            "seed": self.seed,
            "output_dir": str(run_folder(self.task, self.name)),
            "teacher.model": self.task.teacher,
            "training.threads": 1,
            **shared,
            **student,
            "stages": [
                {"preset": stage.preset, "settings": dict(stage.settings)} for stage in self.stages
            ],
        }

    @property
    def trained(self) -> tuple[str, ...]:
        """One name for each prefix of its stages not `found`: what others may be training, too."""
        size = "teacher" if self.size is None else self.size.name
        names = [f"{size} {self.seed}"]
        for stage in self.stages:
            names.append(f"{names[-1]} {stage.preset} {sorted(stage.settings.items())}")
        return tuple(name for name in names[1:] if name not in self.found)


def run_folder(task: Task, name: str) -> Path:
    """The run directory of the cell of that name."""
    return task.folder / "cells" / name.replace("/", "-")


_IN_NAMES = ("updates", "pruned_share", "variant")


def plan(task: Task, rows: Sequence[Row]) -> list[Cell]:
    """The cells that can be stated with what `rows` tell, in the order of running."""
    return list(_Plan(task, rows).cells())


class _Plan:
    def __init__(self, task: Task, rows: Sequence[Row]) -> None:
        self._task = task
        self._rows = [row for row in rows if row["task"] == task.name]

    def cells(self) -> Iterator[Cell]:
        for size in (self._task.large, self._task.small):
            yield from self._grid(size, self._scratch_methods(size))
        for seed in self._task.seeds:
            for size in (self._task.large, self._task.small):
                if seed == self._task.seeds[0]:
                    yield from self._fine_tuning_grid(size)
                yield from self._main(size, seed)
            if seed == self._task.seeds[0]:
                yield from self._teacher()
                yield from self._more_of_the_same(seed)
                yield from self._pruned(seed)
        yield from self._other_rates(self._task.seeds[0])
        yield from self._longer(self._task.seeds[0])
        for size in self._task.curve_sizes:
            yield from self._grid(size, CURVE_METHODS)
        for seed in self._task.seeds[:_NUM_CURVE_SEEDS]:
            yield from self._curves(seed)

    def _scratch_methods(self, size: Size) -> tuple[str, ...]:
        wanted = self._methods(size, self._task.seeds[0])
        return tuple(method for method in FROM_SCRATCH if method in wanted)

    def _methods(self, size: Size, seed: int) -> tuple[str, ...]:
        if size == self._task.small and seed not in self._task.small_seeds:
            return ()
        every = self._task.all_rows_everywhere
        if every or (size == self._task.large and seed == self._task.seeds[0]):
            return (*FROM_SCRATCH, *INTERPOLATED)
        return MAIN

    def _budget(self, size: Size) -> Budget:
        return self._task.budgets[size.name]

    # Rates.

    def _grid(self, size: Size, methods: Sequence[str]) -> Iterator[Cell]:
        budget = self._budget(size)
        tried = {method: self._tried(size, method, budget.rates) for method in methods}
        for rate in sorted({rate for rates in tried.values() for rate in rates}):
            for method in methods:
                if rate in tried[method]:
                    stages = (self._scratch(method, rate, budget.grid_updates),)
                    yield self._choosing(size, method, stages, rate)

    def _fine_tuning_grid(self, size: Size) -> Iterator[Cell]:
        budget, seed = self._budget(size), self._task.seeds[0]
        for method in self._methods(size, seed):
            first = self._chosen_scratch(size, method.removesuffix("+seq_inter"))
            if not method.endswith("+seq_inter") or first is None:
                continue
            for rate in self._tried(size, method, budget.fine_tuning_rates):
                stages = (first, self._interpolation(rate, budget.fine_tuning_updates))
                yield self._choosing(size, method, stages, rate)

    def _choosing(
        self,
        size: Size | None,
        method: str,
        stages: tuple[StageOfCell, ...],
        rate: float,
        **facts: object,
    ) -> Cell:
        what = (size, method, self._task.seeds[0], stages, rate)
        return Cell(self._task, "learning_rates", *what, measured=False, facts=facts)

    def _dev_scores(
        self, size: Size | None, method: str, pruned_share: float | None
    ) -> dict[float, float]:
        """The dev score of each rate that was tried."""
        name = "teacher" if size is None else size.name
        return {
            row["learning_rate"]: row[f"dev_{self._task.dev_score}"]
            for row in self._rows
            if (row["experiment"], row["size"], row["method"]) == ("learning_rates", name, method)
            and row.get("pruned_share") == pruned_share
        }

    def _tried(
        self,
        size: Size | None,
        method: str,
        rates: Sequence[float],
        pruned_share: float | None = None,
    ) -> list[float]:
        """The rates to try: those given, and beyond while the best of them is the last or first."""
        return self._rate_grid(rates).to_try(self._dev_scores(size, method, pruned_share))

    def _rate(
        self,
        size: Size | None,
        method: str,
        rates: Sequence[float],
        pruned_share: float | None = None,
    ) -> float | None:
        """The rate with the best dev score, or None while one that is to be tried has none."""
        return self._rate_grid(rates).chosen(self._dev_scores(size, method, pruned_share))

    def _rate_grid(self, rates: Sequence[float]) -> RateGrid:
        return RateGrid(rates, self._task.lower_is_better, most_more=_MORE_RATES)

    def _chosen_scratch(self, size: Size, method: str) -> StageOfCell | None:
        budget = self._budget(size)
        rate = self._rate(size, method, budget.rates)
        return None if rate is None else self._scratch(method, rate, budget.updates)

    # Stages.

    def _scratch(self, method: str, rate: float, updates: int) -> StageOfCell:
        return self._stage(
            _PRESETS.get(method, method),
            {"training.learning_rate": rate, "training.steps": updates},
        )

    def _interpolation(self, rate: float, updates: int) -> StageOfCell:
        return self._stage(
            "seq_inter",
            {
                "training.learning_rate": rate,
                "training.steps": updates,
                "training.warmup_steps": min(20, updates),
                "training.eval_every": max(1, updates // 2),
                "data.train": str(self._task.interpolation_sources),
            },
        )

    def _stage(self, preset: str, settings: Settings) -> StageOfCell:
        where = {}
        if corpus := _CORPORA.get(preset):
            where["sequences.corpus"] = str(self._task.corpus(corpus))
        if preset in _ASKS_TEACHER:
            where["teacher.cache_hidden_states"] = "fp32"
            where["teacher.states"] = str(self._task.folder / "teacher-states" / preset)
        return StageOfCell(preset, {**settings, **where})

    # Rows of the tables.

    def _stages_of(self, size: Size, method: str) -> tuple[StageOfCell, ...] | None:
        budget = self._budget(size)
        first = self._chosen_scratch(size, method.removesuffix("+seq_inter"))
        if first is None:
            return None
        if not method.endswith("+seq_inter"):
            return (first,)
        rate = self._rate(size, method, budget.fine_tuning_rates)
        if rate is None:
            return None
        return first, self._interpolation(rate, budget.fine_tuning_updates)

    def _main(self, size: Size, seed: int) -> Iterator[Cell]:
        for method in self._methods(size, seed):
            stages = self._stages_of(size, method)
            if stages is not None:
                yield self._cell("main", size, method, seed, stages)

    def _teacher(self) -> Iterator[Cell]:
        budget = self._budget(self._task.large)
        method, rates = "teacher+seq_inter", budget.fine_tuning_rates
        for rate in self._tried(None, method, rates):
            stages = (self._interpolation(rate, budget.fine_tuning_updates),)
            yield self._choosing(None, method, stages, rate)
        chosen = self._rate(None, method, rates)
        if chosen is not None:
            stages = (self._interpolation(chosen, budget.fine_tuning_updates),)
            seed = self._task.seeds[0]
            yield Cell(self._task, "main", None, method, seed, stages, chosen)

    # Curves, pruning, controls.

    def _curves(self, seed: int) -> Iterator[Cell]:
        for method in CURVE_METHODS:
            for size in self._task.curve_sizes:
                first = self._chosen_scratch(size, method)
                if first is not None:
                    yield self._cell("size_curve", size, method, seed, (first,))
            small = self._task.small
            rate = self._rate(small, method, self._budget(small).rates)
            if rate is None:
                continue
            for updates in self._task.curve_updates:
                stages = (self._scratch(method, rate, updates),)
                yield self._cell("length_curve", small, method, seed, stages, updates=updates)

    def _pruned(self, seed: int) -> Iterator[Cell]:
        """Prune, retrain, fine-tune; at 0 % the same without zeros."""
        size, budget = self._task.large, self._budget(self._task.large)
        before = self._stages_of(size, "seq_kd+seq_inter")
        if before is None:
            return
        retrained, rates = "seq_kd+prune", budget.retraining_rates
        for share in (0.0, _LOOKED_INTO):
            for rate in self._tried(size, retrained, rates, pruned_share=share):
                stages = (before[0], self._retraining(size, rate, share))
                yield self._choosing(size, retrained, stages, rate, pruned_share=share)
        method = "seq_kd+prune+seq_inter"
        for share in (0.0, *PRUNED_SHARES):
            like = _LOOKED_INTO if share else share
            chosen = self._rate(size, retrained, rates, pruned_share=like)
            if chosen is not None:
                whole = (before[0], self._retraining(size, chosen, share), before[1])
                yield self._cell("pruning", size, method, seed, whole, pruned_share=share)
        chosen = self._rate(size, retrained, rates, pruned_share=_LOOKED_INTO)
        if chosen is None:
            return
        longer = self._retraining(size, chosen, _LOOKED_INTO, times=_LONGER)
        yield self._cell(
            "follow_up",
            size,
            method,
            seed,
            (before[0], longer, before[1]),
            question=f"Is it the retraining that costs a student pruned by {_LOOKED_INTO:.0%}?",
            variant=f"{_LONGER}x_retraining_updates",
            compared_with=method,
            pruned_share=_LOOKED_INTO,
        )

    def _retraining(self, size: Size, rate: float, share: float, *, times: int = 1) -> StageOfCell:
        updates = self._budget(size).retraining_updates
        settings = {
            "training.learning_rate": rate,
            "training.steps": times * updates,
            "training.warmup_steps": min(50, updates),
            "pruning.sparsity": share,
        }
        return self._stage("prune", settings)

    def _longer(self, seed: int) -> Iterator[Cell]:
        """Is it the length of training that keeps students from their teacher?"""
        size = self._task.trained_longer
        budget = self._budget(size)
        for method in CURVE_METHODS:
            rate = self._rate(size, method, budget.rates)
            if rate is not None:
                yield self._cell(
                    "follow_up",
                    size,
                    method,
                    seed,
                    (self._scratch(method, rate, _LONGER * budget.updates),),
                    question="Is it the length of training that keeps students from the teacher?",
                    variant=f"{_LONGER}x_updates",
                    compared_with=method,
                )

    def _other_rates(self, seed: int) -> Iterator[Cell]:
        """Do short runs choose too high or too low a rate for the student that all are held to?"""
        size, method = self._task.large, "baseline"
        budget = self._budget(size)
        chosen = self._rate(size, method, budget.rates)
        if budget.grid_updates == budget.updates or chosen is None:
            return
        for rate in (chosen / 2, 2 * chosen):
            yield self._cell(
                "follow_up",
                size,
                method,
                seed,
                (self._scratch(method, rate, budget.updates),),
                question="Does the undistilled student do better at a rate that short runs refuse?",
                variant=f"{rate:g}_rate",
                compared_with=method,
            )

    def _more_of_the_same(self, seed: int) -> Iterator[Cell]:
        """Is it what Seq-Inter teaches, or only that it trains for longer?"""
        size = self._task.large
        for method in ("baseline", "seq_kd"):
            interpolated = self._stages_of(size, f"{method}+seq_inter")
            if interpolated is None:
                continue
            fine_tuned = dict(interpolated[1].settings)
            for key in ("data.train", "sequences.corpus"):
                fine_tuned.pop(key)
            stages = (interpolated[0], self._stage(method, fine_tuned))
            yield self._cell(
                "follow_up",
                size,
                f"{method}+{method}",
                seed,
                stages,
                question="Does Seq-Inter gain more than as many further updates of the same?",
                compared_with=f"{method}+seq_inter",
            )

    def _cell(
        self,
        experiment: Experiment,
        size: Size,
        method: str,
        seed: int,
        stages: tuple[StageOfCell, ...],
        **facts: object,
    ) -> Cell:
        rate = float(str(stages[-1].settings["training.learning_rate"]))
        return Cell(self._task, experiment, size, method, seed, stages, rate, facts=facts)
