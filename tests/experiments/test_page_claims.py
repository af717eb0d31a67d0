"""Each claim of the paper is decided by its stated rule, on both sides of it."""

from __future__ import annotations

from typing import Any

import pytest
from experiments.harness.statistics import Estimate
from experiments.harness.verdicts import Part, Verdict, above, verdict_of, within
from experiments.kim_rush.page_cells import Students, students_of
from experiments.kim_rush.page_claims import CLAIMS
from experiments.kim_rush.page_findings import findings
from experiments.kim_rush.page_reasons import reasons
from experiments.kim_rush.page_rows import TASKS, results_of
from tests.experiments.page_rows import document, main_rows, pruning_rows, speed_rows

Rows = list[dict[str, Any]]


def whole_table(task: str) -> Rows:
    """The paper's own numbers for everything that a claim looks at."""
    size = "128x2+2"
    return main_rows(task) + speed_rows(task, size, faster=10.3) + pruning_rows(task, size)


def students_in(rows: Rows) -> Students:
    results = results_of(document(rows))
    return next(found[0] for task in TASKS if (found := students_of(results, task)))


def verdict(rows: Rows, number: int) -> Verdict:
    return verdict_of(CLAIMS[number - 1].parts(students_in(rows)))


def moved(rows: Rows, method: str, points: float, *, wider: float = 0.0) -> Rows:
    """The rows with the scores of one method moved by so many points for the better."""
    changed = []
    for row in rows:
        row = dict(row)
        if row["method"] == method:
            for key in row:
                if key.startswith(("bleu", "sequence_error_rate")):
                    row[key] += points if key.startswith("bleu") else -points
                    row[key] += wider * (key.endswith("_high") - key.endswith("_low"))
        changed.append(row)
    return changed


@pytest.mark.parametrize("task", ["g2p", "en-de"])
@pytest.mark.parametrize("number", range(1, len(CLAIMS) + 1))
def test_every_claim_holds_on_the_papers_own_numbers(task: str, number: int) -> None:
    # 100 - BLEU on g2p, where less is better: the same gains, so the same verdicts.
    assert verdict(whole_table(task), number) is Verdict.HOLDS


@pytest.mark.parametrize(
    ("number", "method", "points"),
    [
        (1, "word_kd", 4.0),
        (1, "seq_kd", -5.0),
        (5, "seq_kd", 2.0),
        (5, "baseline+seq_inter", 1.0),
        (6, "teacher+seq_inter", -3.0),
        (7, "seq_kd+seq_inter", -1.0),
        (8, "seq_kd+prune+seq_inter", -0.8),
        (3, "seq_kd", -5.0),
    ],
)
@pytest.mark.parametrize("task", ["g2p", "en-de"])
def test_a_claim_fails_when_its_interval_lies_on_the_other_side(
    task: str, number: int, method: str, points: float
) -> None:
    assert verdict(moved(whole_table(task), method, points), number) is Verdict.FAILS


def test_a_gap_between_greedy_and_beam_fails_the_claim_that_there_is_none() -> None:
    rows = whole_table("en-de")
    for row in rows:
        if row["method"] == "seq_kd":
            row["bleu_greedy"] -= 1.0
    assert verdict(rows, 2) is Verdict.FAILS


def test_the_gap_of_one_seed_takes_the_paired_interval_of_its_row() -> None:
    rows = main_rows(seeds=(1,))
    for row in rows:
        row["greedy_beam_gap_low"], row["greedy_beam_gap_high"] = 0.05, 0.15
    assert verdict(rows, 2) is Verdict.HOLDS
    for row in rows:
        row["greedy_beam_gap_high"] = 0.4
    assert verdict(rows, 2) is Verdict.OPEN


