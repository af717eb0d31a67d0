"""Presets, files, HF names and overrides come to one recipe; every mistake is told at once."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.recipe import load_recipe, read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.schema_errors import ALIASES, AMBIGUOUS, all_keys

Completion = Callable[[str], str]
MINIMAL = "data: {train: a.tsv}\nstudent: {model: small}\nteacher: {model: large}\n"


@pytest.fixture
def written(tmp_path: pathlib.Path) -> Completion:
    """A function that writes a recipe file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refusal(name_or_path: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name_or_path, overrides)
    return str(caught.value)


def test_a_file_inherits_from_its_preset_and_overrides_win(written: Completion) -> None:
    path = written("preset: word_kd\ntraining: {steps: 700, threads: 2}\nseed: 3\n" + MINIMAL)
    recipe = load_recipe(path, ["training.steps=200", "seed=4", "seed=5"])
    assert recipe.objective == read_recipe("word_kd").objective
    assert recipe.teacher.scores == "dense" and recipe.teacher.model == "large"
    assert (recipe.training.steps, recipe.training.threads, recipe.seed) == (200, 2, 5)
    assert recipe.preset == recipe.method == "word_kd"
    other = load_recipe(path, ["preset=seq_kd"])
    assert (other.method, other.preset, other.teacher.scores) == ("seq_kd", "seq_kd", "none")
    empty = written("training:\n  # steps: 5\n" + MINIMAL)
    assert load_recipe(empty, []).training == Recipe().training, "nothing in it is nothing given"


def test_names_of_other_trainers_set_the_same_settings(written: Completion) -> None:
    assert {path[:2] if "terms" in path else path for path in ALIASES.values()} <= set(all_keys())
    assert not (set(ALIASES) | set(AMBIGUOUS)) & set(Recipe.model_fields)
    given = ["student_model_name_or_path=small", "teacher_model_name_or_path=large", "lmbda=0.25"]
    given += ["dataset_name=a.tsv", "learning_rate=1e-3", "sequences.origin=mixture"]
    recipe = load_recipe("word_kd", [*given, "objective.terms=[{divergence: forward_kl}]"])
    assert (recipe.student.model, recipe.teacher.model) == ("small", "large")
    assert (recipe.data.train, recipe.training.learning_rate) == ("a.tsv", 1e-3)
    share = recipe.sequences.mixture.student_fraction
    assert share is not None and share.ends == (0.25,)
    path = written("model_name_or_path: small\nlearning_rate: 1e-3\ndata: {train: a.tsv}\n")
    recipe = load_recipe(path)
    assert (recipe.student.model, recipe.training.learning_rate) == ("small", 1e-3)
    term = "{divergence: jensen_shannon, beta: 0.5}"
    path = written(f"objective: {{terms: [{term}]}}\nteacher: {{scores: dense}}\n")
    assert read_recipe(path, ["beta=0.1"]).objective.terms[0].model_dump()["beta"] == 0.1
    path = written("learning_rate: 1e-3\ntraining: {learning_rate: 1e-4}\n" + MINIMAL)
    found = refusal(path)
    assert "my.yaml, line 1: learning_rate must not stand beside training.learning_rate" in found
    assert "my.yaml, line 2" in found
    for name, told in AMBIGUOUS.items():
        assert told in refusal("word_kd", f"{name}=1")


def refused() -> list[tuple[str, str, list[str]]]:
    """Preset with what is given, override and sentences, of each line in `refusals.txt`."""
    found, preset = [], ""
    for line in pathlib.Path(__file__).with_name("refusals.txt").read_text().splitlines():
        override, _, parts = line.strip().partition(" => ")
        if line.startswith("  "):
            found.append((preset, override, parts.split(" | ")))
        elif not line.startswith("#"):
            preset = line
    return found


