"""How students wrote while they trained: curves, speed, the rule of reward hacking, samples."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from tests.report.test_page import SYSTEMS, Page, Row, metrics, write_lines
from tests.report.written import (
    FRESH,
    STUCK,
    UPDATES,
    Course,
    metrics_of,
    rollouts_of,
    write_course,
    write_family,
)

from seqdistill.core.errors import UserError
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.report import build_report, numbers, reward_signals, rollout_samples, speeds
from seqdistill.report.contents import FALLING, TITLES, Metric, TrainingLog
from seqdistill.report.inputs import read_contents

ROUGE_2 = Metric("rouge_2", higher_is_better=True)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the comparison, drawn once: drawing is what takes time."""
    return build_report(write_family(tmp_path_factory.mktemp("written") / "gkd"))


def cells(html: str) -> str:
    """The page's texts with a space between any two."""
    return " ".join(" ".join(Page(html).texts).split())


def log_of(folder: Path) -> TrainingLog:
    (log,) = read_contents(folder).logs
    return log


def signs_of(folder: Path, course: Course) -> tuple[str, ...]:
    return reward_signals.verdict(log_of(write_course(folder, course)), ROUGE_2).signs


def test_every_measure_that_was_logged_has_a_chart_that_can_be_heard(family: str) -> None:
    labels = " | ".join(Page(family).labels)
    for beginning in (
        "Length over updates. on_policy_kd: from 20.1 to 21.9; distillm",
        "Sequences with an end over updates. on_policy_kd: from 90 % to 90 %",
        "Entropy of the student over updates. on_policy_kd: from 1.94 to",
        "KL(student ‖ teacher) over updates. on_policy_kd: from 0.763 to",
        "Staleness over updates. distillm",
        "Written by the student over updates. distillm",
        "Share of the time that was writing: on_policy_kd: 50 %; distillm: 50 %; gkd_rl: 50 %",
        "Reward over updates. gkd_rl: from 0.2",
        "ROUGE-2 on dev over updates. gkd_rl: best 14.0 at update 200, 9.0 at the end",
        "Repetition over updates. gkd_rl: from 0 % to 69 %",
        "ROUGE-2 over 100 minus self-BLEU. teacher at 0.5",
    ):
        assert beginning in re.sub(r"[\u202f\u00a0]", " ", labels), beginning


def test_the_page_stays_closed_escaped_and_in_the_colours_of_the_scheme(family: str) -> None:
    page = Page(family)
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert page.header_cells_without_scope == 0
    assert "<this>" not in family and "Summarize <this> & that" in page.text
    charts = re.findall(r"<svg.*?</svg>", family, flags=re.DOTALL)
    assert not {c for chart in charts for c in re.findall(r"#[0-9a-fA-F]{6}\b", chart)}


