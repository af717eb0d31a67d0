"""A sweep of tiny models: chosen on dev, measured once, killed and resumed to the same rows."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from tests.jobs.runs import save_pairs
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import Progress
from seqdistill.jobs import cells
from seqdistill.jobs.cells import Cell, recipe_hash
from seqdistill.jobs.sweep import planned_cells, run_sweep
from seqdistill.jobs.train import train
from seqdistill.metrics.repetitions import t_interval, t_quantile
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sweep_schema import Sweep, read_sweep
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_facts, read_rows, write_rows

SHARED = """
settings:
  data: {train: train.tsv, dev: dev.tsv, test: test.tsv}
  teacher.model: teacher
  student.model: small
  training: {steps: 2, batch_tokens: 200, warmup_steps: 1, eval_every: 1, threads: 1, device: cpu,
             trackers: []}
  evaluation: {bootstrap_resamples: 20, max_new_tokens: 8, metrics: [chrf], engine: transformers}
"""
FILE = f"""
output_dir: runs
methods: [baseline, word_kd]
choose: {{training.learning_rate: [1e-3, 3e-2]}}
seeds: [1, 2]
{SHARED}"""

WITH_START = f"""
output_dir: runs
start: {{recipe: baseline, settings: {{training: {{steps: 3}}}}}}
methods:
  word_kd: word_kd
  chain:
    - {{recipe: word_kd, settings: {{training.learning_rate: 1e-3}}}}
    - {{recipe: on_policy_kd, settings: {{sequences.rollouts.max_new_tokens: 8}}}}
choose: {{training.learning_rate: [1e-3, 3e-2]}}
seeds: [1, 2]
{SHARED}  evaluation.sampling_temperatures: [1.0]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data and models; cells run in this process, since a fresh one would mostly import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "pool_of", lambda jobs, threads=None: ThreadPoolExecutor(jobs))
    return tmp_path


def files(place: Path) -> None:
    for seed, name in enumerate(("teacher", "small")):
        tiny_model("marian", seed=seed).save_pretrained(place / name)
        character_tokenizer().save_pretrained(place / name)
    for name, count in (("train", 20), ("dev", 4), ("test", 5)):
        save_pairs(place / f"{name}.tsv", count, seed=count)


def sweep_of(text: str = FILE) -> Sweep:
    Path("sweep.yaml").write_text(text, encoding="utf-8")
    return read_sweep(Path("sweep.yaml"))


