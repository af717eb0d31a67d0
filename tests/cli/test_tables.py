"""The results as a table of 100 columns, with tests in words."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.report.made import (
    BASELINE,
    COMPARED,
    ENDLESS,
    ERRORS,
    SEQ_KD,
    TEACHER,
    WORD_KD,
    paired,
    results,
    system,
)
from tests.snapshots import assert_as_kept

from seqdistill.cli.tables import show_results
from seqdistill.records.results import Results


def shown(found: Results, *, terminal: bool = False, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=terminal, color_system=None, markup=False
    )
    show_results(found, console)
    return stream.getvalue()


def test_the_whole_table_and_the_tests_in_words() -> None:
    broken = WORD_KD.model_copy(update={"name": "[red]akl[/red]", "faults": (ENDLESS,)})
    found = COMPARED.model_copy(update={"systems": (*COMPARED.systems, broken)})
    text = shown(found)
    assert max(map(len, text.split("Paired tests")[0].splitlines())) <= 100
    assert not {"─", "\x1b", "\u202f", "\u00a0"} & set(text), "plain text for pipes"
    assert_as_kept(text, Path(__file__).with_name("table.txt"))


@pytest.mark.parametrize("width", [80, 100])
def test_wide_numbers_keep_their_place_on_a_terminal(width: int) -> None:
    wide = [
        each.model_copy(update={"parameters": 111_900_000, "bytes": 238_000_000})
        for each in (TEACHER, BASELINE, WORD_KD, SEQ_KD)
    ]
    text = shown(results(wide), terminal=True, width=width)
    table = text.split("BLEU: nrefs")[0]
    assert max(map(len, table.splitlines())) <= width
    for whole in ("baseline", "word_kd", "112 M", "238 MB", "505", "[32.9, 35.1]", "perplex-"):
        assert whole in table


def test_fewer_errors_are_better() -> None:
    systems = [
        system(name, name, quality, 10.0, metric=ERRORS)
        for name, quality in (("teacher", 5.0), ("baseline", 9.0), ("seq_kd", 7.0))
    ]
    test = paired("seq_kd", 2.9, 0.001, metric="token_error_rate")
    text = shown(results(systems, [ERRORS], paired_tests=(test,)))
    assert "token err." in text and "BLEU" not in text
    assert "seq_kd, beam search: +2.9 (+2.1 to +3.7), worse than" in text
    assert max(map(len, text.split("Paired tests")[0].splitlines())) <= 100
