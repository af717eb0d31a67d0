"""The charts that explain quality, their sentences, and runs measured by error rates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.report.test_page import SYSTEMS, Page, Row, metrics, row, write_lines

from seqdistill.core.errors import UserError
from seqdistill.report import build_report
from seqdistill.report.inputs import read_contents

ERROR_METRICS = [
    {"name": "token_error_rate", "higher_is_better": False},
    {"name": "sequence_error_rate", "higher_is_better": False},
]


def explained(system: Row, *, gap: float, length: float, agreement: float | None) -> Row:
    found: Row = {
        **system,
        "greedy_beam_gap": gap,
        "greedy_beam_gap_low": gap - 0.5,
        "greedy_beam_gap_high": gap + 0.5,
        "mode_share_low": 0.01,
        "mode_share_high": 0.2,
        "length_ratio_greedy": length + 0.01,
        "length_ratio_beam": length,
    }
    if agreement is not None:
        found |= {"agreement_top1": agreement, "bleu_to_teacher": 60 * agreement}
        found |= {"bleu_to_teacher_low": 50 * agreement, "bleu_to_teacher_high": 70 * agreement}
    return found


def full_results() -> Row:
    teacher, baseline, word_kd, seq_kd = SYSTEMS
    return {
        "systems": [
            explained(teacher, gap=1.0, length=0.99, agreement=None),
            explained(baseline, gap=2.7, length=0.91, agreement=0.6),
            explained(word_kd, gap=1.6, length=0.95, agreement=0.75),
            explained(seq_kd, gap=0.3, length=0.97, agreement=0.7),
        ],
        "analyses": {
            "entropy_by_position": {
                "teacher": {"entropy_nats": [1.0, 2.0, 9.0], "counts": [20, 10, 1]},
                "seq_kd": {"entropy_nats": [0.5, 1.0, 9.0], "counts": [20, 10, 1]},
            }
        },
    }


def page_of(folder: Path, results: Row) -> Page:
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return Page(build_report(folder))


def test_every_analysis_has_a_chart_and_a_sentence_that_says_what_one_sees(tmp_path: Path) -> None:
    page = page_of(tmp_path, full_results())
    assert len(page.labels) == 2 + 5, "two trade-offs and five explanations"
    for sentence in (
        "Beam search helps baseline most, +2.7, and least seq_kd, +0.3, which may be "
        "nothing: its interval holds zero.",
        "seq_kd puts 16 % of its probability on its own output at a perplexity of 9.9",
        "seq_kd has the lowest entropy, 0.94 nats on average, and teacher the highest, 1.58.",
        "word_kd writes most like the teacher: BLEU 45.0 against the teacher’s own outputs, and "
        "the same likeliest token at 75 %",
        "By beam search baseline writes least, 0.91 of the references’ tokens, and teacher most, "
        "0.99.",
    ):
        assert sentence in page.text.replace("\u202f", " "), sentence


def entropy_chart(folder: Path, last: float) -> str:
    """The chart where the one longest sentence ends on so many nats."""
    curve = {"entropy_nats": [1.0, 2.0, last], "counts": [20, 10, 1]}
    results = {"systems": SYSTEMS, "analyses": {"entropy_by_position": {"seq_kd": curve}}}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    charts = re.findall(r"<svg.*?</svg>", build_report(folder), flags=re.DOTALL)
    (found,) = (chart for chart in charts if 'id="entropy-' in chart)
    return str(found)


def test_entropy_is_drawn_as_far_as_a_tenth_of_the_references_reach(tmp_path: Path) -> None:
    assert entropy_chart(tmp_path, 9.0) == entropy_chart(tmp_path, 1.0)


@pytest.mark.usefixtures("undrawn")
def test_results_from_before_the_analyses_have_a_page_without_them(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"systems": SYSTEMS})
    assert "What beam search adds" not in page.text
    assert "Likeness to the teacher" not in page.text
    assert "Certainty against likelihood" in page.text, "this was always measured"


@pytest.mark.usefixtures("undrawn")
def test_one_analysis_that_is_missing_takes_no_other_with_it(tmp_path: Path) -> None:
    results = full_results()
    del results["analyses"]
    page = page_of(tmp_path, results)
    assert "Entropy of the next token" not in page.text
    assert "Output length" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_single_system_is_compared_with_nobody(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"systems": [SYSTEMS[3]]})
    assert "Analysis" not in page.text


def error_row(name: str, method: str, rate: float) -> Row:
    whole = row(name, method, 30.0, 100.0)
    found = {k: v for k, v in whole.items() if "bleu" not in k and k != "chrf"}
    return found | {
        "token_error_rate_greedy": rate + 1.0,
        "token_error_rate_beam": rate,
        "token_error_rate_beam_low": rate - 0.5,
        "token_error_rate_beam_high": rate + 0.5,
        "sequence_error_rate_beam": 4 * rate,
    }


@pytest.fixture
def errors() -> Row:
    return {
        "metrics": ERROR_METRICS,
        "baseline": "baseline",
        "systems": [
            error_row("teacher", "teacher", 5.0),
            error_row("baseline", "baseline", 9.0),
            error_row("seq_kd", "seq_kd", 7.0),
        ],
        "paired_tests": [
            {"system": "seq_kd", "versus": "baseline", "metric": "token_error_rate_beam",
             "delta": -2.0, "p_value": 0.001, "low": -2.5, "high": -1.5, "test": "paired"},
        ],
    }  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_of_an_error_rate_the_lowest_is_recommended_and_less_is_better(
    tmp_path: Path, errors: Row
) -> None:
    write_lines(
        tmp_path / "seq_kd" / "metrics.jsonl",
        [{"step": 1, "updates": 1, "dev_token_error_rate": 12.5, "dev_bleu": 1.0}],
    )
    page = page_of(tmp_path, errors)
    assert "seq_kd has a token error rate of 7.0 against the teacher’s 5.0" in page.text
    assert "better than the undistilled student (p = 0.001)" in page.text.replace("\u00a0", " ")
    assert "down is better" in page.text
    assert "28.0" in page.text, "the second metric has its column"
    assert "Token error rate on dev" in page.text
    assert "BLEU" not in page.text.split("Glossary")[0]


def test_a_metric_without_its_direction_is_refused(tmp_path: Path, errors: Row) -> None:
    errors["metrics"] = [{"name": "token_error_rate"}]
    with pytest.raises(UserError, match="'higher_is_better' must be true or false"):
        page_of(tmp_path, errors)


def test_dev_scores_are_read_in_a_metric_that_was_logged(tmp_path: Path, errors: Row) -> None:
    (tmp_path / "results.json").write_text(json.dumps(errors), encoding="utf-8")
    write_lines(tmp_path / "seq_kd" / "metrics.jsonl", metrics())
    assert read_contents(tmp_path).dev_metric.name == "bleu"


@pytest.mark.parametrize(
    ("analyses", "message"),
    [
        ({"entropy_by_position": [1]}, "'entropy_by_position' must be an object of curves"),
        ({"entropy_by_position": {"a": {"counts": [1]}}}, "'entropy_nats' must be a list of num"),
    ],
)
def test_damaged_curves_are_refused_naming_the_key(
    tmp_path: Path, analyses: Row, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        page_of(tmp_path, {"systems": SYSTEMS, "analyses": analyses})


@pytest.mark.usefixtures("undrawn")
def test_of_equals_a_sentence_names_two(tmp_path: Path) -> None:
    results = full_results()
    results["systems"] = [
        explained({**system, "mode_share": 0.1}, gap=0.0, length=1.0, agreement=None)
        for system in SYSTEMS[:2]
    ]
    page = page_of(tmp_path, results)
    most, least = SYSTEMS[1]["name"], SYSTEMS[0]["name"]
    assert f"helps {most} most, ±0.0, and least {least}, ±0.0" in page.text
    assert f"{least} writes least, 1.00 of the references’ tokens, and {most} most" in page.text


def test_a_single_run_s_curves_are_its_student_s(tmp_path: Path) -> None:
    systems = [row("teacher", "teacher", 30.0, 10.0), row("start", "start", 1.0, 10.0)]
    systems.append(row("word_kd", "word_kd", 20.0, 10.0))
    (tmp_path / "results.json").write_text(json.dumps({"systems": systems}), encoding="utf-8")
    write_lines(tmp_path / "metrics.jsonl", metrics())
    assert [log.name for log in read_contents(tmp_path).logs] == ["word_kd"]
