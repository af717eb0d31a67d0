"""What is broken is never recommended, and headlines hold for the worst student."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from tests.report.test_page import SYSTEMS, Page, Row, row

from seqdistill.cli.tables import show_results
from seqdistill.core.errors import UserError
from seqdistill.metrics.soundness import RULE
from seqdistill.report import build_report
from seqdistill.report.headlines import best, headline, recommended
from seqdistill.report.inputs import read_contents

pytestmark = pytest.mark.usefixtures("undrawn")

ENDLESS = "150 of 150 outputs have no end"
TEACHER, BASELINE, WORD_KD, SEQ_KD = SYSTEMS
START = row(
    "start", "start", 3.0, 0.0, words_per_second_beam=None, words_per_second_greedy=None,
    sentences_per_second_beam=None, sentences_per_second_greedy=None, perplexity=90_000.0,
)  # fmt: skip


def run(folder: Path, systems: Sequence[Row], **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"systems": systems, **more}), "utf-8")
    return folder


def text_of(folder: Path) -> str:
    return Page(build_report(folder)).text


def screen(folder: Path) -> str:
    stream = io.StringIO()
    show_results(read_contents(folder), Console(file=stream, width=100, color_system=None))
    return stream.getvalue()


def coloured(folder: Path) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True, color_system="standard")
    show_results(read_contents(folder), console)
    return stream.getvalue()


def headline_of(folder: Path) -> str:
    phrases = headline(read_contents(folder).systems)
    return "".join(phrase.text for phrase in phrases).replace("\u202f", " ")


def test_a_student_that_never_ends_has_a_red_line_and_no_badge(tmp_path: Path) -> None:
    folder = run(tmp_path, [TEACHER, BASELINE, {**SEQ_KD, "faults": [ENDLESS]}])
    html = build_report(folder)
    assert 'class="warning broken" role="alert"' in html
    text = Page(html).text
    assert f"seq_kd: {ENDLESS}" in text and RULE.split(",")[0] in text
    assert text.count("recommended") == 1, "the other student alone has the badge"
    assert f"seq_kd is broken: {ENDLESS}" in screen(folder)
    assert f"\x1b[1;31mseq_kd is broken: {ENDLESS}" in coloured(folder)
    # The worst student is named although it is not the broken one.
    assert headline_of(folder).startswith("baseline keeps 85 % of the teacher’s BLEU")


def test_where_all_are_broken_the_headline_says_so_and_nothing_is_recommended(
    tmp_path: Path,
) -> None:
    students = [{**s, "faults": [ENDLESS]} for s in (BASELINE, SEQ_KD)]
    folder = run(tmp_path, [TEACHER, *students])
    text = text_of(folder)
    assert headline_of(folder) == f"seq_kd is broken: {ENDLESS}"
    assert "No student is sound" in text
    assert "seq_kd keeps" not in text
    assert "recommended" not in text.replace("none is recommended", "")
    assert recommended(read_contents(folder).systems) is None
    assert "Speed, beam search" not in text, "speed is no virtue of what is broken"


def test_one_student_has_no_badge(tmp_path: Path) -> None:
    folder = run(tmp_path, [TEACHER, START, SEQ_KD])
    assert "recommended" not in text_of(folder)
    assert recommended(read_contents(folder).systems) is None
    assert headline_of(folder) == (
        "seq_kd keeps 93 % of the teacher’s BLEU at 5.1× its speed and 0.40× its size"
    )
    assert "\x1b[1mseq_kd" not in coloured(folder)


def test_the_headline_names_the_worst_student_and_whether_it_is_broken(tmp_path: Path) -> None:
    bad = row("akl", "akl", 5.0, 90.0, bytes=20_000_000, faults=["it keeps 15% of the teacher"])
    folder = run(tmp_path, [TEACHER, BASELINE, bad, SEQ_KD])
    # 5 / 34 = 0.15; 90 to 510 of 100; 10 and 20 MB of 25
    assert headline_of(folder) == (
        "seq_kd keeps 93 % of the teacher’s BLEU, the worst student (akl, broken) 15 %, at 0.90× "
        "to 5.1× its speed and 0.40× to 0.80× its size"
    )
    assert text_of(folder).count("recommended") == 1


def test_of_an_error_rate_the_worst_is_the_highest(tmp_path: Path) -> None:
    metrics = [{"name": "token_error_rate", "higher_is_better": False}]
    rows = [
        {"name": "teacher", "method": "teacher", "token_error_rate_beam": 4.0},
        {"name": "a", "method": "seq_kd", "token_error_rate_beam": 6.0},
        {"name": "b", "method": "word_kd", "token_error_rate_beam": 9.0},
    ]
    folder = run(tmp_path, rows, metrics=metrics)
    assert headline_of(folder) == (
        "a has a token error rate of 6.0 against the teacher’s 4.0, the worst student (b) 9.0"
    )


def test_words_do_not_make_a_system_fast(tmp_path: Path) -> None:
    babbler = {**SEQ_KD, "words_per_second_beam": 90_000.0, "sentences_per_second_beam": 2.0}
    folder = run(tmp_path, [TEACHER, babbler])
    # 2 of the teacher's 10 sentences a second
    assert "at 0.20× its speed" in headline_of(folder)
    assert "2.0 against 10 sentences/s" in text_of(folder).replace("10.0", "10")
    assert "90,000" in text_of(folder), "words a second stay in the table"
    assert "sent./s" in screen(folder) and "words/s" in screen(folder)


def test_the_start_has_a_row_and_what_was_gained_since_is_a_card(tmp_path: Path) -> None:
    folder = run(tmp_path, [TEACHER, START, BASELINE, SEQ_KD])
    text = text_of(folder)
    assert "the student before its first update" in text
    # 31.62 - 3.0
    assert "Since its start +28.6 BLEU 31.6, before its first update 3.0" in text
    assert "start" in [line.split(" ")[0] for line in screen(folder).splitlines() if line]
    # Of the two trade-offs only size, since the start is not timed.
    labels = [label for label in Page(build_report(folder)).labels if "start:" in label]
    assert len(labels) == 1 and "start: BLEU 3.0" in labels[0]
    contents = read_contents(folder)
    found = best(contents.systems)
    assert found is not None and found.name == "seq_kd"
    assert "worst student (baseline)" in headline_of(folder), "the start is no student"


def test_the_start_does_not_change_how_students_look(tmp_path: Path) -> None:
    with_start = build_report(run(tmp_path / "a", [TEACHER, START, BASELINE, SEQ_KD]))
    without = build_report(run(tmp_path / "b", [TEACHER, BASELINE, SEQ_KD]))

    def mark(html: str) -> str:
        before, _, _ = html.partition("baseline</span>")
        return before.rpartition('<span class="name">')[2]

    assert mark(with_start) == mark(without) != ""


def test_every_metrics_signature_is_shown_where_people_read(tmp_path: Path) -> None:
    rows = [{**s, "chrf_signature": "nrefs:1|nc:6|nw:0", "chrf_beam": 50.0} for s in SYSTEMS]
    folder = run(tmp_path, rows)
    for shown in (text_of(folder), screen(folder)):
        assert "BLEU: nrefs:1|case:mixed|eff:no|tok:13a" in shown
        assert "chrF: nrefs:1|nc:6|nw:0" in shown


def test_damaged_faults_are_refused(tmp_path: Path) -> None:
    folder = run(tmp_path, [{**SEQ_KD, "faults": "none"}])
    with pytest.raises(UserError, match="'faults' must be a list of texts"):
        build_report(folder)


def test_the_loss_on_dev_is_a_curve_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, [SEQ_KD])
    rows = [{"step": s, "updates": s, "dev_loss_nats": 5.0 / s} for s in (1, 2, 4)]
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    page = Page(build_report(tmp_path))
    assert "Loss on dev" in page.text
    assert any("1.25 nats at the end" in label for label in page.labels)
