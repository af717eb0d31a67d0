"""How students sampled while they trained: speed, the rule of reward hacking, samples."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from tests.report.made import (
    BLEU,
    ERRORS,
    FRESH,
    HACKING,
    STUCK,
    Course,
    metrics_of,
    rollouts_of,
    write_course,
    write_lines,
)
from tests.report.test_page import Page

from seqdistill.report import build_report, charts, rollouts
from seqdistill.report.contents import TrainingLog, read_contents, repetition_curve


def log_of(folder: Path) -> TrainingLog:
    (log,) = read_contents(folder).logs
    return log


def signs_of(folder: Path, course: Course) -> tuple[str, ...]:
    return rollouts.verdict(log_of(write_course(folder, course)), BLEU).signs


@pytest.mark.usefixtures("undrawn")
def test_what_was_not_sampled_or_never_moves_has_no_chart(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss_nats": 1.0}])
    text = Page(build_report(tmp_path)).text
    for absent in ("Reward", "Rollout", "Sampling", "Self-BLEU", "The rule"):
        assert absent not in text, absent
    write_course(tmp_path, Course(), staleness=0.0, student_fraction=1.0)
    text = Page(build_report(tmp_path)).text
    assert "Staleness" not in text and "Student’s share" not in text
    assert "Finished" in text


def test_updates_without_rollouts_are_gaps_and_cost_no_time(tmp_path: Path) -> None:
    rows = metrics_of(Course())
    for row in rows[: len(rows) // 2]:
        if "rollouts" in row:
            row |= {"rollouts": 0.0, "completion_length": float("nan"), "refresh_seconds":
                    float("nan"), "generation_tokens_per_second": float("nan")}  # fmt: skip
    write_lines(tmp_path / "metrics.jsonl", rows)
    log = log_of(tmp_path)
    silent = sum("rollouts" in row for row in rows[: len(rows) // 2])
    assert len(log.curve("completion_length")) == 40 - silent
    assert charts.sampling_fraction(log) == pytest.approx(0.5 * (40 - silent) / 40)


def test_the_fraction_of_sampling_is_its_seconds_over_those_of_training(tmp_path: Path) -> None:
    # By hand: 990 tokens at 2,000 a second and 5 ms of refreshing, of one second an update.
    log = log_of(write_course(tmp_path / "a", Course()))
    assert charts.sampling_fraction(log) == pytest.approx(990 / 2000 + 0.005)
    both = {"other_rollouts": 10.0, "other_completion_length": 20.0,
            "other_generation_tokens_per_second": 1000.0}  # fmt: skip
    log = log_of(write_course(tmp_path / "b", Course(), **both))
    assert charts.sampling_fraction(log) == pytest.approx(0.5 + 0.2), "the rest of a mixture"
    assert [rate for _, rate in charts.training_rates(log)] == pytest.approx([100.0] * 40)
    idle = {"tokens": ((1.0, 50.0), (2.0, 50.0), (3.0, 80.0)),
            "seconds": ((1.0, 1.0), (2.0, 2.0), (3.0, 4.0))}  # fmt: skip
    assert charts.training_rates(TrainingLog("a", idle)) == ((1.0, 50.0), (3.0, 15.0))


@pytest.mark.parametrize(
    ("course", "sign"),
    [
        (Course(reward=(0.2, 0.6), dev=(11.0, 14.0, 12.0, 13.2)), "the reward rose"),
        (Course(reward=(0.2, 0.6)), None),  # both rise
        (Course(reward=(0.2, 0.6), dev=(11.0, 14.0, 12.0, 13.4)), None),  # dev lost 4 %
        (Course(reward=(0.4, 0.4), dev=(14.0, 12.0, 10.0, 8.0)), None),  # the reward is flat
        (Course(reward=(0.2, 0.6), dev=(0.0, 0.0, 0.0, 0.0)), None),  # nothing to lose
        (Course(length=(20.0, 50.0)), "much longer"),
        (Course(length=(50.0, 20.0)), "much shorter"),
        (Course(length=(20.0, 30.0)), None),
        (Course(length=(30.0, 20.0)), None),
        (Course(stuck_from=200), "repeats itself more"),  # needs no reward
    ],
)
def test_each_sign_has_its_limit(tmp_path: Path, course: Course, sign: str | None) -> None:
    signs = signs_of(tmp_path, course)
    assert len(signs) == (sign is not None)
    assert all(str(sign) in text for text in signs)


def test_of_an_error_rate_more_is_lost(tmp_path: Path) -> None:
    course = Course(reward=(0.2, 0.6), dev=(11.0, 8.0, 9.0, 10.0))
    log = log_of(write_course(tmp_path, course))
    rate = ERRORS.model_copy(update={"name": "bleu"})
    (sign,) = rollouts.verdict(log, rate).signs
    assert "8.0" in sign, "the lowest is the best"
    assert signs_of(tmp_path, course) != (), "11 to 10 is a loss of accuracy"


def test_repetition_is_counted_of_what_models_wrote(tmp_path: Path) -> None:
    rows = rollouts_of(Course())
    for row in rows:
        row |= {"written": STUCK, "origin": "reference"}
    rows[0] |= {"origin": "student"}
    rows[1] |= {"written": FRESH, "origin": "teacher_mixed"}
    write_lines(tmp_path / "metrics.jsonl", metrics_of(Course()))
    write_lines(tmp_path / "rollouts.jsonl", rows)
    words = STUCK.split()
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    expected = 1.0 - len(set(grams)) / len(grams)
    curve = repetition_curve(log_of(tmp_path).rollouts)
    assert [update for update, _ in curve] == [1.0, 1.0]
    assert [rate for _, rate in curve] == pytest.approx([expected, 0.0])


@pytest.mark.usefixtures("undrawn")
def test_too_little_to_judge_is_said_and_not_taken_for_innocence(tmp_path: Path) -> None:
    rows = metrics_of(Course(reward=(0.2, 0.6), dev=(10.0,)))[-6:]
    write_lines(tmp_path / "metrics.jsonl", rows)
    found = rollouts.verdict(log_of(tmp_path), BLEU)
    assert found.signs == () and len(found.unknown) == 3
    assert "no sign of reward hacking, as far as is known: " in Page(build_report(tmp_path)).text


def test_a_change_is_clear_beyond_two_standard_errors_and_blind_to_order_and_shift() -> None:
    calm, noisy = [1.0, 1.1, 0.9, 1.0], [0.0, 2.0, -1.0, 3.2]
    clear = rollouts.change(calm, [2.0, 2.1, 1.9, 2.0])
    assert clear is not None and clear.clear
    assert (clear.before, clear.after) == pytest.approx((1.0, 2.0))
    unclear = rollouts.change(calm, noisy)
    assert unclear is not None and not unclear.clear
    assert unclear.after == pytest.approx(statistics.fmean(noisy))
    moved = rollouts.change([v + 5 for v in calm[::-1]], [v + 5 for v in noisy])
    assert moved is not None and moved.clear == unclear.clear
    assert rollouts.change(calm[:3], noisy) is None


def test_steps_are_distinct_in_order_and_hold_both_ends() -> None:
    for num in range(1, 40, 3):
        steps = [3 * place + 1 for place in range(num)]
        chosen = rollouts.evenly(steps, rollouts.NUM_STEPS)
        assert len(chosen) == min(num, rollouts.NUM_STEPS) == len(set(chosen))
        assert chosen == sorted(chosen) and {chosen[0], chosen[-1]} == {steps[0], steps[-1]}


def test_of_an_update_other_prompts_come_first_and_references_last(tmp_path: Path) -> None:
    named = zip("abbc", ["reference", "student", "student", "student"], strict=True)
    rows = [
        {**row, "step": 1, "id": name, "origin": origin}
        for row, (name, origin) in zip(rollouts_of(Course()), named, strict=False)
    ]
    write_lines(tmp_path / "metrics.jsonl", metrics_of(Course()))
    write_lines(tmp_path / "rollouts.jsonl", rows)
    assert [one.id for one in rollouts.some_of(log_of(tmp_path).rollouts)] == ["b", "c"]


@pytest.mark.usefixtures("undrawn")
def test_the_table_of_rollouts_has_the_columns_that_hold_something(tmp_path: Path) -> None:
    rows = rollouts_of(HACKING)[3:4]
    write_lines(tmp_path / "metrics.jsonl", metrics_of(Course()))
    write_lines(tmp_path / "rollouts.jsonl", rows)
    assert "Completion | Reference | Reward | Tokens" in Page(build_report(tmp_path)).text
    rows[0] |= {"reference": None, "reward": None}
    write_lines(tmp_path / "rollouts.jsonl", rows)
    assert re.search(r"Completion \| Tokens\n.* 17 cut$", Page(build_report(tmp_path)).text, re.M)
