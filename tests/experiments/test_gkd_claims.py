"""Each claim about on-policy distillation is decided by its stated rule, on both sides of it."""

from __future__ import annotations

import pytest
from experiments.gkd.page_claims import CLAIMS, Claim
from experiments.gkd.page_contrasts import contrast
from experiments.gkd.page_reasons import reasons
from experiments.gkd.page_rows import longer_students
from experiments.gkd.page_sections import ELSEWHERE, claims
from experiments.harness.verdicts import Verdict, verdict_of
from tests.experiments.gkd_rows import (
    GAINS,
    Rows,
    data_rows,
    everything,
    follow_up_rows,
    later_rows,
    longer_rows,
    main_rows,
    reward_rows,
    students,
    whole_grid,
)


def claim(words: str) -> Claim:
    (found,) = [claim for claim in CLAIMS if words in claim.title]
    return found


def decided(words: str, rows: Rows, task: str = "g2p") -> Verdict:
    return verdict_of(claim(words).parts(students(rows, task)))


@pytest.mark.parametrize("task", ["g2p", "arithmetic"])
@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.HOLDS),
        ({"imitkd": 8.5}, Verdict.FAILS),
        ({"seq_kd": 8.0}, Verdict.OPEN),
    ],
)
def test_on_policy_must_beat_all_three(
    task: str, changed: dict[str, float], verdict: Verdict
) -> None:
    rows = main_rows(task, {**GAINS, **changed})
    if verdict is Verdict.OPEN:  # as good in the mean, now better, now worse
        for row in rows:
            if row["method"] == "seq_kd":
                key = row["metric"]
                row[key] = row["value"] + (0.5 if row["seed"] == 1 else -0.25)
    assert decided("beats supervised KD", rows, task) is verdict


def test_a_claim_without_its_rows_is_not_measured() -> None:
    rows = main_rows("g2p", {"on_policy_kd": 8.0})
    for words in ("beats supervised KD", "about twice", "rises with λ", "5 % of the inputs"):
        assert decided(words, rows) is Verdict.MISSING


@pytest.mark.parametrize(
    ("baseline", "verdict"), [(4.0, Verdict.HOLDS), (5.9, Verdict.HOLDS), (6.2, Verdict.FAILS)]
)
def test_about_twice_means_one_and_a_half_times_the_best_baseline(
    baseline: float, verdict: Verdict
) -> None:
    rows = main_rows("g2p", {**GAINS, "imitkd": baseline})
    assert decided("about twice", rows) is verdict  # reverse KL gains 9


def test_less_of_a_loss_than_every_baselines_is_never_called_enough() -> None:
    rows = main_rows("g2p", {**GAINS, "imitkd": 8.0})  # reverse KL gains 9
    losses = {"seq_kd": -3.0, "supervised_kd": -3.0, "imitkd": -2.0, "on_policy_kd": -1.0}
    rows += later_rows("g2p", losses)
    (line,) = reason_lines(rows, 2)
    assert line[4] == "samples at T 1"


def test_a_baseline_that_loses_is_beaten_by_any_gain_and_not_by_a_loss() -> None:
    worse = {"seq_kd": -3.0, "supervised_kd": -3.0, "imitkd": -2.0}
    assert decided("about twice", main_rows("g2p", {**GAINS, **worse})) is Verdict.HOLDS
    for loss in (-3.5, -2.5):  # more than 1.5 times the baseline's loss, and less
        lost = {**worse, "on_policy_kd": loss, "gkd-reverse_kl-1": loss}
        assert decided("about twice", main_rows("g2p", {**GAINS, **lost})) is Verdict.FAILS


@pytest.mark.parametrize(("by_share", "verdict"), [(3.0, Verdict.HOLDS), (-3.0, Verdict.FAILS)])
def test_both_steps_of_lambda_must_rise(by_share: float, verdict: Verdict) -> None:
    assert decided("rises with λ", whole_grid("g2p", by_share=by_share)) is verdict


def hot(rows: Rows, divergence: str, *, quality: float, self_bleu: float) -> Rows:
    """The rows with better and more equal samples of a divergence at lambda 1."""
    changed = []
    for row in rows:
        if (row["divergence"], row["lambda"]) == (divergence, 1.0):
            key = "sequence_error_rate_sample_t1"
            row = row | {key: row[key] - quality}
            row["self_bleu_sample_t1"] += self_bleu
        changed.append(row)
    return changed


def test_temperature_matters_where_each_setting_surely_prefers_its_own() -> None:
    rows = whole_grid("g2p")  # greedy: reverse KL leads by a point
    part, _ = claim("depends on the task").parts(students(rows, "g2p"))
    assert part.verdict is Verdict.FAILS and part.figure == "reverse KL in both"
    part, _ = claim("depends on the task").parts(
        students(hot(rows, "jsd_0.9", quality=4.0, self_bleu=0.0), "g2p")
    )
    assert part.verdict is Verdict.HOLDS and "JSD(0.9)" in part.figure


def test_tasks_differ_where_each_surely_prefers_its_own() -> None:
    rows = whole_grid("g2p") + whole_grid("en-de")
    _, part = claim("depends on the task").parts(students(rows, "g2p"))
    assert part.verdict is Verdict.FAILS
    for row in rows:
        if (row["task"], row["divergence"], row["lambda"]) == ("en-de", "jsd_0.1", 1.0):
            row["bleu_greedy"] += 5.0
    _, part = claim("depends on the task").parts(students(rows, "g2p"))
    assert part.verdict is Verdict.HOLDS
    _, part = claim("depends on the task").parts(students(whole_grid("g2p"), "g2p"))
    assert part.verdict is Verdict.MISSING  # there is no other task


