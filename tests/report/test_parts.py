"""Numbers as text, word differences, running means: small parts by their identities."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from seqdistill.report import numbers, plots
from seqdistill.report.differences import pieces
from seqdistill.report.plots import Point, running_mean

TEXTS = [
    ("Geben Sie den Namen ein.", "Tragen Sie den Namen ein!"),
    ("يفتح الإعدادات في الشريط", "يفتح التفضيلات"),
    ("ボタンを押すとファイルが開きます。", "ボタンをクリックするとファイルが開きます。"),
    ("नमस्ते  दुनिया ", "नमस्ते दुनिया"),
    ("", "something"),
    ("  \n", ""),
]


def test_pieces_join_to_the_output_and_a_text_does_not_differ_from_itself() -> None:
    for output, reference in TEXTS:
        assert "".join(piece.text for piece in pieces(output, reference)) == output
        assert all(p.kind == "same" for p in [*pieces(output, output), *pieces(output, None)])


def test_other_words_are_marked_whole_and_missing_words_leave_a_mark() -> None:
    found = [(p.text, p.kind) for p in pieces("I saw two big cats", "I saw a dog and two cats")]
    marked = [("", "missing"), ("big", "other")]
    assert found == [("I saw", "same"), marked[0], (" two ", "same"), marked[1], (" cats", "same")]
    # Scripts without spaces are compared by character.
    assert [p.text for p in pieces("開きます", "開けます") if p.kind == "other"] == ["き"]


N = numbers
SHOWN: list[tuple[Callable[..., str], dict[float | None, str]]] = [
    (lambda value: N.fixed(value, 2), {-1.25: "−1.25", None: "–"}),
    (N.signed, {2.54: "+2.5", -0.04: "±0.0", -0.06: "−0.1", None: "–"}),
    (N.percent, {0.934: "93 %", 0.0412: "4.1 %", 0.0997: "10 %", 0.0: "0 %", 2e-4: "< 0.1 %"}),
    (N.times, {5.08: "5.1×", 0.449: "0.45×", 0.996: "1.0×", 9.96: "10×", None: "–"}),
    (N.count, {950_000.0: "950,000", 11_870_000.0: "11.9 M", None: "–"}),
    (N.size, {10_640_000.0: "10.6 MB", 512.0: "512 B", None: "–"}),
    (N.rate, {1752.4: "1,752", 9.94: "9.9", None: "–"}),
    (N.duration, {3.14: "3.1 s", 59.7: "1 min 00 s", 3599.6: "1 h 00 min", 7260: "2 h 01 min"}),
    (N.p_value, {0.000999: "p = 0.001", 0.0001: "p < 0.001", 0.214: "p = 0.21"}),
    (N.significant, {0.01234: "0.0123", 4.567: "4.57", 9.996: "10.0", 1234.6: "1,230"}),
    (N.significant, {-0.5: "−0.500", 0.0: "0", 99.96: "100", None: "–"}),
]


@pytest.mark.parametrize(("show", "expected"), SHOWN)
def test_numbers_are_shown_with_the_figures_that_matter(
    show: Callable[..., str], expected: dict[float | None, str]
) -> None:
    for value, text in expected.items():
        assert show(value).replace(N.THIN, " ").replace(N.HARD, " ") == text
    assert N.interval(None, 1.0) == "" and N.fact("seeds", [1, 2]) == "[1, 2]"
    assert N.fact("memory_bytes", 16_000_000_000) == N.size(1.6e10)


def test_the_running_mean_of_a_constant_is_the_constant_and_of_one_point_itself() -> None:
    assert running_mean([2.0] * 7, 3) == [2.0] * 7
    assert running_mean([1.0, 2.0, 6.0], 2) == [1.0, 1.5, 4.0]
    assert running_mean([1.0, 5.0], 1) == [1.0, 5.0]


def test_the_report_starts_without_torch_and_without_matplotlib() -> None:
    code = (
        "import sys, seqdistill.report;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("x_scale", "points"),
    [
        ("log", [Point(1.0, 0.0), Point(2.0, 0.0)]),
        ("linear", [Point(0.0, 0.0)]),
        ("linear", [Point(0.0, 5.0), Point(60.0, 7.0)]),
    ],
)
def test_what_is_never_negative_has_no_negative_scale(
    x_scale: plots.Scale, points: list[Point]
) -> None:
    series = plots.Series("a", plots.Look(1, "circle"), points)
    frame = plots.Frame("speed", "BLEU", x_scale, level=points[0].y)
    labels = re.findall(r">([−\d.]+)</text>", plots.draw("flat", [series], frame))
    assert len(labels) > 2
    assert not [label for label in labels if label.startswith("−")]
