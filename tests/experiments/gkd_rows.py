"""Rows as the on-policy experiment writes them, invented: what a test varies is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.gkd.methods import FULL_GRID, KEY_GRID, GridPoint, Method, methods_of
from experiments.gkd.page_rows import SHOWN, Shown, Students, results_of

Rows = list[dict[str, Any]]
SEEDS = (1, 2, 3)
TEACHER, INITIAL = 70.0, 40.0
# Points that each method gains over the initial student.
GAINS: Mapping[str, float] = {
    "supervised_ft": 0.5,
    "seq_kd": 3.0,
    "supervised_kd": 2.5,
    "imitkd": 4.0,
    "gkd-forward_kl-0.5": 6.0,
    "on_policy_kd": 8.0,
    "gkd-reverse_kl-1": 9.0,
}


def shown(task: str) -> Shown:
    return next(one for one in SHOWN if one.name == task)


def points(gain: float, task: str) -> float:
    """A score that lies so many points better than the initial student's."""
    return INITIAL + shown(task).measure.sign * gain


def row(
    task: str, experiment: str, method: str, seed: int, value: float, **facts: object
) -> dict[str, Any]:
    """A measured row; the seed moves all scores alike, and each method a very little."""
    measure = shown(task).measure
    moved = 0.3 * (seed % 3) + 0.01 * ((seed * 7 + len(method)) % 3)
    score = value + moved
    known = methods_of(FULL_GRID).get(method, Method(method, method, "none", 0.0))
    suffix = "".join(f"/{key}{facts[key]}" for key in ("data_share", "alpha") if key in facts)
    return {
        "task": task,
        "experiment": experiment,
        "preset": known.preset,
        "method": method,
        "divergence": known.divergence,
        "lambda": known.student_fraction,
        "alpha": None,
        "data_share": 1.0,
        "seed": seed,
        "updates": 300,
        "learning_rate": 0.001,
        "start": f"t{seed}",
        "training": f"t{seed}",
        "name": f"{experiment}/{method}/seed{seed}{suffix}",
        "digest": "d",
        "machine": "a CPU",
        "metric": measure.greedy,
        measure.greedy: score,
        f"{measure.greedy}_low": score - 1.0,
        f"{measure.greedy}_high": score + 1.0,
        "value": score,
        "low": score - 1.0,
        "high": score + 1.0,
        "parameters": 230_000,
        "agreement_top1": 0.7,
        "wall_s": 60.0,
        "seconds_per_update": 0.2,
        "typical_seconds_per_update": 0.2,
        "seconds": 75.0,
        shown(task).dev.key: score,
        f"{measure.key}_sample_t0.3": score,
        f"{measure.key}_sample_t1": score - 5.0 * measure.sign,
        "self_bleu_sample_t0.3": 90.0,
        "self_bleu_sample_t1": 30.0 + moved,
        **facts,
    }


def main_rows(
    task: str, gains: Mapping[str, float] = GAINS, *, seeds: Iterable[int] = SEEDS
) -> Rows:
    """Teacher, initial students and the methods with their gains."""
    rows = [row(task, "teacher", "teacher", 1, TEACHER, start=None)]
    for seed in seeds:
        rows.append(row(task, "initial", "initial", seed, INITIAL, start=None))
        rows += [
            row(task, "main", method, seed, points(gained, task))
            for method, gained in gains.items()
        ]
    return rows


def whole_grid(task: str, *, by_share: float = 3.0) -> Rows:
    """Every method; gains rise by so many points from one lambda to the next."""
    grid = FULL_GRID if task in ("g2p", "arithmetic") else KEY_GRID
    gains = {}
    for name, method in methods_of(grid).items():
        share = 0.0 if method.student_fraction is None else method.student_fraction
        seeking = 1.0 if method.divergence == "reverse_kl" else 0.0
        gains[name] = 2.0 + 2.0 * by_share * share + seeking
    return main_rows(task, gains)


def data_rows(task: str, *, gain: float = 6.0) -> Rows:
    """Students trained on parts of the inputs; on-policy KD gains so much on the least."""
    return [
        row(
            task,
            "data",
            method,
            seed,
            points(gain + 5 * share if method == "on_policy_kd" else 1.0, task),
            data_share=share,
        )
        for method in ("supervised_kd", "imitkd", "on_policy_kd")
        for share in (0.05, 0.25)
        for seed in SEEDS
    ]


