"""Rows as the experiment writes them, invented: what a test varies is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.kim_rush.page_rows import METHODS

SIZES = {"teacher": 10_872_064, "128x2+2": 2_100_000, "64x2+2": 800_000, "32x1+1": 160_000}

# BLEU greedy, BLEU beam, perplexity, mode share: the paper's own table 1 (2x500).
PAPER = {
    "teacher": (17.7, 19.5, 6.7, 0.013),
    "teacher+seq_inter": (19.6, 19.8, 10.4, 0.082),
    "baseline": (14.7, 17.6, 8.2, 0.009),
    "word_kd": (15.4, 17.7, 8.0, 0.010),
    "seq_kd": (18.9, 19.0, 22.7, 0.169),
    "baseline+seq_inter": (18.5, 18.7, 11.3, 0.057),
    "word_kd+seq_inter": (18.3, 18.5, 11.8, 0.063),
    "seq_kd+seq_inter": (18.9, 19.3, 15.8, 0.076),
    "seq_kd+word_kd": (18.7, 18.9, 10.9, 0.041),
    "seq_kd+word_kd+seq_inter": (18.8, 19.2, 14.8, 0.071),
}


def main_row(
    task: str, size: str, method: str, seed: int | None, *, half_width: float = 0.05
) -> dict[str, Any]:
    """The paper's numbers, moved a little by the seed; on g2p as 100 - BLEU, a rate of errors."""
    moved = 0.03 * ((seed or 0) % 3)
    greedy, beam, perplexity, share = PAPER[method]
    row = {
        "task": task,
        "experiment": "main",
        "size": size,
        "method": method,
        "stages": method.split("+"),
        "seed": seed,
        "engine": "ctranslate2 float32",
        "density": 1.0,
        "parameters": SIZES[size],
        "learning_rate": 0.002,
        "updates": None if method == "teacher" else 2400,
        "seconds_training": 61.5,
        "perplexity": perplexity * (1.0 + moved / 100),
        "perplexity_low": perplexity * 0.99,
        "perplexity_high": perplexity * 1.01,
        "mode_share": share,
        "mode_share_low": share * 0.95,
        "mode_share_high": share * 1.05,
        "agreement_top1": 0.61,
        "unfinished": 2,
    }
    key = "bleu" if task == "en-de" else "sequence_error_rate"
    for how, value in (("greedy", greedy + moved), ("beam", beam + moved)):
        score = value if task == "en-de" else 100.0 - value
        row[f"{key}_{how}"] = score
        row[f"{key}_{how}_low"] = score - half_width
        row[f"{key}_{how}_high"] = score + half_width
        if task == "g2p":
            row[f"token_error_rate_{how}"] = score / 4.0
    if task == "en-de":
        for how, value in (("greedy", greedy + 30.0), ("beam", beam + 30.0)):
            row[f"chrf_{how}"] = value
            row |= {f"chrf_{how}_low": value - 0.2, f"chrf_{how}_high": value + 0.2}
    return row


def main_rows(
    task: str = "en-de",
    *,
    sizes: Iterable[str] = ("128x2+2",),
    methods: Iterable[str] = METHODS,
    seeds: Iterable[int] = (1, 2, 3),
) -> list[dict[str, Any]]:
    """A whole main table; teachers were trained once."""
    rows = []
    for method in methods:
        if method.startswith("teacher"):
            rows.append(main_row(task, "teacher", method, 1))
            continue
        rows += [main_row(task, size, method, seed) for size in sizes for seed in seeds]
    return rows


def speed_rows(task: str, size: str, *, faster: float) -> list[dict[str, Any]]:
    """Teacher and student on both engines; the student greedy is `faster` than the teacher."""
    rows: list[dict[str, Any]] = []
    for engine, times in (("ctranslate2 float32", 1.0), ("ctranslate2 int8", 2.5)):
        for model, method, greedy, beam in (
            ("teacher", "teacher", 1900.0, 640.0),
            (size, "seq_kd+seq_inter", 640.0 * faster, 250.0 * faster),
        ):
            rows.append(
                {
                    "task": task,
                    "experiment": "speed",
                    "size": model,
                    "method": method,
                    "engine": engine,
                    "parameters": SIZES[model],
                    "words_per_second_greedy": greedy * times,
                    "words_per_second_beam": beam * times,
                }
            )
    return rows


