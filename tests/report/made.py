"""Made-up run directories for the tests of the report and of the command line.

Logs are linear in the update, with a little of a fixed zigzag, so that every mean is known.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqdistill.records.results import (
    CopyAgreement,
    Decoded,
    Forced,
    Metric,
    PairedTest,
    Results,
    Sampled,
    Score,
    System,
    Value,
    best_student,
    recommended_student,
)
from seqdistill.records.run_directory import RunDirectory

Row = dict[str, Any]

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
BLEU = Metric(name="bleu", title="BLEU", higher_is_better=True)
CHRF = Metric(name="chrf", title="chrF", higher_is_better=True)
ERRORS = Metric(name="token_error_rate", title="token error rate", higher_is_better=False)
ENDLESS = "150 of 150 outputs have no end"


def around(value: float, half: float = 1.1) -> Value:
    """With an interval."""
    return Value(value=value, low=value - half, high=value + half)


def score(value: float, half: float = 1.1, signature: str = SIGNATURE) -> Score:
    """With an interval and a signature."""
    return Score(value=value, low=value - half, high=value + half, signature=signature)


def system(
    name: str,
    method: str,
    quality: float,
    speed: float | None,
    *,
    metric: Metric = BLEU,
    **fields: object,
) -> System:
    """Beam search is of that quality and decodes so many sentences per second."""
    worse = quality - 1.0 if metric.higher_is_better else quality + 1.0
    decoded = [
        Decoded(
            scores={metric.name: score(value), "chrf": score(value + 25, signature="nc:6|nw:0")},
            length_ratio=0.9,
            sentences_per_second=None if speed is None else Value(value=factor * speed),
            words_per_second=None if speed is None else Value(value=10.0 * factor * speed),
        )
        for value, factor in ((worse, 2.5), (quality, 1.0))
    ]
    found = System(
        name=name, method=method, init="teacher layers 3+1", engine="ctranslate2 float32",
        parameters=5_310_000, bytes=10_000_000, greedy=decoded[0], beam=decoded[1],
        greedy_beam_gap=around(1.0, 0.5), mode_share=around(0.02, 0.01),
        perplexity=Value(value=9.9),
    )  # fmt: skip
    return found.model_copy(update=fields)


TEACHER = system("teacher", "teacher", 34.0, 10.0, bytes=25_000_000, parameters=11_900_000)
START = system("start", "start", 3.0, None)
BASELINE = system("baseline", "baseline", 29.0, 50.0)
WORD_KD = system("word_kd", "word_kd", 30.0, 50.5, to_teacher=score(45.0),
                 agreement_top1=Value(value=0.75))  # fmt: skip
SEQ_KD = system("seq_kd", "seq_kd", 31.62, 51.0, to_teacher=score(42.0),
                agreement_top1=Value(value=0.7))  # fmt: skip
COPY = system(
    "seq_kd int8", "seq_kd", 30.6, 80.0,
    init="int8 copy of seq_kd", engine="ctranslate2 int8", bytes=5_000_000, perplexity=None,
    copy_of="seq_kd", folder="student-int8",
    copy_agreement=CopyAgreement(num_tokens=900, argmax_share=0.98, mean_nats=0.1, max_nats=1.0),
)  # fmt: skip


def paired(name: str, delta: float, p_value: float, **fields: object) -> PairedTest:
    """A test against the baseline, by beam search."""
    found = PairedTest(
        system=name, versus="baseline", metric="bleu", delta=delta, p_value=p_value,
        low=delta - 0.8, high=delta + 0.8, test="paired approximate randomization, 1000 trials",
    )  # fmt: skip
    return found.model_copy(update=fields)


TESTS = (
    paired("word_kd", 1.0, 0.21),
    paired("seq_kd", 2.62, 0.01),
    paired("seq_kd", 2.62, 0.0001, mode="greedy"),
)


def results(
    systems: Sequence[System], metrics: Sequence[Metric] = (BLEU, CHRF), **fields: object
) -> Results:
    """Of these systems, the best student chosen as evaluation does."""
    found = Results(
        created="2025-11-22T10:00:00", metrics=tuple(metrics), systems=tuple(systems),
        baseline="baseline", student=best_student(systems, metrics[0]),
        recommended=recommended_student(systems, metrics[0]),
    )  # fmt: skip
    return found.model_copy(update=fields)


COMPARED = results([TEACHER, START, BASELINE, WORD_KD, SEQ_KD], exports=(COPY,), paired_tests=TESTS)


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, found: Results = COMPARED) -> Path:
    """A run directory with a recipe, results and an empty student folder."""
    (folder / "student").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("method: seq_kd  # a & b\n", encoding="utf-8")
    RunDirectory(folder).write_results(found)
    return folder


UPDATES = 400
LOGGED = range(10, UPDATES + 1, 10)
FRESH = "the cat sat on the mat and looked at the dog"
STUCK = "the cat sat on the cat sat on the cat sat on the cat sat on"


@dataclasses.dataclass(frozen=True)
class Course:
    """Where each quantity of a training begins and ends."""

    length: tuple[float, float] = (20.0, 22.0)
    reward: tuple[float, float] | None = None
    dev: tuple[float, ...] = (10.0, 11.0, 12.0, 13.0)
    """At equal distances, the last at the end."""
    stuck_from: int = UPDATES + 1
    """From this update on it repeats itself."""


def _at(update: int, ends: tuple[float, float]) -> float:
    """Between the ends, one percent above or below."""
    fraction = update / UPDATES
    zigzag = 1.01 if update % 20 else 0.99
    return zigzag * ((1.0 - fraction) * ends[0] + fraction * ends[1])


def metrics_of(course: Course, **more: float) -> list[Row]:
    """The log: 100 tokens an update at 1 s each, half of which was sampling at 2,000 tokens/s."""
    rows: list[Row] = []
    for update in LOGGED:
        length = _at(update, course.length)
        found: Row = {
            "step": update, "loss_nats": 5.0 / update, "rollouts": 990.0 / length,
            "completion_length": length, "eos_rate": 0.9, "refresh_seconds": 0.005,
            "generation_tokens_per_second": 2000.0, "tokens": 100 * update,
            "student_entropy": _at(update, (2.0, 1.0)), "seconds": float(update),
            "teacher_reverse_kl": _at(update, (0.8, 0.2)), **more,
            "seconds_rollout": 0.5 * update, "seconds_forward_loss": 0.3 * update,
            "seconds_backward": 0.15 * update, "seconds_other": 0.05 * update,
            "padded_fraction": 0.042,
        }  # fmt: skip
        rows.append(
            found if course.reward is None else found | {"reward": _at(update, course.reward)}
        )
    for place, value in enumerate(course.dev, start=1):
        step = UPDATES * place // len(course.dev)
        rows.append({"step": step, "dev_bleu": value, "dev_loss_nats": 2.0})
    return sorted(rows, key=lambda row: row["step"])


def rollouts_of(course: Course) -> list[Row]:
    """Four sequences of every twentieth update, two a prompt."""
    return [
        {
            "step": step,
            "id": f"doc:{place // 2}",
            "origin": "student",
            "tokens": 14 + place,
            "prompt": f"Summarize <this> & that, {place // 2}.",
            "finished": place != 3,
            "written": STUCK if step >= course.stuck_from else FRESH,
            "reference": "a cat & a dog",
            "sampled_at_update": step,
            "reward": None if course.reward is None else _at(step, course.reward),
        }
        for step in range(1, UPDATES + 1, 20)
        for place in range(4)
    ]


DEV_METRICS = {"judging": {"dev_metrics": [BLEU.model_dump()]}}


def write_course(folder: Path, course: Course, **more: float) -> Path:
    """A run directory that holds nothing but logs."""
    write_lines(folder / "metrics.jsonl", metrics_of(course, **more))
    write_lines(folder / "rollouts.jsonl", rollouts_of(course))
    (folder / "recipe.yaml").touch()
    (folder / "manifest.json").write_text(json.dumps(DEV_METRICS), encoding="utf-8")
    return folder


def sampled(at: System, self_bleu: float) -> System:
    """The system sampled from at two temperatures."""
    quality = at.score("bleu") or 0.0
    return at.model_copy(
        update={
            "sampled": tuple(
                Sampled(
                    temperature=temperature,
                    scores={"bleu": score(quality - lost, 0.5)},
                    self_bleu=around(self_bleu - 5.0 * lost, 1.0),
                    repetition=0.04,
                    finished_fraction=0.97,
                )
                for temperature, lost in ((0.5, 1.0), (1.0, 4.0))
            )
        }
    )


def on_its_own(at: System, kl_nats: float | None) -> System:
    """The system measured on its own outputs, so far from its teacher; None of the teacher."""
    fields: dict[str, object] = {"forced": Forced(scores={"bleu": score(20.0)}, kept=0.625)}
    if kl_nats is not None:
        fields |= {
            "kl_student_teacher_own": around(kl_nats, 0.01),
            "kl_teacher_student_own": around(2.0 * kl_nats, 0.01),
            "topk_overlap_own": Value(value=0.971, low=0.965, high=0.98),
            "acceptance_own": Value(value=0.912, low=0.905, high=0.92),
        }
    return at.model_copy(update=fields)


HACKING = Course(length=(20.0, 45.0), reward=(0.2, 0.6), dev=(11.0, 14.0, 12.0, 9.0),
                 stuck_from=200)  # fmt: skip


def write_everything(folder: Path) -> Path:
    """A comparison in which every part of the page has something to show."""
    on_policy = on_its_own(sampled(system("gkd", "gkd", 33.0, 50.0), 80.0), 0.123)
    broken = system("gkd_rl", "gkd_rl", 20.0, 50.0, faults=(ENDLESS,))
    systems = [
        on_its_own(sampled(TEACHER, 70.0), None),
        START,
        BASELINE,
        WORD_KD,
        SEQ_KD,
        on_policy,
        broken,
    ]
    curve = {"entropy_nats": (1.0, 2.0, 9.0), "counts": (20, 10, 1)}
    found = results(systems, exports=(COPY,), paired_tests=TESTS)
    content = found.model_dump() | {"entropy_by_position": {"teacher": curve, "seq_kd": curve}}
    write_run(folder, Results.model_validate(content))
    manifest = {
        "environment": {"versions": {"python": "3.11.7"}},
        "machine": {"cpu_model": "A <fast> one", "memory_bytes": 16_000_000_000},
        "seed": 1,
        "timings": [
            {"step": "train", "seconds": 98.0, "peak_memory_mb": 1400},
            {"step": "evaluate", "seconds": 3.25},
        ],
    }
    RunDirectory(folder).write_manifest(manifest)
    reading: list[Row] = [
        {key: row[key] for key in ("step", "loss_nats", "dev_bleu") if key in row}
        for row in metrics_of(Course())
    ]
    write_lines(folder / "seq_kd" / "metrics.jsonl", reading)
    (folder / "seq_kd" / "recipe.yaml").touch()
    write_course(folder / "gkd", Course())
    replayed = [
        {**row, "origin": "reference" if row["step"] == 1 else "student",
         "sampled_at_update": max(1, row["step"] - 20)}
        for row in rollouts_of(Course())
    ]  # fmt: skip
    write_lines(folder / "gkd" / "rollouts.jsonl", replayed)
    logged = [
        {**row, "staleness": float(row["step"] // 10 % 7), "beta": 0.5 + row["step"] / 1000,
         "student_fraction": 0.5 + row["step"] / 2000} if "rollouts" in row else row
        for row in metrics_of(Course())
    ]  # fmt: skip
    write_lines(folder / "gkd" / "metrics.jsonl", logged)
    write_course(folder / "gkd_rl", HACKING)
    right, wrong = "Drücken Sie <Eingabe> & warten Sie.", "Drücken Sie <script>alert(1)</script>."
    sample: Row = {"source": "Press <Enter> & wait.", "reference": right}
    sample |= {"outputs": {"teacher": right, "seq_kd": wrong}}
    write_lines(folder / "samples.jsonl", [{"id": f"doc:{n}", **sample} for n in range(2)])
    return folder
