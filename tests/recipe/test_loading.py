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


def test_the_preset_itself_can_be_overridden(written: Completion) -> None:
    path = written("preset: word_kd\n" + MINIMAL)
    recipe = load_recipe(path, ["preset=seq_kd"])
    assert recipe.method == recipe.preset == "seq_kd"
    assert recipe.teacher.scores == "none"


def test_names_of_other_trainers_set_the_same_settings(written: Completion) -> None:
    recipe = load_recipe(
        "word_kd",
        [
            "student_model_name_or_path=small",
            "teacher_model_name_or_path=large",
            "dataset_name=a.tsv",
            "learning_rate=1e-3",
            "max_steps=500",
            "gradient_accumulation_steps=4",
            "lmbda=0.25",
            "sequences.origin=mixture",
            "objective.terms=[{divergence: forward_kl}]",
            "output_dir=out",
            "seed=9",
        ],
    )
    assert (recipe.student.model, recipe.teacher.model) == ("small", "large")
    assert recipe.data.train == "a.tsv"
    assert (recipe.training.learning_rate, recipe.training.steps) == (1e-3, 500)
    assert recipe.training.gradient_accumulation_steps == 4
    share = recipe.sequences.mixture.student_fraction
    assert share is not None and share.ends == (0.25,)
    assert (recipe.output_dir, recipe.seed) == ("out", 9)
    path = written("model_name_or_path: small\nlearning_rate: 1e-3\ndata: {train: a.tsv}\n")
    assert load_recipe(path, []).student.model == "small"
    assert load_recipe(path, []).training.learning_rate == 1e-3


def test_every_alias_names_a_setting_and_hides_none() -> None:
    assert {path[:2] if "terms" in path else path for path in ALIASES.values()} <= set(all_keys())
    assert not (set(ALIASES) | set(AMBIGUOUS)) & set(Recipe.model_fields)


def test_beta_is_that_of_the_first_term(written: Completion) -> None:
    term = "{divergence: jensen_shannon, beta: 0.5}"
    path = written(f"objective: {{terms: [{term}]}}\nteacher: {{scores: dense}}\n")
    assert read_recipe(path, ["beta=0.1"]).objective.terms[0].model_dump()["beta"] == 0.1
    assert "belongs to jensen_shannon" in refusal("word_kd", "beta=0.1")


def test_a_setting_under_two_names_is_refused(written: Completion) -> None:
    path = written("learning_rate: 1e-3\ntraining: {learning_rate: 1e-4}\n" + MINIMAL)
    found = refusal(path)
    assert "my.yaml, line 1: learning_rate must not stand beside training.learning_rate" in found
    assert "my.yaml, line 2" in found


@pytest.mark.parametrize("name", sorted(AMBIGUOUS))
def test_a_name_without_one_meaning_is_refused_with_what_to_write(name: str) -> None:
    assert AMBIGUOUS[name] in refusal("word_kd", f"{name}=1")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainig.steps=3", ["trainig", "did you mean 'training'?"]),
        ("training.step=3", ["training.step ", "did you mean 'training.steps'?"]),
        ("steps=3", ["steps ", "did you mean 'training.steps'?"]),
        ("objective.terms.0.wieght=3", ["terms.0.wieght", "mean 'objective.terms.0.weight'?"]),
        ("data.xyzzy=3", ["data.xyzzy", "known here: train, dev, test"]),
        ("training.steps=5.5", ["training.steps must be a whole number, got 5.5"]),
        ("training.steps=many", ["training.steps must be a whole number, got 'many'"]),
        ("training.steps=0", ["training.steps must be at least 1, got 0"]),
        ("training.steps=null", ["training.steps must be a whole number, got None"]),
        ("training.learning_rate=-1", ["must be greater than 0, got -1"]),
        ("training.learning_rate=.inf", ["must be a finite number, got inf"]),
        ("training.weight_decay=true", ["must be a number, got true"]),
        ("training.dropout=2", ["training.dropout must be less than 1, got 2"]),
        ("evaluation.length_penalty=.nan", ["must be a finite number, got nan"]),
        ("evaluation.confidence=1", ["evaluation.confidence must be less than 1, got 1"]),
        ("training.schedule=lineer", ["'inverse_sqrt', 'linear'", "Did you mean 'linear'?"]),
        ("training.average_best=maybe", ["must be true or false, got 'maybe'"]),
        ("data.train=5", ["data.train must be text, got 5; quote it"]),
        ("data=5", ["data must be a section of keys, got 5", "train, dev, test"]),
        ("objective.terms=[]", ["objective.terms must have at least 1 item, got []"]),
        ("objective.terms=[{}]", ["objective.terms.0.divergence must be given"]),
        ("objective.terms=5", ["objective.terms must be a list, got 5"]),
        ("student.lora.targets=[]", ["student.lora.targets must have at least 1 item, got []"]),
        ("student.lora.dropout=1", ["student.lora.dropout must be less than 1"]),
        ("compare=baseline", ["compare must be a list, got 'baseline'"]),
        ("student.architecture=x", ["student.architecture must be a mapping, got 'x'"]),
        ("student.architecture={a: [1]}", ["student.architecture.a must be text, a number"]),
        ("objective.terms.7.weight=1", ["objective.terms.7 must be a key of a section"]),
        ("sequences.mixture.student_fraction=2", ["student_fraction must be at most 1, got 2"]),
        (
            "sequences.mixture.student_fraction={start: 0, end: 1, shape: exponential}",
            ["must have positive ends"],
        ),
        ("sequences.mixture.student_fraction={start: 0, step: 0.2}", ["step: "]),
        ("sequences.mixture.student_fraction={shape: adaptive, step: 0}", ["step: "]),
        ("sequences.replay.fresh_fraction=-1", ["fresh_fraction must be at least 0"]),
        ('output_dir="a\\0b"', ["output_dir must be plain text"]),
        ('data.dev="a\\uD800.tsv"', ["data.dev must be plain text"]),
        (f"seed={10**18}", ["seed must be a number of at most 18 digits"]),
        ("preset.x=1", ["preset.x must be a key of a section"]),
        ("preset=nonsense", ["preset must be one of akl", "got 'nonsense'"]),
        ("preset=wordkd", ["Did you mean 'word_kd'?"]),
        ("steps", ["must read key=value", "training.steps=200"]),
        ("training.steps=", ["must read key=value", "key=null"]),
        ("=5", ["must read key=value"]),
        ("training..steps=5", ["joined by single dots"]),
        ("training.steps=[5", ["value must be YAML"]),
    ],
)
def test_a_wrong_override_is_refused_with_key_finding_and_remedy(
    override: str, parts: list[str]
) -> None:
    found = refusal("word_kd", "data.train=a", "student.model=s", "teacher.model=t", override)
    assert f"override {override}" in found or override.startswith("preset")
    for part in parts:
        assert part in found
    assert "errors:" not in found, "one mistake was reported as several"