def pruning_rows(
    task: str, size: str, *, seeds: Iterable[int] = (1,), loss_at_80: float = 0.1
) -> list[dict[str, Any]]:
    """Students pruned by 0, 50, 80 and 90 %; `loss_at_80` is in points of the teacher's beam."""
    rows = []
    losses = {0.0: 0.0, 0.5: 0.02, 0.8: loss_at_80, 0.9: loss_at_80 + 0.6}
    for share, loss in losses.items():
        for seed in seeds:
            method = "seq_kd+prune+seq_inter" if share else "seq_kd+seq_inter"
            row = main_row(task, size, "seq_kd+seq_inter", seed)
            sign = 1.0 if task == "en-de" else -1.0
            key = "bleu" if task == "en-de" else "sequence_error_rate"
            shift = sign * (0.2 - loss)  # the unpruned student stands 0.2 below the teacher
            for how in ("greedy", "beam"):
                for end in ("", "_low", "_high"):
                    row[f"{key}_{how}{end}"] += shift
            left = round(SIZES[size] * (1.0 - share))
            row |= {"experiment": "pruning", "method": method, "pruned_share": share}
            row |= {"nonzero": left, "density": 1.0 - share}
            row |= {"bytes_fp16": 2 * SIZES[size], "bytes_fp16_sparse": 3 * left}
            row |= {"bytes_int8": SIZES[size], "bytes_int8_sparse": 2 * left}
            rows.append(row)
    return rows


def curve_rows(task: str, *, seeds: Iterable[int] = (1, 2)) -> list[dict[str, Any]]:
    """Two methods over three sizes, and over three lengths of training."""
    key = "bleu_greedy" if task == "en-de" else "sequence_error_rate_greedy"
    sign = 1.0 if task == "en-de" else -1.0
    rows = []
    for method in ("baseline", "seq_kd"):
        for seed in seeds:
            for step, size in enumerate(("32x1+1", "64x2+2", "128x2+2")):
                row = main_row(task, size, method, seed) | {"experiment": "size_curve"}
                row[key] += sign * step
                rows.append(row)
            for step, updates in enumerate((600, 1200, 4800)):
                row = main_row(task, "64x2+2", method, seed) | {"experiment": "length_curve"}
                row |= {"updates": updates}
                row[key] += sign * step
                rows.append(row)
    return rows


def rate_rows(task: str, size: str) -> list[dict[str, Any]]:
    """Dev scores of two methods at three rates; Seq-KD is best in the middle of the grid."""
    key, sign = ("dev_chrf", 1.0) if task == "en-de" else ("dev_token_error_rate", -1.0)
    scores = {"baseline": (12.0, 11.0, 10.0), "seq_kd": (13.0, 15.0, 14.0)}
    return [
        {
            "task": task,
            "experiment": "learning_rates",
            "size": size,
            "method": method,
            "seed": 1,
            "learning_rate": rate,
            key: 50.0 + sign * score,
        }
        for method, found in scores.items()
        for rate, score in zip((0.001, 0.002, 0.004), found, strict=True)
    ]


def document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole of kim_rush.json."""
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {
            "machine": {"cpu_model": "a CPU", "cpu_cores": 2},
            "versions": {"torch": "2.13.0", "ctranslate2": "4.8.5"},
        },
        "tasks": {"g2p": {"train": 110414, "dev": 600, "test": 3000}},
        "rows": rows,
    }


def everything() -> dict[str, Any]:
    """Rows of every experiment on both tasks."""
    rows = []
    for task, size, small in (("g2p", "64x2+2", "32x1+1"), ("en-de", "128x2+2", "64x2+2")):
        rows += main_rows(task, sizes=(size, small))
        rows += speed_rows(task, size, faster=11.0) + pruning_rows(task, size, seeds=(1, 2))
        rows += curve_rows(task) + rate_rows(task, size)
        rows += [
            row | {"experiment": "follow_up", "question": "Does more data help?", "variant": "half"}
            for row in main_rows(task, sizes=(size,), methods=("baseline", "seq_kd"), seeds=(1,))
        ]
    return document(rows)
