"""Both papers' experiments: pages say what the rows say, plans what was run, and cells run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from corpora.g2p.build import Entry, divide, write
from experiments.estimates import Estimate, difference, estimate, gain, ratio
from experiments.gkd import cells as gkd_cells
from experiments.gkd import page as gkd_page
from experiments.gkd import run as gkd_run
from experiments.gkd import tasks as gkd_tasks
from experiments.kim_rush import cells as kim_rush_cells
from experiments.kim_rush import page as kim_rush_page
from experiments.kim_rush import run as kim_rush_run
from experiments.kim_rush import tasks as kim_rush_tasks
from experiments.running import add_rows, lookup
from experiments.shapes import Settings, Size

from experiments import running
from seqdistill.jobs import cells
from seqdistill.jobs.cells import Cell
from seqdistill.models.loading import load_tokenizer
from seqdistill.models.scratch import configuration, random_model
from seqdistill.records.tables import read_rows

ROOT = Path(__file__).resolve().parents[2]
TINY = Size(8, 1, 1)
PAGES = {"kim_rush": kim_rush_page, "gkd": gkd_page}


def write_tiny_data(data: Path, *, num_dev: int, num_test: int) -> None:
    """Sixty words over eight letters, each letter said by one phone, divided; and a tokenizer."""
    places = [[(number // 8**place) % 8 for place in range(3)] for number in range(60)]
    words = [
        Entry("".join("abcdefgh"[n] for n in word), tuple(f"P{n}" for n in word)) for word in places
    ]
    write(divide(words, num_dev=num_dev, num_test=num_test), data, version="test")


def save_tiny_teacher(folder: Path, size: Size, *, tokenizer: Path) -> None:
    """A nearly uniform teacher of random weights."""
    known = load_tokenizer(str(tokenizer))
    shape = configuration({**size.architecture, "init_std": 0.02}, known)
    random_model(shape, seed=1).save_pretrained(folder)
    known.save_pretrained(folder)


def tiny_settings(settings: Settings, data: Path) -> Mapping[str, object]:
    """`settings` with these data and lengths that suit a few updates."""
    return {
        **settings,
        **{f"data.{split}": str(data / f"{split}.tsv") for split in ("train", "dev", "test")},
        "training.warmup_steps": 1,
        "training.batch_tokens": 100,
        "training.eval_every": 2,
        "training.log_every": 1,
        "data.max_target_tokens": 10,
        "sequences.decoding.max_new_tokens": 10,
        "evaluation.max_new_tokens": 10,
        "evaluation.bootstrap_resamples": 20,
    }


@pytest.mark.parametrize("name", list(PAGES))
def test_the_page_is_what_the_committed_rows_say(name: str, tmp_path: Path) -> None:
    results = ROOT / PAGES[name].RESULTS
    for path in results.parent.glob(f"{name}*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    PAGES[name].write_page(tmp_path / results.name)
    assert (tmp_path / f"{name}.md").read_text("utf-8") == results.with_suffix(".md").read_text(
        "utf-8"
    )
    plots = {path.name for path in (tmp_path / name).iterdir()}
    assert plots == {path.name for path in results.with_suffix("").iterdir()}
    page = (tmp_path / f"{name}.md").read_text("utf-8")
    assert all(f"({name}/{plot})" in page for plot in plots)


@pytest.mark.parametrize(
    ("name", "module", "tasks"),
    [("kim_rush", kim_rush_cells, kim_rush_tasks), ("gkd", gkd_cells, gkd_tasks)],
)
def test_the_plan_is_what_was_run(name: str, module: ModuleType, tasks: ModuleType) -> None:
    rows = read_rows(ROOT / "docs" / "results" / f"{name}.parquet")
    found = lookup(rows, by_name=True)
    for task in tasks.TASKS.values():
        planned = {cell.name: cell for cell in module.plan(task, found)}
        known = {f"{row['task']}/{row['name']}": row for row in rows if row["task"] == task.name}
        assert planned.keys() <= known.keys()
        beside = {key.split("/")[1] for key in known.keys() - planned.keys() if "int8" not in key}
        assert beside <= {"speed", "teacher", "main"}
        for key, cell in planned.items():
            differing = {
                column
                for column, value in cell.facts.items()
                if known[key].get(column) != value and column != "digest"
            }
            assert not differing, key


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of a few words, whose cells train in this process."""
    monkeypatch.setattr(cells, "pool_of", lambda jobs, threads=None: ThreadPoolExecutor(jobs))
    monkeypatch.setattr(running, "RESULTS", tmp_path / "rows.parquet", raising=False)
    data = tmp_path / "tiny" / "data"
    write_tiny_data(data, num_dev=4, num_test=5)
    save_tiny_teacher(tmp_path / "teacher", TINY, tokenizer=data / "tokenizer")
    return tmp_path


def run(
    module: Any, runner: Any, task: Any, wanted: set[str], store: Path
) -> dict[str, dict[str, Any]]:
    """The rows of the wanted experiments, by name; what others choose is made up."""
    made_up: dict[str, Cell] = {}

    def found(cell: Cell) -> dict[str, Any] | None:
        made_up[cell.name] = cell
        return {f"dev_{task.dev_score}": 1.0, "machine": "x"}

    planned = {cell.name: cell for cell in module.plan(task, found)}
    for cell in planned.values():
        if cell.name.removeprefix("tiny/") in wanted:
            add_rows(store, runner.measure(cell))
    runner.finish(task, planned)
    return {row["name"]: row for row in read_rows(store)}