@pytest.mark.parametrize(("key", "number"), [("perplexity", 3), ("mode_share", 4)])
def test_perplexity_and_mode_share_as_before_fail_their_claims(key: str, number: int) -> None:
    rows = whole_table("en-de")
    for row in rows:
        if row["method"] == "seq_kd":
            row[key] /= 20.0
    assert verdict(rows, number) is Verdict.FAILS


def test_a_mode_share_with_no_room_to_rise_tenfold_says_so() -> None:
    rows = whole_table("en-de")
    for row in rows:
        row["mode_share"] = 0.75 if row["method"] == "seq_kd" else 0.5
    (part,) = CLAIMS[3].parts(students_in(rows))
    assert part.verdict is Verdict.FAILS
    assert "2.0× is all that a share can rise" in part.figure


@pytest.mark.parametrize(("faster", "expected"), [(9.9, Verdict.FAILS), (10.1, Verdict.HOLDS)])
def test_ten_times_faster_is_a_ratio_of_the_same_engine(faster: float, expected: Verdict) -> None:
    rows = main_rows() + speed_rows("en-de", "128x2+2", faster=faster)
    assert verdict(rows, 7) is expected


def test_a_difference_within_wide_intervals_of_one_seed_is_undecided() -> None:
    rows = main_rows(seeds=(1,))
    assert verdict(rows, 1) is Verdict.HOLDS
    assert verdict(moved(rows, "word_kd", 3.0, wider=3.0), 1) is Verdict.OPEN


def test_one_seed_without_any_interval_decides_nothing() -> None:
    rows = [
        {key: value for key, value in row.items() if not key.endswith(("_low", "_high"))}
        for row in main_rows(seeds=(1,))
    ]
    assert verdict(rows, 1) is Verdict.OPEN


@pytest.mark.parametrize(
    ("number", "missing"),
    [
        (1, "word_kd"),
        (2, "seq_kd"),
        (3, "baseline"),
        (4, "seq_kd"),
        (5, "seq_kd+word_kd+seq_inter"),
        (6, "teacher+seq_inter"),
        (7, "teacher"),
        (8, "seq_kd+prune+seq_inter"),
    ],
)
def test_a_claim_whose_rows_are_missing_is_not_measured_yet(number: int, missing: str) -> None:
    rows = [row for row in whole_table("en-de") if row["method"] != missing]
    assert verdict(rows, number) is Verdict.MISSING


def test_a_student_pruned_too_little_does_not_test_the_pruning_claim() -> None:
    rows = [row for row in whole_table("en-de") if row.get("pruned_share", 0.0) < 0.8]
    assert verdict(rows, 8) is Verdict.MISSING  # 50 % of 2.1 M is a tenth of the teacher


def test_one_failing_part_decides_then_a_missing_one_then_an_open_one() -> None:
    parts = {verdict: Part("", "", verdict) for verdict in Verdict}
    order = [Verdict.FAILS, Verdict.MISSING, Verdict.OPEN, Verdict.HOLDS]
    for place, expected in enumerate(order):
        assert verdict_of([parts[verdict] for verdict in reversed(order[place:])]) is expected


@pytest.mark.parametrize(
    ("low", "high", "over_one", "in_zero_two"),
    [
        (1.1, 1.9, Verdict.HOLDS, Verdict.HOLDS),
        (0.5, 1.5, Verdict.OPEN, Verdict.HOLDS),
        (1.5, 2.5, Verdict.HOLDS, Verdict.OPEN),
        (-2.0, -1.0, Verdict.FAILS, Verdict.FAILS),
        (2.1, 3.0, Verdict.HOLDS, Verdict.FAILS),
        (1.0, 1.0, Verdict.OPEN, Verdict.HOLDS),
    ],
)
def test_a_rule_looks_at_the_whole_interval(
    low: float, high: float, over_one: Verdict, in_zero_two: Verdict
) -> None:
    found = Estimate((low + high) / 2.0, low, high, 3, "seeds")
    assert above(found, 1.0) is over_one
    assert within(found, 0.0, 2.0) is in_zero_two


