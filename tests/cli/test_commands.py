"""The commands hand on what was asked for and say where the result is; others do the work."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from seqdistill.core.progress import Progress
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.run_directory import RunDirectory

from .conftest import Program, files_in
from .results import write_run


@dataclasses.dataclass
class Calls:
    """What the stand-ins were asked to do."""

    recipes: list[Recipe] = dataclasses.field(default_factory=list)
    overrides: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    resumed: list[bool] = dataclasses.field(default_factory=list)
    evaluated: list[Path] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class StandInPlan:
    """Stands for a plan."""

    def lines(self) -> list[tuple[str, str]]:
        """Two facts."""
        return [("train examples", "12"), ("updates", "300")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for the build package, which would import torch and take minutes."""
    made = Calls()

    def train(recipe: Recipe, *, progress: Progress, resume: bool) -> RunDirectory:
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

    def run_recipe(recipe: Recipe, *, progress: Progress, resume: bool) -> RunDirectory:
        made.recipes.append(recipe)
        made.resumed.append(resume)
        return RunDirectory(write_run(Path("runs/demo")))

    def label_data(recipe: Recipe, *, progress: Progress) -> Path:
        made.recipes.append(recipe)
        return Path("runs/teacher-corpora/0123")

    def evaluate_run(
        run: RunDirectory,
        overrides: Sequence[str],
        *,
        progress: Progress,
        trust_remote_code: bool,
    ) -> dict[str, object]:
        made.evaluated.append(run.path)
        made.overrides.append(tuple(overrides))
        return {}

    def plan(recipe: Recipe) -> StandInPlan:
        made.recipes.append(recipe)
        return StandInPlan()

    for module_name, function in (
        ("running", train),
        ("demo", run_recipe),
        ("labelling", label_data),
        ("evaluation", evaluate_run),
        ("planning", plan),
    ):
        module = ModuleType(f"seqdistill.build.{module_name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    labelling = sys.modules["seqdistill.jobs.label"]
    monkeypatch.setattr(labelling, "check_labels", lambda _folder: None, raising=False)
    return made


def test_train_hands_on_the_recipe_and_names_the_student(
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
    assert "my runs/5/student" in answer.stdout
    assert "seqdistill evaluate 'my runs/5'" in answer.stdout
    assert "training: done, 2 of 2" in answer.stdout
    assert "loss 3.214" in answer.stdout


def test_train_of_a_comparison_names_every_student(program: Program, calls: Calls) -> None:
    answer = program("train", "demo")
    assert answer.exit_code == 0, answer.stderr
    for name in ("baseline", "word_kd", "seq_kd"):
        assert f"runs/demo/{name}/student" in answer.stdout
    assert "seqdistill evaluate runs/demo\n" in answer.stdout


def test_resume_goes_on_in_a_folder_that_is_not_empty(
    program: Program, recipe_file: str, calls: Calls
) -> None:
    Path("runs/baseline").mkdir(parents=True)
    Path("runs/baseline/recipe.yaml").touch()
    answer = program("train", recipe_file, "--resume")
    assert answer.exit_code == 0, answer.stderr
    assert calls.resumed == [True]


@pytest.mark.parametrize("words", [("train", "recipe.yaml"), ("demo",)], ids=" ".join)
@pytest.mark.parametrize("option", ["--dry-run", "--dry_run"])
def test_dry_run_prints_the_plan_and_writes_nothing(
    program: Program,
    recipe_file: str,
    calls: Calls,
    tmp_path: Path,
    words: tuple[str, ...],
    option: str,
) -> None:
    before = files_in(tmp_path)
    answer = program(*words, option, "training.steps=300")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout == "train examples  12\nupdates         300\nNothing was written.\n"
    assert files_in(tmp_path) == before
    assert calls.recipes[0].training.steps == 300


def test_label_says_where_the_corpus_is(program: Program, calls: Calls) -> None:
    Path("t.tsv").touch()
    Path("big").mkdir()
    answer = program("label", "seq_kd", "teacher.model=big", "data.train=t.tsv")
    assert answer.exit_code == 0, answer.stderr
    assert "runs/teacher-corpora/0123" in answer.stdout
    assert calls.recipes[0].teacher.model == "big"


def test_evaluate_shows_the_table_and_the_way_to_the_page(program: Program, calls: Calls) -> None:
    write_run(Path("runs/x"))
    answer = program("evaluate", "runs/x")
    assert answer.exit_code == 0, answer.stderr
    assert calls.evaluated == [Path("runs/x")]
    assert "31.7 [30.6, 32.8]" in answer.stdout
    assert "better than the undistilled student" in answer.stdout
    assert "seqdistill report runs/x\n" in answer.stdout


def test_report_writes_the_page_into_the_run_or_where_it_is_told(program: Program) -> None:
    run = write_run(Path("runs/x"))
    assert program("report", "runs/x").stdout == "report  runs/x/report.html\n"
    page = (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").unlink()
    answer = program("report", "runs/x", "--output", "page.html")
    assert answer.exit_code == 0, answer.stderr
    assert Path("page.html").read_text(encoding="utf-8") == page
    assert not (run / "report.html").exists()


def test_demo_ends_with_how_to_translate_and_where_things_are(
    program: Program, calls: Calls
) -> None:
    answer = program("demo", "training.steps=33", "--seed", "2", "--resume")
    assert answer.exit_code == 0, answer.stderr
    (recipe,) = calls.recipes
    assert (recipe.training.steps, recipe.seed) == (33, 2)
    assert calls.resumed == [True]
    assert "31.7 [30.6, 32.8]" in answer.stdout
    last = answer.stdout.splitlines()[-5:]
    assert 'seqdistill generate runs/demo/student "' in last[1]
    assert 'from_pretrained("runs/demo/student")' in last[2]
    assert "runs/demo/student-int8" in last[3]
    assert last[4].endswith("runs/demo/report.html")