def test_a_chain_of_kim_and_rush_trains_and_is_measured(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kim_rush_tasks, "ROOT", here)
    monkeypatch.setattr(kim_rush_run, "RESULTS", here / "rows.parquet")
    settings = tiny_settings(kim_rush_tasks.G2P.settings, here / "tiny" / "data")
    budget = dataclasses.replace(
        kim_rush_tasks.G2P.budgets["64x2+2"],
        updates=2,
        grid_updates=2,
        fine_tuning_updates=1,
        retraining_updates=1,
    )
    task = dataclasses.replace(
        kim_rush_tasks.G2P,
        name="tiny",
        teacher=str(here / "teacher"),
        settings=dict(settings),
        large=TINY,
        small=Size(4, 1, 1),
        trained_longer=TINY,
        budgets={TINY.name: budget},
        interpolation_examples=8,
        seeds=(1,),
        small_seeds=(),
        curve_sizes=(),
    )
    assert kim_rush_run.prepare(task)["test"] == 5
    pruned = "pruning/8x1+1/seq_kd-prune-seq_inter/seed1/pruned_share0.5"
    wanted = {"main/8x1+1/seq_kd-seq_inter/seed1", "main/8x1+1/baseline/seed1", pruned}
    wanted.add("main/teacher/teacher-seq_inter/seed1")
    rows = run(kim_rush_cells, kim_rush_run, task, wanted, here / "rows.parquet")
    assert rows.keys() >= {*wanted, "main/teacher/teacher", f"{pruned}/int8"}
    # Half of the matrices' weights; in a model this narrow many others are biases and norms.
    assert 0.2 < 1 - rows[pruned]["nonzero"] / rows[pruned]["parameters"] < 0.6
    assert rows[pruned]["bytes_int8_sparse"] < rows[pruned]["bytes_fp16"]
    assert rows["main/8x1+1/seq_kd-seq_inter/seed1"]["updates"] == 3
    assert all(0 <= rows[name]["sequence_error_rate_beam"] <= 100 for name in wanted)
    differences = read_rows(here / "rows_differences.parquet")
    assert {row["other"] for row in differences} >= {"main/teacher/teacher"}


def test_an_on_policy_student_of_gkd_trains_and_is_measured(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gkd_tasks, "ROOT", here)
    monkeypatch.setattr(gkd_run, "RESULTS", here / "rows.parquet")
    data = here / "tiny" / "data"
    settings = {**tiny_settings(gkd_tasks.G2P.settings, data), "evaluation.samples_per_source": 2}
    settings["evaluation.sampling_temperatures"] = [1.0]
    task = dataclasses.replace(
        gkd_tasks.G2P,
        name="tiny",
        teacher=str(here / "teacher"),
        settings=dict(settings),
        teacher_corpus=here / "corpus",
        further_tests={"again": str(data / "dev.tsv")},
        num_train=len((data / "train.tsv").read_text("utf-8").splitlines()) - 1,
        scratch=TINY,
        rollouts={"sequences.rollouts.max_new_tokens": 6},
        budget=gkd_tasks.Budget(2, 1e-2, 2, (1e-3,), 2.0, 0),
        grid="ends",
        seeds=(1,),
        further_seeds=(),
        follow_up_seeds=(),
        later_seeds=(),
    )
    monkeypatch.setitem(gkd_tasks.TASKS, "tiny", task)
    gkd_run.prepare(task)
    wanted = {"initial/initial/seed1", "main/on_policy_kd/seed1", "main/seq_kd/seed1"}
    rows = run(gkd_cells, gkd_run, task, wanted, here / "rows.parquet")
    own, start = rows["main/on_policy_kd/seed1"], rows["initial/initial/seed1"]
    assert own["gain"] == start["value"] - own["value"]  # an error rate
    assert own["value"] == own["sequence_error_rate_greedy"] and own["low"] <= own["high"]
    assert {"self_bleu_sample_t1", "sequence_error_rate_again", "teacher_value"} <= own.keys()
    assert own["last_completion_length"] <= 6.0
    differences = read_rows(here / "rows_differences.parquet")
    assert {row["other"] for row in differences} >= {
        "initial/initial/seed1",
        "teacher/teacher/seed1",
    }


def test_estimates_of_seeds_are_paired_and_of_one_seed_resampled() -> None:
    def runs(method: str, *values: float, **more: Any) -> tuple[dict[str, Any], ...]:
        return tuple({"method": method, "seed": n, "x": v, **more} for n, v in enumerate(values))

    own, base = runs("a", 3.0, 5.0, 7.0), runs("b", 1.0, 4.0, 4.0)
    found = difference(own, "x", base)
    assert found is not None and (found.value, found.n) == (2.0, 3)
    assert found.high == pytest.approx(2.0 + 4.302653 / 3**0.5, rel=1e-5)
    turned = gain(own, "x", base, -1)
    assert turned is not None and turned.value == -2.0
    teacher = runs("teacher", 2.0)
    over = difference(own, "x", teacher)
    assert over is not None and over.value == 3.0 and over.basis == "seeds"
    versus = {("x", "other", "x"): (0.5, 2.5)}
    one = runs("a", 3.0, name="one", versus=versus)
    assert difference(one, "x", runs("b", 1.0, name="other")) == Estimate(
        2.0, 0.5, 2.5, 1, "test set"
    )
    back = difference(runs("b", 1.0, name="other"), "x", one)
    assert back == Estimate(-2.0, -2.5, -0.5, 1, "test set")
    assert estimate((), "x") is None and difference(own, "x", ()) is None
    grown = ratio(runs("a", 2.0, 8.0), "x", runs("b", 1.0, 1.0))
    assert grown is not None and grown.value == pytest.approx(4.0)
