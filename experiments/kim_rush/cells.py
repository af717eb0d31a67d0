"""The cells of the experiment: chains of (preset, settings), in the order of running.

Rates are chosen on dev first, for each method; what is fine-tuned starts from the student whose
rate was chosen. A cell that needs a rate is stated once the rate is found. Trains nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from experiments.kim_rush.tasks import Budget, Task
from experiments.rates import Cells, Found, chosen_rate
from experiments.running import Stage, chain
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
    "seq_kd": "beam-5",
    "seq_kd_word_kd": "beam-5",
    "prune": "beam-5",
    "seq_inter": "best-35",
}
_IN_NAMES = ("updates", "pruned_share", "variant")
Chosen = Generator[Cell, None, tuple[Stage, ...] | None]


def plan(task: Task, found: Found) -> Iterator[Cell]:
    """Every cell that the rows so far allow to be stated."""
    first = task.seeds[0]
    for size in (task.large, task.small):
        for method in FROM_SCRATCH:
            if method in _methods(task, size, first):
                yield from _scratch(task, found, size, method)
    for seed in task.seeds:
        for size in (task.large, task.small):
            for method in _methods(task, size, seed):
                stages = yield from _stages_of(task, found, size, method)
                if stages is not None:
                    yield _cell(task, "main", size, method, seed, stages)
        if seed == first:
            yield from _teacher(task, found)
            yield from _more_of_the_same(task, found)
            yield from _pruned(task, found)
    yield from _other_rates(task, found)
    yield from _longer(task, found)
    for seed in task.seeds[:3] if task.curve_sizes else ():
        yield from _curves(task, found, seed)


def _methods(task: Task, size: Size, seed: int) -> tuple[str, ...]:
    if size == task.small and seed not in task.small_seeds:
        return ()
    if task.all_rows_everywhere or (size == task.large and seed == task.seeds[0]):
        return (*FROM_SCRATCH, *INTERPOLATED)
    return MAIN


def _budget(task: Task, size: Size | None) -> Budget:
    return task.budgets[(size or task.large).name]


# Rates.


def _rate(
    task: Task,
    found: Found,
    size: Size | None,
    method: str,
    rates: Sequence[float],
    before: tuple[Stage, ...],
    last: Any,
    share: float | None = None,
) -> Cells:
    """Tries rates of the last stage, `last(rate)`; returns the best on dev."""

    def cell(rate: float) -> Cell:
        facts: dict[str, Any] = {} if share is None else {"pruned_share": share}
        stages = (*before, last(rate))
        return _cell(task, "learning_rates", size, method, task.seeds[0], stages, **facts)

    score = f"dev_{task.dev_score}"
    return chosen_rate(rates, cell, found, score, lower_is_better=task.lower_is_better)


def _scratch(task: Task, found: Found, size: Size, method: str) -> Chosen:
    budget = _budget(task, size)
    trial = functools.partial(_from_scratch, task, size, method, updates=budget.grid_updates)
    rate = yield from _rate(task, found, size, method, budget.rates, (), trial)
    return None if rate is None else (_from_scratch(task, size, method, rate, budget.updates),)


def _stages_of(task: Task, found: Found, size: Size, method: str) -> Chosen:
    stages = yield from _scratch(task, found, size, method.removesuffix("+seq_inter"))
    if stages is None or not method.endswith("+seq_inter"):
        return stages
    interpolation = functools.partial(_interpolation, task, size)
    rates = _budget(task, size).fine_tuning_rates
    rate = yield from _rate(task, found, size, method, rates, stages, interpolation)
    return None if rate is None else (*stages, _interpolation(task, size, rate))


# Stages.


def _from_scratch(task: Task, size: Size, method: str, rate: float, updates: int) -> Stage:
    shape = {"student.init": "scratch", "student.architecture": size.architecture}
    preset = method.replace("+", "_")
    return _stage(task, preset, rate, updates, {**shape})


def _interpolation(task: Task, size: Size | None, rate: float) -> Stage:
    updates = _budget(task, size).fine_tuning_updates
    more: dict[str, object] = {
        "training.warmup_steps": min(20, updates),
        "training.eval_every": max(1, updates // 2),
        "data.train": str(task.interpolation_sources),
    }
    if size is None:
        more |= {"student.init": "pretrained", "student.model": task.teacher}
    return _stage(task, "seq_inter", rate, updates, more)


def _retraining(task: Task, share: float, rate: float, *, times: int = 1) -> Stage:
    updates = _budget(task, task.large).retraining_updates
    more: dict[str, object] = {
        "training.warmup_steps": min(50, updates),
        "pruning.sparsity": share,
    }
    return _stage(task, "prune", rate, times * updates, more)


def _sparse(stage: Stage, share: float) -> Stage:
    """The stage with the zeros of the student that it starts from kept."""
    preset, settings = stage
    return preset, {**settings, "pruning.sparsity": share}


def _stage(task: Task, preset: str, rate: float, updates: int, more: dict[str, object]) -> Stage:
    settings = dict(task.settings)
    if corpus := _CORPORA.get(preset):
        settings["sequences.corpus"] = str(task.corpus(corpus))
    else:
        settings = {k: v for k, v in settings.items() if not k.startswith("sequences.")}
    if preset in ("word_kd", "seq_kd_word_kd"):
        settings["teacher.cache_hidden_states"] = "fp32"
        settings["teacher.states"] = str(task.folder / "teacher-states" / preset)
    return preset, {**settings, "training.learning_rate": rate, "training.steps": updates, **more}


# Rows of the tables.


def _teacher(task: Task, found: Found) -> Iterator[Cell]:
    method, rates = "teacher+seq_inter", _budget(task, None).fine_tuning_rates
    interpolation = functools.partial(_interpolation, task, None)
    rate = yield from _rate(task, found, None, method, rates, (), interpolation)
    if rate is not None:
        yield _cell(task, "main", None, method, task.seeds[0], (interpolation(rate),))


def _pruned(task: Task, found: Found) -> Iterator[Cell]:
    """Prune, retrain, fine-tune; at 0 % the same without zeros."""
    size, seed = task.large, task.seeds[0]
    before = yield from _stages_of(task, found, size, "seq_kd+seq_inter")
    if before is None:
        return
    rates, chosen = _budget(task, size).retraining_rates, {}
    for share in (0.0, LOOKED_INTO):
        retraining = functools.partial(_retraining, task, share)
        chosen[share] = yield from _rate(
            task, found, size, "seq_kd+prune", rates, before[:1], retraining, share
        )
    method = "seq_kd+prune+seq_inter"
    for share in (0.0, *PRUNED_SHARES):
        rate = chosen[LOOKED_INTO if share else share]
        if rate is not None:
            stages = (before[0], _retraining(task, share, rate), _sparse(before[1], share))
            yield _cell(task, "pruning", size, method, seed, stages, pruned_share=share)
    rate = chosen[LOOKED_INTO]
    if rate is not None:
        longer = _retraining(task, LOOKED_INTO, rate, times=LONGER)
        yield _follow_up(
            task,
            size,
            method,
            (before[0], longer, _sparse(before[1], LOOKED_INTO)),
            f"Is it the retraining that costs a student pruned by {LOOKED_INTO:.0%}?",
            method,
            variant=f"{LONGER}x_retraining_updates",
            pruned_share=LOOKED_INTO,
        )


def _more_of_the_same(task: Task, found: Found) -> Iterator[Cell]:
    """Is it what Seq-Inter teaches, or only that it trains for longer?"""
    for method in ("baseline", "seq_kd"):
        stages = yield from _stages_of(task, found, task.large, f"{method}+seq_inter")
        if stages is not None:
            tuned = stages[1][1]
            keys = ("training.warmup_steps", "training.eval_every")
            rate, updates = (
                float(str(tuned["training.learning_rate"])),
                int(str(tuned["training.steps"])),
            )
            again = _stage(task, method, rate, updates, {key: tuned[key] for key in keys})
            yield _follow_up(
                task,
                task.large,
                f"{method}+{method}",
                (stages[0], again),
                "Does Seq-Inter gain more than as many further updates of the same?",
                f"{method}+seq_inter",
            )


def _other_rates(task: Task, found: Found) -> Iterator[Cell]:
    """Do short runs choose too high or too low a rate for the student that all are held to?"""
    size, method, budget = task.large, "baseline", _budget(task, task.large)
    stages = yield from _scratch(task, found, size, method)
    if budget.grid_updates == budget.updates or stages is None:
        return
    chosen = float(str(stages[0][1]["training.learning_rate"]))
    for rate in (chosen / 2, 2 * chosen):
        other = _from_scratch(task, size, method, rate, budget.updates)
        question = "Does the undistilled student do better at a rate that short runs refuse?"
        yield _follow_up(task, size, method, (other,), question, method, variant=f"{rate:g}_rate")


def _longer(task: Task, found: Found) -> Iterator[Cell]:
    """Is it the length of training that keeps students from their teacher?"""
    size = task.trained_longer
    for method in CURVE_METHODS:
        stages = yield from _scratch(task, found, size, method)
        if stages is not None:
            rate = float(str(stages[0][1]["training.learning_rate"]))
            updates = LONGER * _budget(task, size).updates
            longer = _from_scratch(task, size, method, rate, updates)
            question = "Is it the length of training that keeps students from the teacher?"
            variant = f"{LONGER}x_updates"
            yield _follow_up(task, size, method, (longer,), question, method, variant=variant)


def _curves(task: Task, found: Found, seed: int) -> Iterator[Cell]:
    for method in CURVE_METHODS:
        for size in task.curve_sizes:
            stages = yield from _scratch(task, found, size, method)
            if stages is not None:
                yield _cell(task, "size_curve", size, method, seed, stages)
        stages = yield from _scratch(task, found, task.small, method)
        for updates in task.curve_updates:
            if stages is None:
                break
            rate = float(str(stages[0][1]["training.learning_rate"]))
            along = (_from_scratch(task, task.small, method, rate, updates),)
            yield _cell(task, "length_curve", task.small, method, seed, along, in_name=True)


def _follow_up(
    task: Task,
    size: Size,
    method: str,
    stages: tuple[Stage, ...],
    question: str,
    compared_with: str,
    **facts: object,
) -> Cell:
    asked: dict[str, Any] = {"question": question, **facts, "compared_with": compared_with}
    return _cell(task, "follow_up", size, method, task.seeds[0], stages, **asked)


def _cell(
    task: Task,
    experiment: str,
    size: Size | None,
    method: str,
    seed: int,
    stages: tuple[Stage, ...],
    *,
    in_name: bool = False,
    **facts: object,
) -> Cell:
    """`in_name`: whether the updates stand in its name."""
    of = "teacher" if size is None else size.name
    rates = [settings["training.learning_rate"] for _, settings in stages]
    updates = sum(int(str(settings["training.steps"])) for _, settings in stages)
    parts = [experiment, of, method.replace("+", "-"), f"seed{seed}"]
    if experiment == "learning_rates":
        parts.append(f"rate{rates[-1]:g}")
    named = {**({"updates": updates} if in_name else {}), **facts}
    parts += [f"{key}{value}" for key, value in named.items() if key in _IN_NAMES]
    row = {
        **{"experiment": experiment, "size": of, "method": method, "seed": seed},
        "stages": [preset for preset, _ in stages],
        **{"engine": "ctranslate2 float32", "learning_rate": rates[-1], "learning_rates": rates},
        **{"updates": updates, **facts, "name": "/".join(parts)},
    }
    return chain(task, stages, row, tested=experiment != "learning_rates")
