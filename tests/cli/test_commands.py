"""The commands hand on what was asked for and say where the result is; others do the work."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.report.made import COMPARED, write_run
from tests.snapshots import assert_as_kept

from seqdistill.assembly.pass_rates import PassRates
from seqdistill.core.progress import Progress
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.results import Results
from seqdistill.records.run_directory import Resume, RunDirectory

from .conftest import Program, files_in


@dataclasses.dataclass
class Calls:
    """What the stand-ins were asked to do."""

    recipes: list[Recipe] = dataclasses.field(default_factory=list)
    evaluated: list[tuple[Path, tuple[str, ...], bool]] = dataclasses.field(default_factory=list)
    resumed: list[Resume] = dataclasses.field(default_factory=list)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for the jobs, which would import torch and take minutes."""
    made = Calls()

    def train(recipe: Recipe, *, progress: Progress, resume: Resume) -> RunDirectory:
        made.recipes.append(recipe)
        made.resumed.append(resume)
        progress.start("training", 2)
        progress.advance(2, "loss 3.214")
        progress.finish()
        folder = output_folder(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        for name in recipe.compare:
            write_run(folder / name)
        return RunDirectory(folder)

    def run_recipe(recipe: Recipe, *, progress: Progress, resume: Resume) -> RunDirectory:
        made.recipes.append(recipe)
        made.resumed.append(resume)
        return RunDirectory(write_run(Path("runs/measured")))

    def label_data(recipe: Recipe, *, progress: Progress, workers: None) -> Path:
        made.recipes.append(recipe)
        return Path("runs/teacher-corpora/0123")

    def score_pass_rates(
        recipe: Recipe, wanted: PassRates, output: Path, *, progress: Progress, workers: None
    ) -> str:
        made.recipes.append(recipe)
        return f"of {wanted.num_rollouts} rollouts by the {wanted.model}"

    def score_teacher(recipe: Recipe, *, progress: Progress, workers: None) -> Path:
        made.recipes.append(recipe)
        return Path(recipe.teacher.kept_scores or "runs/teacher-scores/0123")

    def evaluate_run(
        run: RunDirectory,
        overrides: Sequence[str],
        *,
        progress: Progress,
        trust_remote_code: bool,
    ) -> Results:
        made.evaluated.append((run.path, tuple(overrides), trust_remote_code))
        return COMPARED

    def plan(recipe: Recipe) -> SimpleNamespace:
        made.recipes.append(recipe)
        lines = [("train examples", "12"), ("updates", "300")]
        return SimpleNamespace(lines=lambda: lines)

    def bench(recipe: Recipe, *, progress: Progress) -> SimpleNamespace:
        made.recipes.append(recipe)
        spread = SimpleNamespace(median=1.25, low=1.125, high=2.5)
        rows = [
            SimpleNamespace(
                **dict(zip(("name", "against", "unit", "rounds"), row, strict=True)),
                **dict.fromkeys(("ours", "theirs", "ratio"), spread),
            )
            for row in (
                ("supervised step", "transformers", "s", 3),
                ("student sampling", "generate, 32 at once", "tokens/s", 3),
                ("loss: peak memory", "materialized logits", "bytes", 1),
            )
        ]
        missing = {"distillation": "the recipe names no teacher.model"}
        return SimpleNamespace(
            comparisons=rows, not_measured=missing, to_json=lambda: {"rows": len(rows)}
        )

    stand_ins: dict[str, dict[str, Callable[..., object]]] = {
        "train": {"train": train},
        "distill": {"run_recipe": run_recipe},
        "label": {"label_data": label_data, "check_labels": lambda _folder: None},
        "score": {
            "score_pass_rates": score_pass_rates,
            "plan_pass_rates": lambda *_: [],
            "score_teacher": score_teacher,
            "plan_teacher_scores": lambda *_: [],
        },
        "evaluate": {"evaluate_run": evaluate_run},
        "plan": {"plan": plan},
        "bench": {"bench": bench},
    }
    for name, functions in stand_ins.items():
        monkeypatch.setitem(sys.modules, f"seqdistill.jobs.{name}", SimpleNamespace(**functions))
    return made


def test_what_every_command_says(
    program: Program, recipe_file: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["seqdistill"])
    Path("big").mkdir()
    write_run(Path("runs/x"))
    said = []
    for line in (
        "train recipe.yaml --dry-run",
        "train recipe.yaml",
        "demo",
        "train demo",
        "label seq_kd teacher.model=big data.train=t.tsv",
        "score paced --pass-rate --rollouts 4 student.model=small data.train=t.tsv "
        "objective.reward.function=rouge_l -o rated.jsonl",
        "score word_kd --teacher-scores teacher.model=big teacher.scores=top_k "
        "student.model=small data.train=t.tsv -o kept",
        "evaluate runs/x",
        "report runs/x",
        "bench data.max_train_examples=9 -o bench.json",
        "recipe check recipe.yaml max_steps=500",
    ):
        answer = program(*line.split())
        assert answer.exit_code == 0, (line, answer.stderr)
        said.append(f"$ seqdistill {line}\n{answer.stdout}")
    assert_as_kept("\n".join(said), Path(__file__).with_name("screens.txt"))
    assert json.loads(Path("bench.json").read_text("utf-8")) == {"rows": 3}
    assert calls.recipes[-1].method == "demo", "where no recipe is named"


def test_kept_scores_are_no_teacher_where_the_student_is_cut_out_of_it(
    program: Program, recipe_file: str, calls: Calls
) -> None:
    Path("big").mkdir()
    line = "score word_kd --teacher-scores teacher.model=big teacher.scores=top_k data.train=t.tsv"
    for student, said in (("student.model=small", True), ("student.init=teacher_layers", False)):
        answer = program(*line.split(), student, "-o", "kept")
        assert answer.exit_code == 0, answer.stderr
        assert ("teacher.model may be left out" in " ".join(answer.stdout.split())) is said


def test_train_hands_on_its_settings_and_quotes_paths(
    program: Program, recipe_file: str, calls: Calls
) -> None:
    answer = program(
        "train", recipe_file, "learning_rate=3e-4", "training.steps=700", "--seed", "5",
        "--output_dir", "my runs/{seed}",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.stderr
    (recipe,) = calls.recipes
    assert (recipe.training.learning_rate, recipe.training.steps) == (3e-4, 700)
    assert (recipe.seed, recipe.output_dir) == (5, "my runs/{seed}")
    assert calls.resumed == [False]
    assert "seqdistill evaluate 'my runs/5'" in answer.stdout


def test_dry_run_writes_nothing_and_resume_goes_into_a_full_folder(
    program: Program, recipe_file: str, calls: Calls
) -> None:
    before = files_in(Path())
    for words in (("train", "recipe.yaml", "--dry_run"), ("demo", "--dry-run")):
        assert program(*words, "training.steps=300").exit_code == 0
    assert files_in(Path()) == before
    assert calls.recipes[0].training.steps == 300
    Path("runs/baseline").mkdir(parents=True)
    Path("runs/baseline/recipe.yaml").touch()
    for word in ("--resume", "--resume-whole"):
        assert program("train", recipe_file, word).exit_code == 0
    assert calls.resumed == [True, "latest-whole"]


def test_evaluate_hands_on_settings_and_trust(program: Program, calls: Calls) -> None:
    write_run(Path("runs/x"))
    answer = program("evaluate", "runs/x", "data.test=b.tsv", "--trust-remote-code")
    assert answer.exit_code == 0, answer.stderr
    assert calls.evaluated == [(Path("runs/x"), ("data.test=b.tsv",), True)]


def test_report_writes_the_page_where_it_is_told(program: Program) -> None:
    run = write_run(Path("runs/x"))
    assert program("report", "runs/x", "--output", "page.html").exit_code == 0
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (run / "report.html").exists()