@pytest.mark.parametrize(
    ("quality", "self_bleu", "verdict"),
    [(2.0, 3.0, Verdict.HOLDS), (2.0, -3.0, Verdict.FAILS), (-4.0, 3.0, Verdict.FAILS)],
)
def test_mode_seeking_must_win_quality_and_lose_diversity(
    quality: float, self_bleu: float, verdict: Verdict
) -> None:
    rows = hot(whole_grid("g2p"), "reverse_kl", quality=quality, self_bleu=self_bleu)
    assert decided("Mode-seeking", rows) is verdict


@pytest.mark.parametrize(("gain", "verdict"), [(6.0, Verdict.HOLDS), (2.0, Verdict.FAILS)])
def test_few_inputs_are_held_against_all_inputs(gain: float, verdict: Verdict) -> None:
    rows = main_rows("g2p") + data_rows("g2p", gain=gain)
    assert decided("5 % of the inputs", rows) is verdict


RISING = (0.50, 0.60, 0.65, 0.70, 0.72)


@pytest.mark.parametrize(
    ("rouge_l", "agreement", "verdict"),
    [
        ((40, 38, 36, 34, 32), RISING, Verdict.HOLDS),
        ((32, 34, 36, 38, 40), RISING, Verdict.FAILS),
        ((40, 38, 36, 34, 32), RISING[::-1], Verdict.FAILS),
        ((40, 38, 30, 34, 32), RISING, Verdict.FAILS),  # falls, but not smoothly
        ((40, 38, 38, 34, 32), RISING, Verdict.HOLDS),  # a step of nothing breaks nothing
    ],
)
def test_rewards_must_fall_and_agreement_rise_without_a_step_back(
    rouge_l: tuple[float, ...], agreement: tuple[float, ...], verdict: Verdict
) -> None:
    rows = main_rows("summaries") + reward_rows(rouge_l=rouge_l, agreement=agreement)
    assert decided("smoothly", rows, "summaries") is verdict


@pytest.mark.parametrize(("gain", "verdict"), [(4.0, Verdict.HOLDS), (9.0, Verdict.FAILS)])
def test_equal_time_is_against_the_longer_training(gain: float, verdict: Verdict) -> None:
    rows = main_rows("g2p") + longer_rows("g2p", gain=gain)
    assert decided("equal time", rows) is verdict


def test_a_contrast_pairs_the_seeds_that_all_systems_have() -> None:
    rows = [row for row in main_rows("g2p") if (row["method"], row["seed"]) != ("seq_kd", 3)]
    found = students(rows, "g2p")
    pair = [(found.student("on_policy_kd"), 1.0), (found.student("seq_kd"), -1.0)]
    value = contrast(found, pair, found.key)
    assert value is not None and value.n == 2
    assert value.value == pytest.approx(5.0, abs=0.05)
    assert contrast(found, [(found.student("imitkd"), 1.0), ((), -1.0)], found.key) is None


def test_each_claim_is_told_of_the_tasks_that_test_it() -> None:
    rows = everything()["rows"]
    found = [students(rows, task) for task in ("g2p", "summaries")]
    text = claims(found)
    for number, each in enumerate(CLAIMS, start=1):
        assert f"### {number}. {each.title}" in text
        line = next(line for line in text.splitlines() if line.startswith(f"| {number} | "))
        untested = sum(task not in each.tasks for task in ("g2p", "summaries"))
        assert line.count(ELSEWHERE) == untested


def reason_lines(rows: Rows, number: int) -> list[list[str]]:
    page = reasons([students(rows, "g2p")])
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [found for found in cells if found[0] == str(number)]


@pytest.mark.parametrize(
    ("longer", "expected"), [(6.0, "nearer"), (2.0, "farther"), (9.5, "enough")]
)
def test_what_fails_is_looked_at_again_after_longer_training_and_in_samples(
    longer: float, expected: str
) -> None:
    rows = main_rows("g2p", {**GAINS, "seq_kd": 12.0})  # on-policy KD gains 8
    for row in rows:  # in samples it is far ahead
        if row["method"] == "on_policy_kd":
            row["sequence_error_rate_sample_t1"] -= 20.0
    rows += follow_up_rows("g2p", {"seq_kd": 9.0, "on_policy_kd": longer})
    rows += later_rows("g2p", {"seq_kd": 9.0, "on_policy_kd": longer})
    lines = {cells[4]: cells for cells in reason_lines(rows, 1)}
    assert set(lines) == {"longer training", "a later start", "samples at T 1"}
    assert lines["a later start"][-1] == expected
    assert {cells[2] for cells in lines.values()} == {"On-policy KD over SeqKD"}
    assert lines["longer training"][-1] == expected
    assert lines["samples at T 1"][-1] == "enough"


def test_students_trained_longer_are_held_against_nothing_that_was_trained_shorter() -> None:
    rows = data_rows("g2p") + longer_rows("g2p") + main_rows("g2p")
    rows += follow_up_rows("g2p", GAINS)
    longer = longer_students(students(rows, "g2p"))
    assert longer.data_shares == [] and longer.in_equal_time("seq_kd") == ()
    assert {row["updates"] for row in longer.trained_on("imitkd", 1.0)} == {1200}


def test_nothing_is_looked_into_where_no_figure_fails() -> None:
    assert "No figure fails" in reasons([students(main_rows("g2p"), "g2p")])