def test_the_findings_name_the_best_method_and_those_not_told_apart_from_it() -> None:
    best, cost, claims = findings(results_of(document(whole_table("en-de"))))
    assert "**Seq-KD** is best" in best
    assert "not told apart from it: Seq-KD + Seq-Inter" in best
    assert (
        "0.6\u00a0±\u00a00.1 points worse than the teacher's beam search and writes 10× (float32)"
        in cost
    )
    assert claims == "On en-de all 8 of the paper's claims hold."


def test_the_findings_praise_no_method_that_is_worse_than_undistilled() -> None:
    rows = moved(main_rows(methods=("baseline", "seq_kd")), "seq_kd", -9.0)
    best, _, claims = findings(results_of(document(rows)))
    assert "no method of distillation does better" in best
    assert "do not hold (1, 3)" in claims and "not measured (5, 6, 7, 8)" in claims


def test_the_findings_call_a_gain_within_chance_by_its_name() -> None:
    rows = main_rows(methods=("baseline", "word_kd"), seeds=(1,))
    best, _, _ = findings(results_of(document(moved(rows, "word_kd", -0.6, wider=1.0))))
    assert "which may be chance" in best and "not told apart from it: Baseline" in best


def reason_lines(rows: Rows, number: int) -> list[list[str]]:
    page = reasons(results_of(document(rows)))
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [found for found in cells if found[0] == str(number)]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.050, "nearer"), (0.0351, "not told apart"), (0.020, "farther"), (0.120, "enough")],
)
def test_what_fails_is_compared_with_a_student_trained_longer(share: float, expected: str) -> None:
    rows = main_rows(methods=("teacher", "baseline", "seq_kd"), seeds=(1,))
    longer = [
        {**row, "experiment": "follow_up", "question": "Too short?", "variant": "4x_updates"}
        for row in rows
        if row["method"] != "teacher"
    ]
    for row, of_own_output in ((rows[-1], 0.035), (longer[-1], share)):
        ends = {"": 1.0, "_low": 0.95, "_high": 1.05}
        row |= {f"mode_share{end}": of_own_output * factor for end, factor in ends.items()}
    ((*_, student, _, changed, _, moved_to),) = reason_lines(rows + longer, 4)
    assert (student, changed, moved_to) == ("en-de 128×2+2", "4× updates", expected)


def test_what_fails_is_compared_with_larger_students_and_of_the_largest_with_the_next() -> None:
    sizes = {"128x2+2": 0.5, "64x2+2": 0.25, "32x1+1": 0.1}
    rows = main_rows(sizes=sizes, methods=("baseline", "seq_kd"))
    for row in rows:
        if row["method"] == "seq_kd":
            row["mode_share"] *= sizes[row["size"]]
    compared = [(cells[2], cells[4], cells[6]) for cells in reason_lines(rows, 4)]
    assert compared == [
        ("en-de 128×2+2", "64×2+2", "farther"),
        ("en-de 64×2+2", "128×2+2", "nearer"),
        ("en-de 32×1+1", "128×2+2", "nearer"),
        ("en-de 32×1+1", "64×2+2", "nearer"),
    ]


def test_nothing_is_looked_into_where_all_claims_hold() -> None:
    rows = whole_table("en-de")
    assert reasons(results_of(document(rows))) == "No claim fails."


def test_the_findings_tell_what_longer_training_leaves_of_a_gain() -> None:
    rows = main_rows(methods=("baseline", "seq_kd"))
    longer = [
        {**row, "experiment": "follow_up", "question": "Too short?", "variant": "4x_updates"}
        for row in moved(rows, "seq_kd", -4.0)
    ]
    told = findings(results_of(document(rows + longer)))[2]
    assert told.endswith(
        "trained as long: on en-de (128×2+2) +4.2\u00a0±\u00a00.0 greedy, and with 4× updates "
        "+0.2\u00a0±\u00a00.0."
    )