def numbers(path: Path) -> list[dict[str, Any]]:
    """The rows without what differs from day to day."""
    rows = [row for row in read_rows(path) if "per_second" not in str(row.get("metric"))]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_what_dev_chose_is_measured_with_every_seed_and_compared(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(place)
    whole = run_sweep(sweep_of())
    rows = read_rows(whole.rows)
    assert not whole.failed
    for method in ("baseline", "word_kd"):
        own = [row for row in rows if row["method"] == method]
        pilots = {r["training.learning_rate"]: r["worth"] for r in own if r["split"] == "dev"}
        tested = [row for row in own if row["split"] == "test"]
        assert set(pilots) == {1e-3, 3e-2}
        best = max(pilots, key=lambda rate: pilots[rate])
        assert {row["training.learning_rate"] for row in tested} == {best}
        assert {row["seed"] for row in tested} == {1, 2}
        assert {row["system"] for row in tested} == {"teacher", "student"}
    value = {
        (row["method"], row["seed"]): row["value"]
        for row in rows
        if row.get("metric") == "chrf_greedy" and row["system"] == "student"
    }
    gains = [value["word_kd", seed] - value["baseline", seed] for seed in (1, 2)]
    compared = [
        row
        for row in read_rows(place / "runs" / "differences.parquet")
        if "greedy" in row["metric"]
    ]
    assert [row["gain"] for row in compared] == pytest.approx([*gains, sum(gains) / 2])
    assert (compared[2]["low"], compared[2]["high"]) == pytest.approx(t_interval(gains))
    assert "word_kd" in whole.page.read_text("utf-8")

    # Stopped after three cells, and gone on with: the same rows, and nothing is trained twice.
    before = numbers(whole.rows)
    whole.rows.unlink()
    for folder in sorted((place / "runs" / "cells").iterdir())[::2]:
        folder.rename(place / folder.name)
    trained: list[str] = []

    def noting(recipe: Recipe, *, progress: Progress, resume: bool, until: None) -> RunDirectory:
        trained.append(recipe.output_dir)
        return train(recipe, progress=progress, resume=resume)

    monkeypatch.setattr(cells, "train", noting)
    assert numbers(run_sweep(sweep_of()).rows) == before
    assert len(trained) == len(set(trained)) == 3
    again = run_sweep(sweep_of())
    assert len(trained) == 3 and numbers(again.rows) == before


def test_methods_go_on_from_one_start_of_their_seed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(place)
    trained: list[str] = []

    def noting(recipe: Recipe, *, progress: Progress, resume: bool, until: None) -> RunDirectory:
        trained.append(recipe.output_dir)
        return train(recipe, progress=progress, resume=resume)

    monkeypatch.setattr(cells, "train", noting)
    sweep = sweep_of(WITH_START)
    done = run_sweep(sweep)
    assert not done.failed and len(trained) == len(set(trained))
    planned = planned_cells(sweep)
    first, second = (
        planned[f"{name}, training.learning_rate=0.001, seed 1"] for name in ("word_kd", "chain")
    )
    assert second.recipes[:-1] == first.recipes, "what is trained alike is trained once"
    for seed in (1, 2):
        start = planned[f"start, seed {seed}"]
        assert start.recipes[0].training.steps == 3 and start.recipes[0].training.threads == 1
        for cell in planned.values():
            if cell.facts["method"] != "start" and cell.facts["seed"] == seed:
                assert cell.recipes[0] == start.recipes[0]
                assert cell.recipes[1].student.init == "pretrained"
                assert cell.recipes[1].student.model == str(start.run.student_path)
    rows = [row for row in read_rows(done.rows) if row.get("system") == "student"]
    value = {
        (row["method"], row["seed"], row["metric"]): row["value"]
        for row in rows
        if row["split"] == "test"
    }
    compared = read_rows(place / "runs" / "differences.parquet")
    assert {(row["method"], row["baseline"]) for row in compared} == {
        ("word_kd", "start"),
        ("chain", "start"),
        ("chain", "word_kd"),
    }
    for row in compared:
        own, base = (
            [value[name, seed, row["metric"]] for seed in (1, 2)]
            for name in (row["method"], row["baseline"])
        )
        gains = [a - b for a, b in zip(own, base, strict=True)]
        if row["num_seeds"] == 1:
            assert row["gain"] == pytest.approx(gains[row["seed"] - 1])
        else:
            assert (row["low"], row["high"]) == pytest.approx(t_interval(gains))
    metrics = ["chrf_greedy", "chrf_beam", "chrf_sample_t1"]
    assert list(dict.fromkeys(row["metric"] for row in compared)) == metrics
    page = done.page.read_text("utf-8")
    assert "gain over start" in page and "a better value may lie beyond" in page


def test_cells_side_by_side_train_what_they_share_once(place: Path) -> None:
    shared, one, other = (Recipe(output_dir=name) for name in ("shared", "one", "other"))
    chains = {"start": (shared,), "a": (shared, one), "b": (shared, one, other), "c": (shared, one)}
    planned = [Cell(name, name, recipes, {}) for name, recipes in chains.items()]
    trained: list[str] = []
    done: list[str] = []

    def measure(cell: Cell) -> list[Row]:
        (lock := cell.run.path.with_suffix(".lock")).touch(exist_ok=False)
        for run in (RunDirectory(recipe.output_dir) for recipe in cell.recipes):
            if not run.is_finished:
                trained.append(run.path.name)
                run.student_path.mkdir(parents=True)
                time.sleep(0.05)
                run.update_manifest({"finished": True})
        lock.unlink()
        return []

    failed = cells.run_cells(
        lambda: [cell for cell in planned if cell.name not in done],
        measure,
        lambda cell, _rows: done.append(cell.name),
        jobs=3,
    )
    assert not failed and sorted(done) == sorted(chains)
    assert trained == ["shared", "one", "other"]


def test_a_cell_that_fails_is_noted_and_the_others_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(place)

    def failing(recipe: Recipe, *, progress: Progress, resume: bool, until: None) -> RunDirectory:
        if recipe.method == "word_kd":
            raise RuntimeError("out of memory")
        return train(recipe, progress=progress, resume=resume)

    monkeypatch.setattr(cells, "train", failing)
    text = FILE.replace("choose:", "grid:").replace("[1, 2]", "[1]").replace("1e-3, ", "")
    found = run_sweep(sweep_of(text))
    assert [name.partition(",")[0] for name in found.failed] == ["word_kd"]
    errors = {row["method"]: row["error"] for row in read_rows(found.rows) if "error" in row}
    assert errors == {"word_kd": "out of memory"}
    assert "out of memory" in found.page.read_text("utf-8")
    monkeypatch.setattr(cells, "train", train)
    assert not run_sweep(sweep_of(text)).failed
    assert not [row for row in read_rows(found.rows) if "error" in row]


def test_a_recipe_is_the_same_in_another_process() -> None:
    for preset in preset_names():
        recipe = read_recipe(preset, ["training.steps=7"])
        other = pickle.loads(pickle.dumps(recipe))
        assert other == recipe and recipe_hash(other) == recipe_hash(recipe)


def test_the_hash_is_of_what_is_set_wherever_it_is_written(place: Path) -> None:
    files(place)
    student = ["student.model=small", "data.dev=dev.tsv"]
    first = load_recipe("baseline", ["data.train=train.tsv", "output_dir=a", *student])
    assert recipe_hash(first) == recipe_hash(first.model_copy(update={"output_dir": "b"}))
    assert recipe_hash(first) != recipe_hash(
        load_recipe("baseline", ["data.train=test.tsv", *student])
    )
    assert recipe_hash(first) != recipe_hash(first, "teacher")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("methods: [baseline]", "output_dir"),
        ("output_dir: a\nmethods: []", "methods"),
        ("output_dir: a\nmethods: [x]\nsed: 1", "seeds"),
        ("output_dir: a\nmethods: [x]\nbaseline: y", "baseline"),
        ("output_dir: a\nmethods: {start: x}", "start"),
        ("output_dir: a\nmethods: {x: []}", "methods"),
        (
            "output_dir: a\nmethods: {x: {recipe: y, settings: {student.init: scratch}}}\nstart: z",
            "student.init must be left out",
        ),
        (
            "output_dir: a\nmethods: {x: [y, {recipe: z, settings: {student: {model: a}}}]}",
            "student.model must be left out",
        ),
        (
            "output_dir: a\nmethods: [x]\nstart: y\nchoose: {model_name_or_path: [a]}",
            "student.model must be left out",
        ),
        ("output_dir: a\nmethods: [x]\nseeds: [1, 1]", "seeds"),
        ("output_dir: a\nmethods: [x]\ngrid: {seed: [1]}", "seed"),
        ("output_dir: a\nmethods: [x]\ngrid: {a: [1]}\ncells: [{a: 1}]", "cells"),
        ("output_dir: a\nmethods: [x]\ngrid: {a: [1]}\nchoose: {a: [1]}", "two places"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_key(text: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        sweep_of(text)


def test_each_seed_may_have_a_teacher_of_its_own(place: Path) -> None:
    files(place)
    for seed in (1, 2):
        (place / f"teacher-{seed}").symlink_to("teacher")
    planned = planned_cells(sweep_of(FILE.replace("model: teacher", 'model: "teacher-{seed}"')))
    teachers = {(cell.facts["seed"], cell.recipes[-1].teacher.model) for cell in planned.values()}
    assert teachers == {(1, "teacher-1"), (2, "teacher-2")}


def test_every_cell_is_checked_before_anything_runs(place: Path) -> None:
    files(place)
    with pytest.raises(RecipeError, match=r"learning_rate"):
        planned_cells(sweep_of(FILE.replace("3e-2", "-1")))
    assert not (place / "runs").exists()


def test_what_is_compared_is_judged_by_one_metric(place: Path) -> None:
    files(place)
    text = FILE.replace("[baseline, word_kd]", "{a: baseline, b: {recipe: baseline, settings: {}}}")
    text = text.replace("settings: {}", "settings: {evaluation.metrics: bleu}")
    with pytest.raises(RecipeError, match=r"^b.*: evaluation\.metrics must begin with one metric"):
        planned_cells(sweep_of(text))


def test_t_quantiles_are_those_of_scipy() -> None:
    for degrees in (1, 2, 3, 4, 7, 30):
        assert t_quantile(degrees, 0.95) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_rows_come_back_as_they_were_and_mixed_columns_as_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"a": 1, "b": [1.5]}, {"a": 2.5}, {"c": "x"}, {"c": {"k": 1}}], {"f": 1})
    assert read_rows(path) == [{"a": 1, "b": [1.5]}, {"a": 2.5}, {"c": "x"}, {"c": '{"k": 1}'}]
    assert read_facts(path) == {"f": 1} and read_rows(tmp_path / "none") == []