def test_all_mistakes_of_a_file_are_reported_with_their_lines(written: Completion) -> None:
    path = written(
        "seed: -1\ndata:\n  trian: a.tsv\ntraining:\n  steps: many\n  steps: 5\n  precision: fp8\n"
    )
    found = refusal(path, "learning_rate=0")
    assert "the recipe has 6 errors:" in found
    for line, key in ((1, "seed"), (3, "data.trian"), (5, "training.steps")):
        assert f"my.yaml, line {line}: {key} " in found
    assert "my.yaml, line 6: a key must stand once, got training.steps" in found
    assert (
        "my.yaml, line 7: training.precision must be 'auto', 'fp32' or 'bf16', got 'fp8'" in found
    )
    assert "override learning_rate=0: training.learning_rate must be greater than 0" in found


def test_all_contradictions_are_reported_with_their_lines(written: Completion) -> None:
    path = written("training:\n  steps: 5\n  warmup_steps: 9\n  patience: 2\n")
    found = refusal(path)
    assert "the recipe has 4 errors:" in found
    assert "my.yaml, line 3: training.warmup_steps must be at most" in found
    assert "my.yaml, line 4: training.patience must be left out unless training.eval" in found
    assert "data.train must name" in found and "student.model must be given" in found


def test_a_section_with_nothing_in_it_means_nothing_given(written: Completion) -> None:
    path = written("training:\n  # steps: 5\n" + MINIMAL)
    assert load_recipe(path, []).training == Recipe().training


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: pathlib.Path) -> None:
    found = refusal(str(tmp_path / "none.yaml"))
    assert "none.yaml" in found and "word_kd" in found and "readable YAML file" in found
    assert "Did you mean 'word_kd'?" in refusal("wordkd")
    path = tmp_path / "latin.yaml"
    path.write_bytes("seed: 1\n# grün\n".encode("latin-1"))
    assert "latin.yaml, line 2: a recipe must be UTF-8 text, got the byte 0xfc" in refusal(
        str(path)
    )
    assert str(tmp_path) in refusal(str(tmp_path))


def test_recipes_and_records_start_without_torch_transformers_and_pyarrow() -> None:
    script = (
        "import sys, time\n"
        "import seqdistill.recipe\n"
        "import seqdistill.records.run_directory, seqdistill.records.environment\n"
        "import seqdistill.records.fingerprint\n"
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
    recipe = load_recipe(
        "seq_kd",
        [
            "data.train=~/a.src,~/a.tgt",
            "data.dev=~/dev.tsv",
            "data.test=~/test.tsv",
            "teacher.model=~/teacher",
            "student.model=~/student",
            "output_dir=~/runs",
            "sequences.corpus=~/corpus",
        ],
    )
    assert recipe.data.train == "/home/me/a.src,/home/me/a.tgt"
    assert (recipe.data.dev, recipe.data.test) == ("/home/me/dev.tsv", "/home/me/test.tsv")
    assert (recipe.teacher.model, recipe.student.model) == ("/home/me/teacher", "/home/me/student")
    assert recipe.output_dir == "/home/me/runs"
    assert recipe.sequences.corpus == "/home/me/corpus"
