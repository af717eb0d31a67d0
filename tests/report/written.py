"""Made-up run directories of students that wrote while they trained, for the tests of the report.

Linear in the update, with a little of a fixed zigzag, so that every mean is known beforehand.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tests.report.test_page import Row, row, write_lines

UPDATES = 400
LOGGED = range(10, UPDATES + 1, 10)

FRESH = "the cat sat on the mat and looked at the dog"
STUCK = "the cat sat on the cat sat on the cat sat on the cat sat on"


@dataclasses.dataclass(frozen=True)
class Course:
    """Where each quantity begins and ends."""

    length: tuple[float, float] = (20.0, 22.0)
    reward: tuple[float, float] | None = None
    dev: tuple[float, ...] = (10.0, 11.0, 12.0, 13.0)
    """At equal distances, the last at the end."""
    stuck_from: int = UPDATES + 1
    """From this update on it repeats itself."""


def at(update: int, ends: tuple[float, float]) -> float:
    """Between the ends, one per cent above or below."""
    share = update / UPDATES
    zigzag = 1.01 if update % 20 else 0.99
    return zigzag * ((1.0 - share) * ends[0] + share * ends[1])


def metrics_of(course: Course, **more: float) -> list[Row]:
    """The log: 100 tokens an update at 1 s each, half of which was writing at 2,000 tokens a s."""
    rows: list[Row] = []
    for update in LOGGED:
        length = at(update, course.length)
        found: Row = {
            "step": update,
            "loss_nats": 5.0 / update,
            "rollouts": 990.0 / length,
            "completion_length": length,
            "eos_rate": 0.9,
            "cut_fraction": 0.1,
            "generation_tokens_per_second": 2000.0,
            "refresh_seconds": 0.005,
            "student_entropy": at(update, (2.0, 1.0)),
            "teacher_reverse_kl": at(update, (0.8, 0.2)),
            "tokens": 100 * update,
            "seconds": float(update),
            **more,
        }
        if course.reward is not None:
            found |= {"reward": at(update, course.reward), "absolute_advantage": 0.1}
        rows.append(found)
    for place, score in enumerate(course.dev, start=1):
        step = UPDATES * place // len(course.dev)
        rows.append({"step": step, "dev_rouge_2": score, "dev_loss_nats": 2.0})
    return sorted(rows, key=lambda each: int(str(each["step"])))


def rollouts_of(course: Course) -> list[Row]:
    """Four sequences of every twentieth update, two a prompt."""
    return [
        {
            "step": step,
            "id": f"doc:{place // 2}",
            "prompt": f"Summarize <this> & that, {place // 2}.",
            "origin": "student",
            "written": STUCK if step >= course.stuck_from else FRESH,
            "tokens": 14 + place,
            "finished": place != 3,
            "reference": "a cat & a dog",
            "reward": None if course.reward is None else at(step, course.reward),
            "sampled_at_update": step,
        }
        for step in range(1, UPDATES + 1, 20)
        for place in range(4)
    ]


def write_course(folder: Path, course: Course, **more: float) -> Path:
    """A run directory that holds nothing but logs."""
    write_lines(folder / "metrics.jsonl", metrics_of(course, **more))
    write_lines(folder / "rollouts.jsonl", rollouts_of(course))
    return folder


def sampled_row(name: str, method: str, *, rouge: float, self_bleu: float) -> Row:
    """A row of the results, sampled from at two temperatures."""
    whole = row(name, method, 30.0, 100.0)
    found = {key: value for key, value in whole.items() if "bleu" not in key and key != "chrf"}
    found |= {"rouge_2_beam": rouge + 1.0, "rouge_2_greedy": rouge, "rouge_1_beam": rouge + 9.0}
    for temperature, lost in (("0.5", 1.0), ("1", 4.0)):
        end = f"sample_t{temperature}"
        found |= {
            f"rouge_2_{end}": rouge - lost,
            f"rouge_2_{end}_low": rouge - lost - 0.5,
            f"rouge_2_{end}_high": rouge - lost + 0.5,
            f"rouge_1_{end}": rouge + 9.0 - lost,
            f"self_bleu_{end}": self_bleu - 5.0 * lost,
            f"self_bleu_{end}_low": self_bleu - 5.0 * lost - 1.0,
            f"self_bleu_{end}_high": self_bleu - 5.0 * lost + 1.0,
            f"repetition_{end}": 0.04,
            f"finished_share_{end}": 0.97,
        }
    return found


ROUGE = [
    {"name": "rouge_2", "higher_is_better": True},
    {"name": "rouge_1", "higher_is_better": True},
]


def write_family(folder: Path) -> Path:
    """A comparison: the teacher, a student that reads, one that writes, replay, and a reward."""
    results = {
        "metrics": ROUGE,
        "systems": [
            sampled_row("teacher", "teacher", rouge=20.0, self_bleu=70.0),
            sampled_row("supervised_kd", "supervised_kd", rouge=15.0, self_bleu=60.0),
            sampled_row("on_policy_kd", "on_policy_kd", rouge=18.0, self_bleu=80.0),
            sampled_row("distillm", "distillm", rouge=17.0, self_bleu=75.0),
            sampled_row("gkd_rl", "gkd_rl", rouge=16.0, self_bleu=90.0),
        ],
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    reading: list[Row] = [
        {key: each[key] for key in ("step", "loss_nats", "dev_rouge_2") if key in each}
        for each in metrics_of(Course())
    ]
    write_lines(folder / "supervised_kd" / "metrics.jsonl", reading)
    write_course(folder / "on_policy_kd", Course())
    distillm = [
        {
            **each,
            "student_fraction": float(int(str(each["step"])) % 40 == 0),
            "staleness": float(int(str(each["step"])) // 10 % 7),
        }
        if "rollouts" in each
        else each
        for each in metrics_of(Course(length=(20.0, 18.0), dev=(9.0, 12.0, 12.5, 12.6)))
    ]
    write_lines(folder / "distillm" / "metrics.jsonl", distillm)
    replayed: list[Row] = [
        {**each, "origin": "reference" if each["step"] == 1 else "student",
         "sampled_at_update": max(1, int(str(each["step"])) - 20)}
        for each in rollouts_of(Course())
    ]  # fmt: skip
    write_lines(folder / "distillm" / "rollouts.jsonl", replayed)
    hacking = Course(length=(20.0, 45.0), reward=(0.2, 0.6), dev=(11.0, 14.0, 12.0, 9.0),
                     stuck_from=200)  # fmt: skip
    write_course(folder / "gkd_rl", hacking)
    return folder
