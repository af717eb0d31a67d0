"""The cells of the experiment: chains of (preset, settings), in the order of running.

Rates are chosen on dev first, for each method; what is fine-tuned starts from the student whose
rate was chosen. A cell that needs a rate is stated once the rate is found. Trains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from experiments.kim_rush.tasks import Budget, Task
from experiments.running import Found, Stage, chain, chosen_rate
from experiments.shapes import Size
from seqdistill.jobs.cells import Cell

FROM_SCRATCH = ("baseline", "word_kd", "seq_kd", "seq_kd+word_kd")
"""Methods that begin with random weights; each has its rate chosen."""
INTERPOLATED = tuple(f"{method}+seq_inter" for method in FROM_SCRATCH)
MAIN = ("baseline", "word_kd", "seq_kd", "seq_kd+seq_inter")
"""The rows of every size and with several seeds."""
PRUNED_SHARES = (0.5, 0.8, 0.85, 0.9)
CURVE_METHODS = ("baseline", "seq_kd")
LONGER = 4
"""How many times as long follow-ups train."""
LOOKED_INTO = 0.8
"""The pruned share that follow-ups look into: where the paper's students lose little. It chooses
the rate of all pruned students; the one at 0 % has its own."""
_CORPORA = {
    **{"seq_kd": "beam-5", "seq_kd_word_kd": "beam-5", "prune": "beam-5", "seq_inter": "best-35"}
}
_IN_NAMES = ("updates", "pruned_share", "variant")
_RATE = "training.learning_rate"
Chosen = Generator[Cell, None, tuple[Stage, ...] | None]


def plan(task: Task, found: Found) -> Iterator[Cell]:
    """Every cell that the rows so far allow to be stated."""
    return _Plan(task, found).cells()


@dataclasses.dataclass(frozen=True)
class _Plan:
    task: Task
    found: Found

    def cells(self) -> Iterator[Cell]:
        task, first = self.task, self.task.seeds[0]
        for size in (task.large, task.small):
            for method in FROM_SCRATCH:
                if method in self.methods(size, first):
                    yield from self.scratch(size, method)
        for seed in task.seeds:
            for size in (task.large, task.small):
                for method in self.methods(size, seed):
                    stages = yield from self.stages_of(size, method)
                    if stages is not None:
                        yield self.cell("main", size, method, stages, seed)
            if seed == first:
                yield from self.teacher()
                yield from self.more_of_the_same()
                yield from self.pruned()
        yield from self.other_rates()
        yield from self.longer()
        for seed in task.seeds[:3] if task.curve_sizes else ():
            yield from self.curves(seed)

    def methods(self, size: Size, seed: int) -> tuple[str, ...]:
        task = self.task
        if size == task.small and seed not in task.small_seeds:
            return ()
        if task.all_rows_everywhere or (size == task.large and seed == task.seeds[0]):
            return (*FROM_SCRATCH, *INTERPOLATED)
        return MAIN

    def budget(self, size: Size | None) -> Budget:
        return self.task.budgets[(size or self.task.large).name]

    # Rates.

    def rate(
        self,
        size: Size | None,
        method: str,
        rates: Sequence[float],
        before: tuple[Stage, ...],
        last: Callable[[float], Stage],
        **facts: Any,
    ) -> Generator[Cell, None, float | None]:
        """Tries rates of the last stage, `last(rate)`; returns the best on dev."""
        score, lower = f"dev_{self.task.dev_score}", self.task.lower_is_better

        def cell(rate: float) -> Cell:
            return self.cell("learning_rates", size, method, (*before, last(rate)), **facts)

        return chosen_rate(rates, cell, self.found, score, lower_is_better=lower)

    def scratch(self, size: Size, method: str) -> Chosen:
        budget = self.budget(size)
        rate = yield from self.rate(
            *(size, method, budget.rates, ()),
            lambda rate: self.from_scratch(size, method, rate, budget.grid_updates),
        )
        return None if rate is None else (self.from_scratch(size, method, rate, budget.updates),)

    def stages_of(self, size: Size, method: str) -> Chosen:
        stages = yield from self.scratch(size, method.removesuffix("+seq_inter"))
        if stages is None or not method.endswith("+seq_inter"):
            return stages
        last = yield from self.interpolated(size, method, stages)
        return None if last is None else (*stages, last)

    def interpolated(
        self, size: Size | None, method: str, before: tuple[Stage, ...]
    ) -> Generator[Cell, None, Stage | None]:
        budget = self.budget(size)
        updates = budget.fine_tuning_updates

        def last(rate: float) -> Stage:
            more: dict[str, object] = {
                "training.warmup_steps": min(20, updates),
                "training.eval_every": max(1, updates // 2),
                "data.train": str(self.task.interpolation_sources),
            }
            if size is None:
                more |= {"student.init": "pretrained", "student.model": self.task.teacher}
            return self.stage("seq_inter", rate, updates, **more)

        rate = yield from self.rate(size, method, budget.fine_tuning_rates, before, last)
        return None if rate is None else last(rate)

    # Stages.

    def from_scratch(self, size: Size, method: str, rate: float, updates: int) -> Stage:
        shape = {"student.init": "scratch", "student.architecture": size.architecture}
        return self.stage(method.replace("+", "_"), rate, updates, **shape)

    def retraining(self, share: float, rate: float, *, times: int = 1) -> Stage:
        updates = self.budget(None).retraining_updates
        more = {"training.warmup_steps": min(50, updates), "pruning.sparsity": share}
        return self.stage("prune", rate, times * updates, **more)

    def stage(self, preset: str, rate: float, updates: int, **more: object) -> Stage:
        settings = dict(self.task.settings)
        if corpus := _CORPORA.get(preset):
            settings["sequences.corpus"] = str(self.task.corpus(corpus))
        else:
            settings = {k: v for k, v in settings.items() if not k.startswith("sequences.")}
        if preset in ("word_kd", "seq_kd_word_kd"):
            settings["teacher.cache_hidden_states"] = "fp32"
            settings["teacher.kept_scores"] = str(self.task.folder / "teacher-scores" / preset)
        return preset, {**settings, _RATE: rate, "training.steps": updates, **more}

    # Rows of the tables.

    def teacher(self) -> Iterator[Cell]:
        last = yield from self.interpolated(None, "teacher+seq_inter", ())
        if last is not None:
            yield self.cell("main", None, "teacher+seq_inter", (last,))

    def pruned(self) -> Iterator[Cell]:
        """Prune, retrain, fine-tune; at 0 % the same without zeros."""
        size, method = self.task.large, "seq_kd+prune+seq_inter"
        before = yield from self.stages_of(size, "seq_kd+seq_inter")
        if before is None:
            return
        rates, chosen = self.budget(size).retraining_rates, {}
        for share in (0.0, LOOKED_INTO):
            chosen[share] = yield from self.rate(
                *(size, "seq_kd+prune", rates, before[:1]),
                lambda rate, share=share: self.retraining(share, rate),  # type: ignore[misc]
                pruned_share=share,
            )

        def stages(share: float, rate: float, times: int = 1) -> tuple[Stage, ...]:
            preset, settings = before[1]  # with the zeros of the student that it starts from kept
            last = preset, {**settings, "pruning.sparsity": share}
            return before[0], self.retraining(share, rate, times=times), last

        for share in (0.0, *PRUNED_SHARES):
            rate = chosen[LOOKED_INTO if share else share]
            if rate is not None:
                yield self.cell("pruning", size, method, stages(share, rate), pruned_share=share)
        if (rate := chosen[LOOKED_INTO]) is not None:
            yield self.follow_up(
                *(size, method, stages(LOOKED_INTO, rate, LONGER)),
                f"Is it the retraining that costs a student pruned by {LOOKED_INTO:.0%}?",
                method,
                variant=f"{LONGER}x_retraining_updates",
                pruned_share=LOOKED_INTO,
            )

    def more_of_the_same(self) -> Iterator[Cell]:
        """Is it what Seq-Inter teaches, or only that it trains for longer?"""
        question = "Does Seq-Inter gain more than as many further updates of the same?"
        for method in ("baseline", "seq_kd"):
            stages = yield from self.stages_of(self.task.large, f"{method}+seq_inter")
            if stages is not None:
                tuned = stages[1][1]
                kept = {k: tuned[k] for k in ("training.warmup_steps", "training.eval_every")}
                again = self.stage(method, tuned[_RATE], tuned["training.steps"], **kept)
                same, other = f"{method}+{method}", f"{method}+seq_inter"
                yield self.follow_up(self.task.large, same, (stages[0], again), question, other)

    def other_rates(self) -> Iterator[Cell]:
        """Do short runs choose too high or too low a rate for the student that all are held to?"""
        size, method, budget = self.task.large, "baseline", self.budget(None)
        stages = yield from self.scratch(size, method)
        if budget.grid_updates == budget.updates or stages is None:
            return
        question = "Does the undistilled student do better at a rate that short runs refuse?"
        for rate in (stages[0][1][_RATE] / 2, 2 * stages[0][1][_RATE]):
            other = (self.from_scratch(size, method, rate, budget.updates),)
            yield self.follow_up(size, method, other, question, method, variant=f"{rate:g}_rate")

    def longer(self) -> Iterator[Cell]:
        """Is it the length of training that keeps students from their teacher?"""
        size, variant = self.task.trained_longer, f"{LONGER}x_updates"
        question = "Is it the length of training that keeps students from the teacher?"
        for method in CURVE_METHODS:
            stages = yield from self.scratch(size, method)
            if stages is not None:
                updates = LONGER * self.budget(size).updates
                longer = (self.from_scratch(size, method, stages[0][1][_RATE], updates),)
                yield self.follow_up(size, method, longer, question, method, variant=variant)

    def curves(self, seed: int) -> Iterator[Cell]:
        small = self.task.small
        for method in CURVE_METHODS:
            for size in self.task.curve_sizes:
                stages = yield from self.scratch(size, method)
                if stages is not None:
                    yield self.cell("size_curve", size, method, stages, seed)
            stages = yield from self.scratch(small, method)
            if stages is None:
                continue
            for updates in self.task.curve_updates:
                along = (self.from_scratch(small, method, stages[0][1][_RATE], updates),)
                yield self.cell("length_curve", small, method, along, seed, updates=updates)

    def follow_up(
        self,
        size: Size,
        method: str,
        stages: tuple[Stage, ...],
        question: str,
        compared_with: str,
        **facts: object,
    ) -> Cell:
        asked: dict[str, Any] = {"question": question, **facts, "compared_with": compared_with}
        return self.cell("follow_up", size, method, stages, **asked)

    def cell(
        self,
        experiment: str,
        size: Size | None,
        method: str,
        stages: tuple[Stage, ...],
        seed: int | None = None,
        **facts: object,
    ) -> Cell:
        """Of the first seed, unless one is given."""
        of = "teacher" if size is None else size.name
        seed = self.task.seeds[0] if seed is None else seed
        rates = [settings[_RATE] for _, settings in stages]
        parts = [experiment, of, method.replace("+", "-"), f"seed{seed}"]
        if experiment == "learning_rates":
            parts.append(f"rate{rates[-1]:g}")
        parts += [f"{key}{value}" for key, value in facts.items() if key in _IN_NAMES]
        row = {
            **{"experiment": experiment, "size": of, "method": method, "seed": seed},
            "stages": [preset for preset, _ in stages],
            **{"engine": "ctranslate2 float32", "learning_rate": rates[-1]},
            **{"learning_rates": rates},
            "updates": sum(settings["training.steps"] for _, settings in stages),
            **{**facts, "name": "/".join(parts)},
        }
        return chain(self.task, stages, row, tested=experiment != "learning_rates")
