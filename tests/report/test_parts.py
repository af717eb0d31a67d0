"""Numbers as text, word differences, running means: small parts by their identities."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from seqdistill.report import numbers, plots
from seqdistill.report.differences import pieces
from seqdistill.report.plots import Point, running_mean

T = numbers.THIN
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
    assert found == [
        ("I saw", "same"),
        ("", "missing"),
        (" two ", "same"),
        ("big", "other"),
        (" cats", "same"),
    ]
    # Scripts without spaces are compared by character.
    assert [p.text for p in pieces("開きます", "開けます") if p.kind == "other"] == ["き"]


def test_missing_numbers_are_a_dash_whatever_they_would_have_been() -> None:
    for show in (
        numbers.fixed, numbers.signed, numbers.percent, numbers.times, numbers.count,
        numbers.size, numbers.rate, numbers.duration,
    ):  # fmt: skip
        assert show(None) == numbers.MISSING
    assert numbers.interval(None, 1.0) == ""


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.fixed(-1.25, 2), "−1.25"),
        (numbers.signed(2.54), "+2.5"),
        (numbers.signed(-0.04), "±0.0"),
        (numbers.signed(-0.06), "−0.1"),
        (numbers.percent(0.934), f"93{T}%"),
        (numbers.percent(0.0412), f"4.1{T}%"),
        (numbers.percent(0.0997), f"10{T}%"),
        (numbers.percent(0.0), f"0{T}%"),
        (numbers.percent(0.0002), f"<{T}0.1{T}%"),
        (numbers.times(5.08), "5.1×"),
        (numbers.times(0.449), "0.45×"),
        (numbers.times(0.996), "1.0×"),
        (numbers.times(9.96), "10×"),
        (numbers.count(950_000.0), "950,000"),
        (numbers.count(11_870_000.0), f"11.9{T}M"),
        (numbers.size(10_640_000.0), f"10.6{T}MB"),
        (numbers.size(512.0), f"512{T}B"),
        (numbers.rate(1752.4), "1,752"),
        (numbers.duration(3.14), f"3.1{T}s"),
        (numbers.duration(59.7), f"1{T}min 00{T}s"),
        (numbers.duration(3599.6), f"1{T}h 00{T}min"),
        (numbers.duration(7260.0), f"2{T}h 01{T}min"),
        (numbers.p_value(0.000999), "p\u00a0=\u00a00.001"),
        (numbers.p_value(0.0001), "p\u00a0<\u00a00.001"),
        (numbers.p_value(0.214), "p\u00a0=\u00a00.21"),
        (numbers.fact("memory_bytes", 16_000_000_000), f"16.0{T}GB"),
        (numbers.fact("seeds", [1, 2]), "[1, 2]"),
        *zip(
            map(numbers.significant, (0.01234, 4.567, 9.996, 1234.6, -0.5, 0.0, 99.96, None)),
            ("0.0123", "4.57", "10.0", "1,230", "−0.500", "0", "100", numbers.MISSING),
            strict=True,
        ),
    ],
)
def test_numbers_are_shown_with_the_figures_that_matter(shown: str, expected: str) -> None:
    assert shown == expected


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


def test_where_all_values_are_zero_the_scale_begins_there() -> None:
    dots = [Point(float(x + 1), 0.0) for x in range(2)]
    series = plots.Series("a", plots.Look(1, "circle"), dots)
    drawn = plots.draw("flat", [series], plots.Frame("speed", "BLEU", "log", level=0.0))
    labels = re.findall(r">([−\d.]+)</text>", drawn)
    assert "1.0" in labels
    assert not [label for label in labels if label.startswith("−")]
