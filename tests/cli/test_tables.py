"""The results as a table of 100 columns, with tests in words."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from seqdistill.cli.tables import show_results
from seqdistill.report.contents import RunContents
from seqdistill.report.inputs import read_contents

from .results import SIGNATURE, write_run


@pytest.fixture
def contents(tmp_path: Path) -> RunContents:
    return read_contents(write_run(tmp_path / "run"))


def shown(contents: RunContents, *, terminal: bool, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=terminal, color_system=None, markup=False
    )
    show_results(contents, console)
    return stream.getvalue()


def row_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(name))


@pytest.mark.parametrize("terminal", [True, False])
def test_wide_numbers_fit_into_100_columns(contents: RunContents, terminal: bool) -> None:
    text = shown(contents, terminal=terminal)
    table = text.split("Paired tests")[0]
    assert max(map(len, table.splitlines())) <= 100
    row = row_of(text, "teacher")
    cells = ("11.9 M", "238 MB", "30.7", "31.7 [30.6, 32.8]", "58.4", "12.35", "1,234", "123")
    assert [cell for cell in cells if cell not in row] == []
    assert row.rstrip().endswith("2,346")


def test_80_columns_keep_every_name_and_number_whole(contents: RunContents) -> None:
    text = shown(contents, terminal=True, width=80)
    assert max(map(len, text.split("BLEU: nrefs")[0].splitlines())) <= 80
    for whole in ("baseline", "word_kd", "1,234", "2,346", "[30.6, 32.8]", "perplex-"):
        assert whole in text


def test_every_system_has_one_line_and_the_order_of_the_results(contents: RunContents) -> None:
    lines = shown(contents, terminal=False).splitlines()
    names = ["teacher", "baseline", "word_kd", "seq_kd", "seq_kd int8"]
    positions = [next(i for i, line in enumerate(lines) if line.startswith(n)) for n in names]
    assert positions == list(range(positions[0], positions[0] + 5))


def test_plain_table_has_no_rules_and_no_control_characters(contents: RunContents) -> None:
    text = shown(contents, terminal=False)
    assert "─" not in text
    assert "\x1b" not in text
    assert "\u202f" not in text
    assert "\u00a0" not in text


def test_paired_tests_read_as_sentences(contents: RunContents) -> None:
    text = shown(contents, terminal=False)
    assert (
        "word_kd, beam search: +0.4 BLEU (−0.4 to +1.2), "
        "no significant difference from the undistilled student (p = 0.31)"
    ) in " ".join(text.split())
    assert "seq_kd, beam search: +2.9 BLEU (+2.1 to +3.7), better than" in text
    assert "(p = 0.001)" in text
    assert "seq_kd, greedy: +3.9 BLEU" in text
    assert "(p < 0.001)" in text


def test_numbers_carry_their_signature(contents: RunContents) -> None:
    assert f"BLEU: {SIGNATURE}" in shown(contents, terminal=False)


def test_names_are_no_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"word_kd"', '"[red]word[/red]"'), encoding="utf-8")
    assert "[red]word[/red]" in shown(read_contents(folder), terminal=True, width=200)


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "results.json"
    path.write_text(path.read_text().replace("58.4", "null"), encoding="utf-8")
    assert " – " in row_of(shown(read_contents(folder), terminal=False), "teacher")


def test_error_rates_have_their_columns_and_fewer_errors_are_better(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "results.json"
    text = path.read_text().replace('"bleu_', '"token_error_rate_').replace('"chrf"', '"other"')
    results = json.loads(text)
    results["metrics"] = [{"name": "token_error_rate", "higher_is_better": False}]
    path.write_text(json.dumps(results), encoding="utf-8")
    found = shown(read_contents(folder), terminal=False)
    assert "BLEU" not in found and "chrF" not in found
    assert "token err." in found and f"token error rate: {SIGNATURE}" in found
    assert "seq_kd, beam search: +2.9 (+2.1 to +3.7), worse than" in found
    assert max(map(len, found.split("Paired tests")[0].splitlines())) <= 100