@pytest.mark.parametrize(("preset", "override", "parts"), refused(), ids=lambda value: str(value))
def test_a_wrong_override_is_refused_with_key_finding_and_remedy(
    preset: str, override: str, parts: list[str]
) -> None:
    name, *given = preset.split()
    found = refusal(name.strip("[]"), *given, override)
    assert [part for part in parts if part not in found] == []
    if name[0] != "[":
        assert f"override {override}" in found or override.startswith("preset")
        assert "errors:" not in found, "one mistake was reported as several"


@pytest.mark.parametrize(
    "override",
    [
        "teacher.server.url=http://me:s3cr@t@host",
        "teacher.server={url: ['http://a:1', 'https://me:s3cr@t@host']}",
        "teacher.server={url: 'http://a:1', api_key: sk-s3cr@t, api: chat}",
        "teacher.server.api_key=sk-s3cr@t",
        "teacher.server.url:http://me:s3cr@t@host",
    ],
)
def test_no_message_repeats_a_password_or_a_key(override: str) -> None:
    with pytest.raises(RecipeError, match=r"override teacher\.server.*\*\*\*") as caught:
        load_recipe("word_kd", [override])
    assert "s3cr" not in str(caught.value) and "@t" not in str(caught.value)


def test_all_mistakes_of_a_file_are_reported_with_their_lines(written: Completion) -> None:
    path = written(
        "seed: -1\ndata:\n  trian: a.tsv\ntraining:\n  steps: many\n  steps: 5\n  precision: fp8\n"
    )
    found = refusal(path, "learning_rate=0")
    assert "the recipe has 6 errors:" in found
    for place, told in (
        ("my.yaml, line 1", "seed"),
        ("my.yaml, line 3", "data.trian"),
        ("my.yaml, line 5", "training.steps"),
        ("my.yaml, line 6", "a key must stand once, got training.steps"),
        ("my.yaml, line 7", "training.precision must be 'auto', 'fp32' or 'bf16', got 'fp8'"),
        ("override learning_rate=0", "training.learning_rate must be greater than 0"),
    ):
        assert f"{place}: {told}" in found
    found = refusal(written("training:\n  steps: 5\n  warmup_steps: 9\n  patience: 2\n"))
    assert "the recipe has 4 errors:" in found
    assert "my.yaml, line 3: training.warmup_steps must be at most" in found
    assert "my.yaml, line 4: training.patience must be left out unless training.eval" in found
    assert "data.train must name" in found and "student.model must be given" in found


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: pathlib.Path) -> None:
    found = refusal(str(tmp_path / "none.yaml"))
    assert "none.yaml" in found and "word_kd" in found and "readable YAML file" in found
    assert "Did you mean 'word_kd'?" in refusal("wordkd")
    path = tmp_path / "latin.yaml"
    path.write_bytes("seed: 1\n# grün\n".encode("latin-1"))
    assert "latin.yaml, line 2: a recipe must be UTF-8" in refusal(str(path))
    assert str(tmp_path) in refusal(str(tmp_path))


def test_recipes_and_records_start_without_torch_transformers_and_pyarrow() -> None:
    script = (
        "import sys, time\n"
        "import seqdistill.recipe\n"
        "import seqdistill.records.run_directory, seqdistill.records.environment\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'numpy') if m in sys.modules])\n"
        "print(time.process_time())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy, seconds = done.stdout.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 2.0, "CPU seconds of interpreter and imports, measured as 0.3"


def test_the_home_folder_is_written_out_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    keys = ["data.dev", "data.test", "teacher.model", "student.model", "output_dir"]
    keys.append("sequences.corpus")
    recipe = load_recipe("seq_kd", ["data.train=~/a.src,~/a.tgt", *(f"{key}=~/x" for key in keys)])
    assert recipe.data.train == "/home/me/a.src,/home/me/a.tgt"
    found = (recipe.data.dev, recipe.data.test, recipe.teacher.model, recipe.student.model)
    assert {*found, recipe.output_dir, recipe.sequences.corpus} == {"/home/me/x"}