def longer_rows(task: str, *, gain: float = 4.0) -> Rows:
    """Supervised students that trained for longer."""
    return [
        row(task, "wall_clock", method, seed, points(gain, task), updates=450)
        for method in ("supervised_kd", "seq_kd")
        for seed in SEEDS
    ]


def follow_up_rows(task: str, gains: Mapping[str, float]) -> Rows:
    """Students with four times the updates."""
    return [
        row(task, "follow_up", method, seed, points(gained, task), updates=1200)
        for method, gained in gains.items()
        for seed in SEEDS
    ]


def later_rows(task: str, gains: Mapping[str, float]) -> Rows:
    """Students from a start that was supervised for longer and scores 20 more, and that start."""
    ahead = 20.0
    rows = []
    for seed in SEEDS:
        score = points(ahead, task)
        rows.append(row(task, "later_initial", "initial", seed, score, start=None, updates=12_000))
        rows += [
            row(task, "later", method, seed, points(ahead + gained, task), updates=1200)
            for method, gained in gains.items()
        ]
    return rows


def reward_rows(*, rouge_l: Iterable[float], agreement: Iterable[float]) -> Rows:
    """Rewarded students, one pair of numbers for each alpha."""
    weights = (0.0, 0.25, 0.5, 0.75, 1.0)
    return [
        row(
            "summaries",
            "reward",
            "gkd_rl",
            seed,
            45.0,
            alpha=weight,
            rouge_l_greedy=reward + 0.02 * ((seed * 5 + int(8 * weight)) % 3),
            rouge_2_greedy=20.0 + weight,
            agreement_top1=agreed + 0.0002 * ((seed * 5 + int(8 * weight)) % 3),
            length_ratio_greedy=1.0 + (1.0 - weight) / 2,
            repetition_sample_t1=0.01,
            last_teacher_reverse_kl=0.5,
            last_student_entropy=1.0,
        )
        for weight, reward, agreed in zip(weights, rouge_l, agreement, strict=True)
        for seed in SEEDS
    ]


def rate_rows(task: str, experiment: str = "learning_rates") -> Rows:
    """Dev scores of two methods at two rates."""
    key, better = shown(task).dev.key, shown(task).measure.sign
    return [
        {
            "task": task,
            "experiment": experiment,
            "method": method,
            "seed": 1,
            "learning_rate": rate,
            "name": f"{experiment}/{method}/seed1/rate{rate:g}",
            key: 40.0 + better * score,
        }
        for method in ("seq_kd", "on_policy_kd")
        for rate, score in ((0.001, 5.0), (0.004, 3.0))
    ]


def document(rows: Rows) -> dict[str, Any]:
    """The whole of gkd.json."""
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {
            "machine": {"cpu_model": "a CPU", "cpu_cores": 2},
            "versions": {"torch": "2.13.0", "ctranslate2": "4.8.5"},
        },
        "tasks": {"g2p": {"train": 113893, "dev": 600, "test": 3000}},
        "rows": rows,
    }


def everything() -> dict[str, Any]:
    """Rows of every experiment on all four tasks."""
    rows: Rows = []
    for one in SHOWN:
        rows += whole_grid(one.name) + longer_rows(one.name) + rate_rows(one.name)
        rows += follow_up_rows(one.name, {"supervised_ft": 1.0, "on_policy_kd": 8.5})
        rows += later_rows(one.name, {"supervised_ft": 0.5, "on_policy_kd": 2.5})
        rows += rate_rows(one.name, "later_rates")
    rows += data_rows("g2p") + data_rows("arithmetic")
    rows += reward_rows(rouge_l=(40, 38, 36, 34, 32), agreement=(0.5, 0.6, 0.65, 0.7, 0.72))
    return document(rows)


def students(rows: Rows, task: str) -> Students:
    """The task's systems among the rows."""
    return Students(results_of(document(rows)), shown(task))


def at(divergence: str, share: float) -> GridPoint:
    """The point of the grid."""
    return next(
        point
        for point in FULL_GRID
        if (point.divergence, point.student_fraction) == (divergence, share)
    )
