"""Someone else's files have no rights: what they ask to run needs a word on this command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny import character_tokenizer, save_unlisted, tiny_model

from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.writing import write_recipe

from .conftest import Program

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

open({mark!r}, "w").close()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that the stranger's code makes when it runs."""
    return tmp_path / "ran"


@pytest.fixture
def stranger(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory of a stranger's: its recipe trusts code, its models and reward are code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "theirs.py").write_text(f"open({str(mark)!r}, 'w').close()\nreward = print\n")
    rows = "".join(f"{word}\t{word[::-1]}\n" for word in ("abc", "bcd", "cde", "def"))
    for name in ("rows.tsv", "test.tsv"):
        (tmp_path / name).write_text(f"source\ttarget\n{rows}")
    run = tmp_path / "runs" / "theirs"
    for folder in (tmp_path / "teacher", run / "student"):
        save_unlisted(tiny_model("llama"), character_tokenizer(closes=False), folder)
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "own"
        names = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnForCausalLM"}
        config["auto_map"] = {auto: f"own.{name}" for auto, name in names.items()}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "own.py").write_text(OWN_CODE.format(mark=str(mark)))
    model = "{model: teacher, trust_remote_code: true}"
    recipe = load_recipe(
        "word_kd",
        [
            *(f"teacher={model}", "teacher.scores=dense", f"student={model}"),
            *("data={train: rows.tsv, test: test.tsv}", "output_dir=runs/theirs"),
            "evaluation.engine=transformers",
        ],
    )
    (run / "recipe.yaml").write_text(write_recipe(recipe))
    (run / "manifest.json").write_text("{}")
    return run


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "runs/theirs"],
        ["generate", "runs/theirs/student", "abc", "--engine", "transformers"],
        ["export", "runs/theirs", "out", "--format", "dense"],
        ["train", "runs/theirs/recipe.yaml", "--resume"],
        ["train", "runs/theirs/recipe.yaml", "--output_dir", "mine"],
        ["label", "runs/theirs/recipe.yaml"],
        ["report", "runs/theirs"],
    ],
)
def test_a_strangers_run_runs_no_code_without_the_flag(
    program: Program, stranger: Path, mark: Path, words: list[str]
) -> None:
    answer = program(*words)
    assert answer.exit_code == 2
    assert "Traceback" not in answer.stderr
    assert words[0] == "report" or "--trust-remote-code" in answer.stderr
    assert not mark.exists()


def test_with_the_flag_it_runs(program: Program, stranger: Path, mark: Path) -> None:
    answer = program("export", "runs/theirs", "out", "--format", "dense", "--trust-remote-code")
    assert answer.exit_code == 0, answer.stderr
    assert mark.exists()


def test_a_strangers_reward_is_not_imported(program: Program, stranger: Path, mark: Path) -> None:
    recipe = load_recipe(
        "baseline",
        ["student.model=teacher", "data.train=rows.tsv", "output_dir=mine"],
    )
    reward = recipe.objective.reward.model_copy(update={"function": "theirs:reward"})
    asking = recipe.model_copy(
        update={"objective": recipe.objective.model_copy(update={"reward": reward})}
    )
    (stranger / "recipe.yaml").write_text(write_recipe(asking))
    for words in (["evaluate", "runs/theirs"], ["train", "runs/theirs/recipe.yaml"]):
        assert program(*words).exit_code == 2
        assert not mark.exists()
