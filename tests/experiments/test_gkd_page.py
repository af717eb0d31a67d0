"""The page of the on-policy experiment: whole from any rows, equal bytes from equal rows."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from experiments.gkd.page import rendered, write_page
from experiments.gkd.page_plots import PLOTS
from experiments.gkd.page_rows import METHODS, later_students, method_name, results_of
from experiments.gkd.page_sections import later_start
from experiments.gkd.page_tables import (
    SUMMARIZED,
    data_table,
    grid_table,
    length_table,
    main_table,
    rates_table,
    reward_table,
    sampled_table,
    start_table,
    summary_table,
    time_table,
)
from tests.experiments.gkd_rows import (
    GAINS,
    data_rows,
    document,
    everything,
    follow_up_rows,
    later_rows,
    longer_rows,
    main_rows,
    rate_rows,
    reward_rows,
    students,
    whole_grid,
)
from tests.experiments.pages import cells, files_written

from seqdistill.core.errors import DataError


def written(folder: Path, content: dict[str, Any]) -> dict[str, bytes]:
    return files_written(folder, "gkd", content, write_page)


def test_equal_rows_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    content = everything()
    content["rows"] = [row for row in content["rows"] if row["task"] in ("g2p", "summaries")]
    shuffled = dict(content, rows=random.Random(1).sample(content["rows"], len(content["rows"])))
    first, second = written(tmp_path / "a", content), written(tmp_path / "b", shuffled)
    assert first == second
    plots = {f"gkd/{task}_{plot}.svg" for task in ("g2p",) for plot in PLOTS} - {
        "gkd/g2p_reward.svg"
    }
    assert plots | {"gkd/summaries_reward.svg", "gkd.md"} <= set(first)
    for name, image in first.items():
        if name.endswith(".svg"):
            assert b"<dc:date>" not in image and b"<svg" in image
    shown_plots = re.findall(r"!\[[^]]+\]\(([^)]+)\)", first["gkd.md"].decode())
    assert set(shown_plots) == set(first) - {"gkd.md"}


def test_a_page_without_rows_says_of_everything_that_it_is_not_measured(tmp_path: Path) -> None:
    files = written(tmp_path, {"rows": []})
    page = files.pop("gkd.md").decode()
    assert not files
    sections = page.split("\n## ")[1:]
    assert len(sections) == 12 and all("Not measured yet." in section for section in sections)


@pytest.mark.parametrize("task", ["g2p", "summaries"])
def test_a_page_of_half_the_rows_can_be_written(task: str) -> None:
    rows = main_rows(task, {"seq_kd": 2.0}, seeds=(1,))
    assert "SeqKD" in rendered(results_of(document(rows)), {})
    assert "SeqKD" in rendered(results_of(document(rows[2:])), {})  # neither teacher nor start


@pytest.mark.parametrize("task", ["g2p", "arithmetic"])
def test_a_gain_is_over_the_start_of_the_same_seed_and_positive_is_better(task: str) -> None:
    table = main_table(students(main_rows(task), task))
    line = cells(table, "On-policy KD")
    assert line[1].startswith("+8.0\u00a0±\u00a00.0")
    assert line[2] == "2.0×"  # ImitKD, the best baseline, gained 4
    assert cells(table, "Initial student")[1] == "–"
    assert "**GKD reverse KL, λ 1**" in table


def test_one_seed_shows_the_interval_of_the_test_set_and_the_paired_one_of_a_gain() -> None:
    rows = main_rows("g2p", seeds=(1,))
    for row in rows:
        if row["method"] == "seq_kd":
            key = row["metric"]
            row["versus"] = {"initial/initial/seed1": {f"{key} - {key}": [-4.0, -1.5]}}
    line = cells(main_table(students(rows, "g2p")), "SeqKD")
    assert "[" in line[0] and line[-1] == "1 seed, test set"
    assert line[1].endswith("[1.5,\u00a04.0]")  # an error rate: a fall is a gain


def test_the_summary_has_two_columns_for_each_task_and_a_line_for_each_method() -> None:
    found = [students(whole_grid("g2p"), "g2p"), students(main_rows("summaries"), "summaries")]
    head, _, *lines = summary_table(found).splitlines()
    assert "g2p: WER" in head and "summaries: ROUGE-2" in head and head.count("gain") == 2
    assert len(lines) == 2 + len(SUMMARIZED)
    line = cells(summary_table(found), "On-policy KD")
    assert line[1].startswith("+8.0") and line[3].startswith("+8.0")
    assert cells(summary_table(found), method_name("gkd-jsd_0.9-1"))[2:] == ["–", "–"]


def test_the_grid_has_a_line_for_each_divergence_and_a_column_for_each_share() -> None:
    table = grid_table(students(whole_grid("g2p"), "g2p"))
    assert [cell.split("\u00a0")[0] for cell in cells(table, "JSD(0.1)")] == [
        "+2.0",
        "+5.0",
        "+8.0",
    ]
    assert len(table.splitlines()) == 2 + 5


def test_parts_of_the_inputs_end_with_the_whole() -> None:
    table = data_table(students(main_rows("g2p") + data_rows("g2p"), "g2p"))
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "5\u202f%",
        "25\u202f%",
        "100\u202f%",
    ]


def test_equal_time_compares_with_the_longer_training() -> None:
    table = time_table(students(main_rows("g2p") + longer_rows("g2p"), "g2p"))
    assert cells(table, "SeqKD, longer")[0] == "450"
    assert cells(table, "SeqKD, longer")[-1].startswith("+4.0")
    assert cells(table, "SeqKD")[-1].startswith("+5.0")


def test_longer_training_stands_beside_the_main_tables() -> None:
    rows = main_rows("g2p") + follow_up_rows("g2p", {"imitkd": 4.5, "on_policy_kd": 5.0})
    head, _, *lines = length_table(students(rows, "g2p")).splitlines()
    assert "after 300 updates" in head and "after 1,200 updates" in head and len(lines) == 2
    line = cells(length_table(students(rows, "g2p")), "On-policy KD")
    assert line[1].startswith("+8.0") and line[3].startswith("+5.0")


def test_a_later_start_stands_beside_the_first_with_gains_over_itself() -> None:
    gains = {"imitkd": 4.5, "on_policy_kd": 5.0}
    rows = main_rows("arithmetic") + follow_up_rows("arithmetic", gains)
    rows += later_rows("arithmetic", {"on_policy_kd": 1.5, "gkd-jsd_0.1-1": 2.5})
    table = start_table(students(rows, "arithmetic"))
    head, _, *lines = table.splitlines()
    assert "start of 300 updates" in head and "start of 12,000 updates" in head and len(lines) == 3
    first, _, later, _ = cells(table, "Initial student")
    assert float(later.split()[0]) - float(first.split()[0]) == pytest.approx(20.0)
    assert cells(table, "On-policy KD")[1].startswith("+5.0")
    assert cells(table, "On-policy KD")[3].startswith("+1.5")
    assert cells(table, "GKD JSD(0.1), λ 1")[:2] == ["–", "–"]
    # What is not measured from there is not judged there.
    section = later_start([students(rows, "arithmetic")], {})
    assert "On-policy distillation beats" in section and "equal time" not in section


def test_students_stand_only_beside_others_of_the_same_seeds() -> None:
    later = follow_up_rows("g2p", {"imitkd": 4.5, "on_policy_kd": 5.0})
    further = [row for row in data_rows("g2p") + longer_rows("g2p") + later if row["seed"] == 2]
    rows = students(main_rows("g2p") + further, "g2p")
    only = students(main_rows("g2p", seeds=[2]) + further, "g2p")
    for made in (data_table, time_table, length_table):
        assert made(rows) == made(only)
    assert main_table(rows) != main_table(only)


def test_rewarded_students_are_shown_by_alpha_after_their_start() -> None:
    rows = main_rows("summaries") + reward_rows(
        rouge_l=(40, 38, 36, 34, 32), agreement=(0.5, 0.6, 0.65, 0.7, 0.72)
    )
    table = reward_table(students(rows, "summaries"))
    starts = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert starts == ["initial student", "α 0", "α 0.25", "α 0.5", "α 0.75", "α 1"]
    assert cells(table, "α 0")[0].startswith("40.0") and cells(table, "α 1")[2].startswith("72.0")


def test_the_rate_in_use_is_bold() -> None:
    rows = main_rows("g2p") + rate_rows("g2p")
    table = rates_table(students(rows, "g2p"))
    assert cells(table, "SeqKD") == ["**35.00**", "37.00"]
    rows += rate_rows("g2p", "later_rates") + later_rows("g2p", {"seq_kd": 1.0})
    later = rates_table(later_students(students(rows, "g2p")))
    assert cells(later, "SeqKD") == ["**35.00**", "37.00"]
    assert cells(later, "On-policy KD") == ["35.00", "37.00"]  # chosen, but not measured yet


def test_a_cell_told_twice_is_refused() -> None:
    rows = main_rows("g2p")
    with pytest.raises(DataError, match="stands twice: task g2p"):
        results_of(document([*rows, rows[-1]]))


def test_every_method_has_a_name_of_its_own() -> None:
    names = [method_name(method) for method in METHODS]
    assert len(set(names)) == len(METHODS) == 18 and set(GAINS) <= set(METHODS)
    assert method_name("gkd-jsd_0.1-0.5") == "GKD JSD(0.1), λ 0.5"


def test_starts_are_those_of_the_seeds_that_were_trained() -> None:
    """A mean over other seeds' starts would not be where the students began."""
    rows = main_rows("summaries", seeds=(1,))
    (elsewhere,) = [r for r in main_rows("summaries", seeds=(2,)) if r["experiment"] == "initial"]
    rows.append({**elsewhere, "rouge_2_greedy": 99.0})
    rewarded = reward_rows(rouge_l=[24.0] * 5, agreement=[0.4] * 5)
    rows += [r for r in rewarded if r["seed"] == 2]
    found = students(rows, "summaries")
    assert [r["seed"] for r in found.initial] == [1]
    assert [r["seed"] for r in found.start_of_rewarded] == [2]
    assert len(cells(main_table(found), "Initial student")) > 1
    assert "99.0" not in main_table(found)


def test_the_best_method_is_the_one_that_gains_most_whatever_its_seeds() -> None:
    rows = main_rows("g2p", {"seq_kd": 2.0, "imitkd": 3.0})
    for one in rows:
        # The second seed starts far worse; only SeqKD was run without it.
        if one["seed"] == 2:
            one["sequence_error_rate_greedy"] += 30.0
    some = [r for r in rows if not (r["method"] == "seq_kd" and r["seed"] == 2)]
    assert students(some, "g2p").best(["seq_kd", "imitkd"]) == "imitkd"


def test_temperatures_that_were_not_sampled_have_no_columns() -> None:
    rows = [
        {key: value for key, value in one.items() if "t0.3" not in key} for one in main_rows("g2p")
    ]
    assert "T 0.3" in sampled_table(students(main_rows("g2p"), "g2p"))
    assert "T 0.3" not in sampled_table(students(rows, "g2p"))
    assert "T 1" in sampled_table(students(rows, "g2p"))
