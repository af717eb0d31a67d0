"""What README and the guides show works: commands are known, recipes valid, Python runs."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import character_tokenizer, tiny_model
from typer.testing import CliRunner

from seqdistill.cli.main import app
from seqdistill.cli.options import read_words
from seqdistill.jobs.distill import distill
from seqdistill.objectives import DIVERGENCES
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sweep_schema import read_sweep, trials

ROOT = Path(__file__).parents[2]
OBJECTIVES = "docs/objectives.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PAGES = (
    "README.md",
    *(
        str(found.relative_to(ROOT))
        for folder in ("guides", "how-to")
        for found in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
)
"""The pages whose commands and code are run."""


def blocks(page: str, language: str) -> list[str]:
    """The page's fenced blocks of this language, in order; `page` is a path below the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for name, code in _BLOCK.findall(text) if name == language]


SENTENCE = "Click the button to open the file."
LINES = "source\ttarget\n" + "".join(f"ab{letter}\tcd{letter}\n" for letter in "efgh")


def commands() -> list[list[str]]:
    """Every `seqdistill` command of a shell block, as words; `torchrun -m` is one, too."""
    text = "\n".join(block for page in PAGES for block in blocks(page, "sh"))
    text = text.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[words.index("seqdistill") + 1 :] for words in lines if "seqdistill" in words]


def documents() -> list[str]:
    """Every YAML block that is no file of a how-to's own test."""
    return [block for page in PAGES for block in blocks(page, "yaml")]


def python(beginning: str) -> str:
    """The one block that imports so."""
    shown = [block for page in PAGES for block in blocks(page, "python")]
    (found,) = [block for block in shown if block.startswith(beginning)]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_known_and_every_recipe_valid(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if words[0] in ("train", "label"):
        given = read_words([word for word in words[1:] if word not in ("--dry-run", "--resume")])
        (name,) = given.positional
        student = ["student.model=needless"] if words[0] == "label" else []
        assert load_recipe(name, [*given.overrides, *student])
    command = words[:2] if words[0] == "recipe" else words[:1]
    answer = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert answer.exit_code == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in answer.output, option


@pytest.mark.parametrize("text", documents(), ids=lambda text: text.split()[0])
def test_every_recipe_and_sweep_is_valid(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    if "methods:" not in text:
        assert load_recipe(str(file)).output_dir == "runs/mine"
        return
    sweep = read_sweep(file)
    for trial in trials(sweep):
        for index, stage in enumerate(trial.stages):
            assert load_recipe(stage.recipe, trial.overrides(index)), trial.name


def test_the_int8_copy_of_a_chat_model_runs_as_shown(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(closes=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tiny_model("llama").save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    (tmp_path / "texts.tsv").write_text(LINES, encoding="utf-8")
    with contextlib.chdir(tmp_path):
        words = ["llm", "runs/mine/student-int8", "--format", "int8", "--verify-on", "texts.tsv"]
        answer = CliRunner().invoke(app, ["export", *words])
        assert answer.exit_code == 0, answer.output
    opening = python("import ctranslate2").partition("tokenizer, translator")[0]
    opening += "tokenizer = transformers.AutoTokenizer.from_pretrained(folder)\n"
    assert printed(opening + python("generator = "), tmp_path).strip()


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the students that README names, in runs/mine, and labels beside them."""
    folder = tmp_path_factory.mktemp("readme")
    student = folder / "runs" / "mine" / "student"
    model = tiny_model("marian")
    model.generation_config.forced_eos_token_id = None  # a random model ends nowhere by itself
    model.save_pretrained(student)
    character_tokenizer().save_pretrained(student)
    (folder / "train.tsv").write_text(LINES, encoding="utf-8")
    with contextlib.chdir(folder):
        words = ["runs/mine/student", "runs/mine/student-int8", "--format", "int8"]
        made = CliRunner().invoke(app, ["export", *words, "--verify-on", "train.tsv"])
        assert made.exit_code == 0, made.output
        words = ["seq_kd", "teacher.model=runs/mine/student", "data.train=train.tsv"]
        words += ["output_dir=labels", "sequences.decoding.mode=sample"]
        words += ["sequences.decoding.max_new_tokens=20"]  # samples may be cut
        made = CliRunner().invoke(app, ["label", *words])
        assert made.exit_code == 0, made.output
    return folder


def printed(code: str, folder: Path) -> str:
    """What the code prints, run in the folder; its limit fits tiny models."""
    lines = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(lines), torch.inference_mode():
        exec(compile(code.replace("=128", "=5"), "README.md", "exec"), {})
    return lines.getvalue()


@pytest.mark.parametrize(
    ("block", "model", "options"),
    [
        ("import transformers", "student", ["--engine", "transformers"]),
        ("import ctranslate2", "student-int8", ["--compute-type", "int8"]),
    ],
)
def test_a_student_writes_elsewhere_what_generate_writes(
    block: str, model: str, options: list[str], mine: Path
) -> None:
    code = python(block)
    assert f"runs/mine/{model}" in code
    words = ["generate", "runs/mine/student", SENTENCE, "--max_new_tokens", "5", *options]
    with contextlib.chdir(mine):
        answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert printed(code, mine).strip() == answer.stdout.strip() != ""


def test_labels_are_parquet_with_the_columns_of_the_table(mine: Path) -> None:
    import pyarrow.parquet as pq

    text = (ROOT / "docs" / "guides" / "data.md").read_text(encoding="utf-8")
    table = text[text.index("| column | type |") : text.index("import glob")]
    (shard,) = mine.glob("labels/shard-*.parquet")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == pq.read_schema(shard).names
    assert printed(python("import glob"), mine).count("\n") == 4


def test_the_call_from_python_has_these_arguments() -> None:
    code = python("import seqdistill")
    for name in re.findall(r"(\w+)=", code.partition("distill(")[2].partition("data=")[0]):
        assert name in inspect.signature(distill).parameters, name


FUNCTIONS = {member.function.__name__: member.function for member in DIVERGENCES.values()}
"""Members may share one: what moves its parameters is another matter."""


def test_the_code_runs_from_top_to_bottom() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    code = blocks(OBJECTIVES, "python")
    assert len(code) >= 6
    for block in code:
        exec(compile(block, OBJECTIVES, "exec"), names)
    for name in FUNCTIONS:
        assert any(f"{name}(" in block for block in code), f"{name} is never called"


def test_the_table_has_every_divergence_with_its_arguments() -> None:
    text = (ROOT / OBJECTIVES).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE))
    for name, function in FUNCTIONS.items():
        for parameter in list(inspect.signature(function).parameters)[2:]:
            assert f"`{parameter}`" in rows[name], f"{name}: {parameter}"
