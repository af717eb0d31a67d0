"""The page of the Kim and Rush experiment: whole from any rows, equal bytes from equal rows."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest
from experiments.harness.drawing import spread
from experiments.kim_rush.page import PLOTS, rendered, write_page
from experiments.kim_rush.page_cells import students_of
from experiments.kim_rush.page_rows import TASKS, results_of
from experiments.kim_rush.page_tables import main_table, rates_table
from tests.experiments.page_rows import (
    document,
    everything,
    main_row,
    main_rows,
    pruning_rows,
    rate_rows,
)
from tests.experiments.pages import cells, files_written

from seqdistill.core.errors import DataError

FOUR = ("teacher", "baseline", "word_kd", "seq_kd")


def written(folder: Path, content: dict[str, Any]) -> dict[str, bytes]:
    return files_written(folder, "kim_rush", content, write_page)


def main_table_of(rows: list[dict[str, Any]], task: str = "en-de") -> str:
    found = next(each for each in TASKS if each.name == task)
    return main_table(students_of(results_of(document(rows)), found)[0])


def test_equal_rows_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    content = everything()
    content["rows"] = [
        row
        for row in content["rows"]
        if row["task"] == "g2p" and (row["experiment"] != "main" or row["method"] in FOUR)
    ]
    shuffled = dict(content, rows=random.Random(1).sample(content["rows"], len(content["rows"])))
    first, second = written(tmp_path / "a", content), written(tmp_path / "b", shuffled)
    assert first == second
    assert set(first) == {"kim_rush.md", *(f"kim_rush/g2p_{plot}.svg" for plot in PLOTS)}
    for name, image in first.items():
        if name.endswith(".svg"):
            assert b"<dc:date>" not in image and b"<svg" in image


def test_every_plot_on_the_page_exists_and_none_is_left_from_before(tmp_path: Path) -> None:
    old = tmp_path / "kim_rush" / "g2p_stale.svg"
    old.parent.mkdir()
    old.touch()
    files = written(tmp_path, document(main_rows(methods=("teacher", "baseline"), seeds=(1,))))
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", files["kim_rush.md"].decode())
    assert shown and set(shown) == set(files) - {"kim_rush.md"}


def test_a_page_without_rows_says_of_everything_that_it_is_not_measured(tmp_path: Path) -> None:
    files = written(tmp_path, {"rows": []})
    page = files.pop("kim_rush.md").decode()
    assert not files
    sections = page.split("\n## ")[2:-1]
    assert len(sections) == 8 and all("Not measured yet." in section for section in sections)


def test_the_page_tells_follow_ups_by_their_question() -> None:
    rows = [
        row | {"experiment": "follow_up", "question": "More data?", "variant": "half"}
        for row in main_rows(methods=("baseline", "seq_kd"), seeds=(1, 2))
    ]
    page = rendered(results_of(document(rows)), {})
    section = page.split("## Follow-up experiments")[1]
    assert "### en-de: More data?" in section
    line = next(line for line in section.splitlines() if "| Seq-KD | half |" in line)
    assert "+4.2" in line and line.rstrip(" |").endswith("2")


def test_a_claim_is_looked_into_with_students_trained_otherwise() -> None:
    methods = ("teacher", "teacher+seq_inter", "baseline", "seq_kd")
    rows = main_rows(methods=methods, seeds=(1,))
    longer = [
        {**row, "experiment": "follow_up", "question": "Too short?", "variant": "4x_updates"}
        for row in rows
        if row["method"] in ("baseline", "seq_kd")
    ]
    longer[-1]["mode_share"] *= 0.5
    page = rendered(results_of(document(rows + longer)), {})
    fourth = page.split("### 4. ")[1].split("### 5. ")[0]
    head, _, figures, *_ = fourth.split("otherwise:")[1].strip().splitlines()
    assert "en-de 128×2+2, 4× updates" in head
    assert figures.count("×") == 1
    sixth = page.split("### 6. ")[1].split("### 7. ")[0]
    assert "otherwise" not in sixth, "nothing of the teacher was varied"


def test_a_follow_up_of_pruning_stands_beside_the_student_pruned_as_much() -> None:
    pruned = pruning_rows("en-de", "128x2+2", seeds=(1,))
    asked = next(row for row in pruned if row["pruned_share"] == 0.8)
    longer = {
        "experiment": "follow_up",
        "question": "Too short?",
        "variant": "longer",
        "compared_with": asked["method"],
    }
    page = rendered(results_of(document([*pruned, asked | longer])), {})
    lines = page.split("### en-de: Too short?")[1].strip().splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["longer", "–"]


def test_a_missing_number_is_an_en_dash() -> None:
    bare = {
        key: main_row("en-de", "128x2+2", "baseline", 1)[key]
        for key in ("task", "experiment", "size", "method", "seed", "bleu_beam")
    }
    line = cells(main_table_of([bare]), "Baseline")
    assert line == ["–", "17.6", *("–",) * 6, "1 seed, no interval"]


def test_every_score_of_the_main_table_has_its_interval() -> None:
    line = cells(main_table_of(main_rows(seeds=(3,))), "Word-KD")
    assert line[4:6] == ["45.4\u00a0[45.2,\u00a045.6]", "47.7\u00a0[47.5,\u00a047.9]"]


def test_one_seed_shows_the_test_sets_interval_and_several_their_own() -> None:
    one = cells(main_table_of(main_rows(seeds=(3,))), "Word-KD")
    assert one[0] == "15.4\u00a0[15.3,\u00a015.5]" and one[-1] == "1 seed, test set"
    three = cells(main_table_of(main_rows()), "Word-KD")
    assert "±" in three[0] and three[-1] == "3 seeds"


@pytest.mark.parametrize("task", ["g2p", "en-de"])
def test_a_gain_is_positive_when_better_and_pairs_the_seeds(task: str) -> None:
    # Seeds move every system alike, so that the paired difference is the same for each seed.
    line = cells(main_table_of(main_rows(task), task), "Seq-KD")
    assert line[2:4] == ["+4.2\u00a0±\u00a00.0", "+1.4\u00a0±\u00a00.0"]


def test_a_gain_uses_only_seeds_of_both() -> None:
    rows = main_rows(methods=("baseline",), seeds=(1,)) + main_rows(methods=("seq_kd",))
    line = cells(main_table_of(rows), "Seq-KD")
    assert line[0].startswith("18.9\u00a0±")
    assert line[2].startswith("+4.2\u00a0[")  # of one seed


def test_int8_rows_do_not_enter_the_main_table() -> None:
    rows = main_rows(methods=("baseline",))
    copies = [row | {"engine": "ctranslate2 int8", "bleu_greedy": 0.0} for row in rows]
    assert main_table_of(rows + copies) == main_table_of(rows)


def test_the_rates_table_marks_the_rate_in_use_and_says_when_another_was_better() -> None:
    rows = main_rows("g2p", sizes=("64x2+2",)) + rate_rows("g2p", "64x2+2")
    table = rates_table(results_of(document(rows)), TASKS[0])
    baseline, seq_kd = (
        next(li for li in table.splitlines() if f"| {m} |" in li) for m in ("Baseline", "Seq-KD")
    )
    assert "| **39.00** |" in baseline and "the best on dev is 0.001" in baseline
    assert "| **35.00** |" in seq_kd and "dev" not in seq_kd


def test_a_cell_told_twice_is_refused() -> None:
    row = main_row("en-de", "128x2+2", "baseline", 1)
    with pytest.raises(DataError, match="stands twice: task en-de"):
        results_of(document([row, row | {"bleu_beam": 99.0}]))


def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "kim_rush.json"
    for content in ("not json", "[]", "{}"):
        source.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="run the experiment"):
            write_page(source)
    assert [path.name for path in tmp_path.iterdir()] == ["kim_rush.json"]


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_in_order_and_no_closer_than_the_gap(seed: int) -> None:
    generator = random.Random(seed)
    positions = [generator.random() for _ in range(8)]
    moved = spread(positions, 0.1)
    order = sorted(range(8), key=lambda index: positions[index])
    steps = [moved[after] - moved[before] for before, after in itertools.pairwise(order)]
    assert min(steps) >= 0.1 - 1e-9
    assert spread([0.1, 0.9, 0.5], 0.1) == [0.1, 0.9, 0.5]