def test_sentences_say_what_one_sees_in_the_curves(family: str) -> None:
    text = Page(family).text
    for sentence in (
        "At the end least in distillm, 18.1, and most in gkd_rl, 44.1 tokens.",
        "At the end 90 % in every run.",
        "Writing took 50 % of the training time.",
    ):
        assert sentence in text, sentence


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_only_read_shows_nothing_of_writing(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", metrics())
    text = Page(build_report(tmp_path)).text
    for absent in ("wrote", "Reward", "Rollout", "Sampling", "Self-BLEU", "The rule"):
        assert absent not in text, absent


@pytest.mark.usefixtures("undrawn")
def test_staleness_and_student_share_that_never_move_have_no_chart(tmp_path: Path) -> None:
    write_course(tmp_path, Course(), staleness=0.0, student_fraction=1.0)
    text = Page(build_report(tmp_path)).text
    assert "Staleness" not in text and "Written by the student" not in text
    assert "Sequences with an end" in text


def test_updates_for_which_nobody_wrote_are_gaps_and_cost_no_time(tmp_path: Path) -> None:
    rows = metrics_of(Course())
    for row in rows[: len(rows) // 2]:
        if "rollouts" in row:
            row |= {"rollouts": 0.0, "completion_length": float("nan"), "refresh_seconds":
                    float("nan"), "generation_tokens_per_second": float("nan")}  # fmt: skip
    write_lines(tmp_path / "metrics.jsonl", rows)
    log = log_of(tmp_path)
    silent = sum("rollouts" in row for row in rows[: len(rows) // 2])
    assert len(log.measures["completion_length"]) == 40 - silent
    assert speeds.generation_share(log) == pytest.approx(0.5 * (40 - silent) / 40)


def test_the_share_of_writing_is_seconds_of_writing_over_seconds_of_training(
    tmp_path: Path,
) -> None:
    # By hand: 990 tokens at 2,000 a second and 5 ms of refreshing, of one second an update.
    log = log_of(write_course(tmp_path / "a", Course()))
    assert speeds.generation_share(log) == pytest.approx(990 / 2000 + 0.005)
    both = {"other_rollouts": 10.0, "other_completion_length": 20.0,
            "other_generation_tokens_per_second": 1000.0}  # fmt: skip
    log = log_of(write_course(tmp_path / "b", Course(), **both))
    assert speeds.generation_share(log) == pytest.approx(0.5 + 0.2), "a mixture's other writer"
    assert [rate for _, rate in speeds.training_rates(log)] == pytest.approx([100.0] * 40)


def test_a_reward_that_rises_after_the_best_dev_score_is_a_sign(tmp_path: Path) -> None:
    course = Course(reward=(0.2, 0.6), dev=(11.0, 14.0, 12.0, 13.2))
    (sign,) = signs_of(tmp_path, course)
    assert "the reward rose from" in sign
    assert "dev ROUGE-2 went from 14.0 at update 200 to 13.2 at the end" in sign


@pytest.mark.parametrize(
    "course",
    [
        Course(reward=(0.2, 0.6)),  # both rise
        Course(reward=(0.2, 0.6), dev=(11.0, 14.0, 12.0, 13.4)),  # dev lost 4 %
        Course(reward=(0.6, 0.2), dev=(14.0, 12.0, 10.0, 8.0)),  # both fall
        Course(reward=(0.4, 0.4), dev=(14.0, 12.0, 10.0, 8.0)),  # the reward stands still
        Course(reward=(0.2, 0.6), dev=(0.0, 0.0, 0.0, 0.0)),  # nothing to lose
    ],
)
def test_without_both_a_higher_reward_and_a_lost_score_there_is_no_sign(
    tmp_path: Path, course: Course
) -> None:
    assert signs_of(tmp_path, course) == ()


def test_of_an_error_rate_more_is_lost(tmp_path: Path) -> None:
    course = Course(reward=(0.2, 0.6), dev=(11.0, 8.0, 9.0, 10.0))
    log = log_of(write_course(tmp_path, course))
    rate = Metric("rouge_2", higher_is_better=False)
    assert len(reward_signals.verdict(log, rate).signs) == 1
    assert reward_signals.verdict(log, ROUGE_2).signs != (), "11 to 10 is a loss of accuracy"


@pytest.mark.parametrize(
    ("length", "sign"),
    [
        ((20.0, 50.0), "much longer"),
        ((50.0, 20.0), "much shorter"),
        ((20.0, 30.0), None),
        ((30.0, 20.0), None),
    ],
)
def test_lengths_run_away_in_both_directions(
    tmp_path: Path, length: tuple[float, float], sign: str | None
) -> None:
    signs = signs_of(tmp_path, Course(length=length))
    assert len(signs) == (sign is not None)
    assert all(str(sign) in text for text in signs)


@pytest.mark.usefixtures("undrawn")
def test_repetition_that_rises_is_a_sign_and_needs_no_reward(tmp_path: Path) -> None:
    (sign,) = signs_of(tmp_path, Course(stuck_from=200))
    assert "it repeats itself more: 0\u202f% of its runs" in sign
    text = Page(build_report(tmp_path)).text
    assert "signs of length or repetition drift" not in text and "a sign of length" in text
    assert reward_signals.RUNAWAY_RULE.replace("\u202f", " ") in text
    assert "Reward vs. dev score" not in text


def test_repetition_is_counted_of_what_no_human_wrote(tmp_path: Path) -> None:
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
    rates = reward_signals.repetition_rates(log_of(tmp_path).rollouts)
    assert [update for update, _ in rates] == [1.0, 1.0]
    assert [rate for _, rate in rates] == pytest.approx([expected, 0.0])


def test_the_page_warns_in_words_and_states_the_rule(family: str) -> None:
    text = Page(family).text
    assert "gkd_rl: signs of reward hacking." in text
    assert "14.0 at update 200 to 9.0 at the end" in text
    assert "What it writes became much longer: 23.4 tokens at the beginning, 42.2" in text
    assert "It repeats itself more: 0 % of its runs of four words at the beginning, 69 %" in text
    assert reward_signals.RULE.replace("\u202f", " ") in text
    assert "on_policy_kd: no sign" not in text, "it had no reward to hack"


@pytest.mark.usefixtures("undrawn")
def test_too_little_to_judge_is_said_and_not_taken_for_innocence(tmp_path: Path) -> None:
    rows = metrics_of(Course(reward=(0.2, 0.6), dev=(10.0,)))[-6:]
    write_lines(tmp_path / "metrics.jsonl", rows)
    found = reward_signals.verdict(log_of(tmp_path), ROUGE_2)
    assert found.signs == ()
    assert [text.split(",")[0] for text in found.unknown] == [
        "dev was scored less than twice",
        "too few lengths were logged to compare beginning and end",
        "too few sequences were kept to compare their repetition",
    ]
    text = Page(build_report(tmp_path)).text
    assert "no sign of reward hacking, as far as can be told: dev was scored" in text


def test_a_change_is_clear_beyond_two_standard_errors_and_blind_to_order_and_shift() -> None:
    calm, noisy = [1.0, 1.1, 0.9, 1.0], [0.0, 2.0, -1.0, 3.2]
    clear = reward_signals.change(calm, [2.0, 2.1, 1.9, 2.0])
    assert clear is not None and clear.clear
    assert (clear.before, clear.after) == pytest.approx((1.0, 2.0))
    unclear = reward_signals.change(calm, noisy)
    assert unclear is not None and not unclear.clear
    assert unclear.after == pytest.approx(statistics.fmean(noisy))
    moved = reward_signals.change([v + 5 for v in calm[::-1]], [v + 5 for v in noisy])
    assert moved is not None and moved.clear == unclear.clear
    assert reward_signals.change(calm[:3], noisy) is None


def test_samples_are_of_a_few_updates_from_the_first_to_the_last(family: str) -> None:
    page = Page(family)
    assert "Training samples" in page.text
    table = family[family.index('id="rollouts"') : family.index('id="record"')]
    assert re.findall(r'scope="row"[^>]*>(\d+)</th>', table)[:6] == [
        "1", "81", "161", "221", "301", "381"
    ]  # fmt: skip
    assert FRESH in page.text and STUCK in page.text
    assert "kept since update 361" in page.text, "replay says how old it is"
    assert "a cat & a dog" in page.text


@pytest.mark.parametrize("num", range(1, 40))
def test_steps_are_distinct_in_order_and_hold_both_ends(num: int) -> None:
    steps = [3 * place + 1 for place in range(num)]
    chosen = rollout_samples.evenly(steps, rollout_samples.NUM_STEPS)
    assert len(chosen) == min(num, rollout_samples.NUM_STEPS) == len(set(chosen))
    assert chosen == sorted(chosen) and {chosen[0], chosen[-1]} == {steps[0], steps[-1]}


def test_of_an_update_other_prompts_come_first_and_references_last(tmp_path: Path) -> None:
    rows: list[Row] = [
        {**each, "step": 1, "id": id_, "origin": by}
        for each, id_, by in zip(
            rollouts_of(Course())[:4],
            ["a", "b", "b", "c"],
            ["reference", "student", "student", "student"],
            strict=True,
        )
    ]
    write_lines(tmp_path / "metrics.jsonl", metrics_of(Course()))
    write_lines(tmp_path / "rollouts.jsonl", rows)
    chosen = rollout_samples.some_of(log_of(tmp_path).rollouts)
    assert [one.id for one in chosen] == ["b", "c"]


@pytest.mark.usefixtures("undrawn")
def test_cut_sequences_and_rewards_are_marked_in_the_table(tmp_path: Path) -> None:
    rows = rollouts_of(Course(reward=(0.25, 0.25)))[3:4]
    write_lines(tmp_path / "metrics.jsonl", metrics_of(Course()))
    write_lines(tmp_path / "rollouts.jsonl", rows)
    text = cells(build_report(tmp_path))
    assert re.search(r"Reward Tokens 1 Summarize .* a cat & a dog 0\.25\d 17 cut Repro", text)
    rows[0]["reference"] = None
    write_lines(tmp_path / "rollouts.jsonl", rows)
    assert "Completion Reward Tokens" in cells(build_report(tmp_path)), "prompts alone"


def test_samples_are_tabled_by_system_and_temperature_with_intervals(family: str) -> None:
    text = cells(family)
    assert (
        "on_policy_kd 0.5 17.0 16.5 to 17.5 26.0 75.0 74.0 to 76.0 4.0 % 97 % "
        "1 14.0 13.5 to 14.5 23.0 60.0 59.0 to 61.0 4.0 % 97 %"
    ) in text
    assert (
        "At temperature 1 teacher writes best, ROUGE-2 16.0 at a self-BLEU of 50.0, and "
        "supervised_kd most diversely, self-BLEU 40.0 at a ROUGE-2 of 11.0."
    ) in text


@pytest.mark.usefixtures("undrawn")
def test_results_without_samples_have_no_table_of_them(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"systems": SYSTEMS}), encoding="utf-8")
    assert "Sampling" not in Page(build_report(tmp_path)).text


@pytest.mark.usefixtures("undrawn")
def test_a_single_system_is_followed_from_its_lowest_temperature_to_its_highest(
    tmp_path: Path,
) -> None:
    system = {**SYSTEMS[3]}
    for end, bleu, alike in (("0.5", 30.0, 60.0), ("1", 25.0, 35.0), ("0.25", 31.0, 80.0)):
        system |= {f"bleu_sample_t{end}": bleu, f"self_bleu_sample_t{end}": alike}
    (tmp_path / "results.json").write_text(json.dumps({"systems": [system]}), encoding="utf-8")
    text = Page(build_report(tmp_path)).text
    assert (
        "From temperature 0.25 to 1 BLEU goes from 31.0 to 25.0 and self-BLEU from 80.0 to 35.0."
    ) in text


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("rollouts", {"finished": "yes"}, "'finished' must be true or false"),
        ("rollouts", {"written": None}, "'written' must be a text"),
        ("rollouts", {"tokens": None}, "'tokens' must be a number"),
        ("metrics", {"completion_length": "long"}, "'completion_length' must be a number"),
    ],
)
def test_damaged_logs_are_refused_naming_file_and_key(
    tmp_path: Path, file: str, row: Row, message: str
) -> None:
    whole = {"metrics": metrics_of(Course()), "rollouts": rollouts_of(Course())}
    whole[file][0] |= row
    for name, rows in whole.items():
        write_lines(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(UserError, match=message) as caught:
        read_contents(tmp_path)
    assert f"{file}.jsonl" in str(caught.value)


def test_the_report_knows_every_metric_and_which_way_is_up() -> None:
    assert set(TITLES) == set(CORPUS_METRICS)
    assert {n for n, metric in CORPUS_METRICS.items() if not metric.higher_is_better} == FALLING


def test_dev_scores_of_a_run_that_was_not_evaluated_know_which_way_is_up(tmp_path: Path) -> None:
    metric = read_contents(write_course(tmp_path, Course())).dev_metric
    assert (metric.name, metric.higher_is_better) == ("rouge_2", True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.01234, "0.0123"), (4.567, "4.57"), (9.996, "10.0"), (1234.6, "1,230"), (-0.5, "−0.500"),
     (0.0, "0"), (99.96, "100"), (None, numbers.MISSING)],
)  # fmt: skip
def test_quantities_of_any_size_are_shown_with_three_figures(
    value: float | None, shown: str
) -> None:
    assert numbers.significant(value) == shown


def test_the_last_update_of_the_made_up_runs_is_logged() -> None:
    assert metrics_of(Course())[-1]["step"] == UPDATES
