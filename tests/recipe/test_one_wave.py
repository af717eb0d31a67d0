"""Mistakes of every kind are told together, and none that only follows from another."""

from __future__ import annotations

import pathlib
import time

import pytest

from seqdistill.core import hub
from seqdistill.core.errors import RecipeError
from seqdistill.recipe import load_recipe
from seqdistill.recipe.loading import Purpose


@pytest.fixture(autouse=True)
def hub_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network on which the hub answers, so that any model's name may be one of its."""
    monkeypatch.setattr(hub, "hub_answers", lambda: True)


def schema_errors(name: str, *overrides: str, purpose: Purpose = "train") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides, purpose=purpose)
    lines = str(caught.value).split("\n  - ")
    return lines[1:] or lines


def test_values_contradictions_and_missing_files_come_at_once() -> None:
    found = schema_errors(
        "seq_kd",
        "training.steps=many",
        "student.modle=x",
        "evaluation.metrics=[bleu,bleu]",
        "data.train=nowhere.tsv",
        "data.dev=a.src,b.tgt",
        "teacher.model=/nowhere/teacher",
    )
    told = (
        *("student.modle is an unknown key", "training.steps must be", "each metric once"),
        *("'nowhere.tsv'", "'a.src'", "'b.tgt'", "'/nowhere/teacher'"),
    )
    assert len(found) == len(told)
    for words in told:
        assert sum(words in line for line in found) == 1, words


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=5.5",  # its warm-up cannot be compared with it
        "teacher.model=5",  # not also: must be given
        "data.trian=a.tsv",  # not also: data.train lacks
        "student.init=scrtch",
        "sequences.origin=techer",
        "objective.terms=[{divergence: nll}]",
        "objective.terms.0.wieght=1",
        "compare=[1]",
        "stages=[{}]",
        "preset=nonsense",
    ],
)
def test_what_only_follows_from_a_wrong_value_is_not_told(override: str) -> None:
    given = ["training.warmup_steps=3", "student.model=s", "teacher.model=t"]
    if not override.startswith("data"):
        given.append("data.train=some-set")
    assert len(schema_errors("seq_kd", *given, override)) == 1


def test_a_model_or_file_that_is_nowhere_is_told_with_its_neighbour(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    found = schema_errors(
        "seq_kd", "teacher.model=teachr", "student.model=btx", "data.train=some-set"
    )
    assert len(found) == 2
    assert "no folder 'teachr', nothing of that name in the hub's cache" in found[0]
    assert "Did you mean 'teacher'?" in found[0]
    assert "no folder 'btx'" in found[1]
    (tmp_path / "train.tsv").touch()
    given = ("student.model=teacher", "train_file=trian.tsv", "data.dev=x/d.tsv")
    train, dev = schema_errors("baseline", *given)
    assert "'trian.tsv'" in train and "Did you mean 'train.tsv'?" in train
    assert "'x/d.tsv'" in dev and "Did you mean" not in dev


def test_labelling_needs_data_and_a_teacher_alone_and_measuring_a_test_set() -> None:
    given = ["teacher.model=t", "data.train=some-set"]
    for name in ("seq_kd", "word_kd", "seq_inter", "distillm"):
        assert load_recipe(name, given, purpose="label").student.model is None
    found = schema_errors("seq_kd", "sequences.decoding.n_best=9", purpose="label")
    assert [line.split(" must")[0].split(": ")[-1] for line in found] == [
        "data.train",
        "sequences.decoding.n_best",
        "teacher.model",
    ]
    (chain,) = schema_errors("seq_kd_seq_inter", *given, purpose="label")
    assert "label seq_kd instead" in chain
    (measured,) = schema_errors("demo", "data.train=some-set", purpose="measure")
    assert "data.test must name the examples" in measured


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("preset: seq_kd\0\n", "line 1: a recipe must be plain text, got the character '\\x00'"),
        ("a: " + "[" * 400 + "]" * 400, "nest deeper than 32 levels"),
        ("a: " + "{b: " * 9000 + "}" * 9000, "nest deeper than 32 levels"),
        ("a: &a [1]\nb: [*a, *a]\n", "aliases (*name) are not read"),
        ("".join(f"k{i}: {i}\n" for i in range(12000)), "errors:"),
        ("a: 1\n" * 200000, "at most 262,144 bytes"),
        (f"data: {{train: 0x{'f' * 9000}}}", "a number of thousands of digits"),
        (f"seed: {'9' * 5000}", "line 1: a number must have at most 18 digits, got more"),
        ('preset: seq_kd\noutput_dir: "a\\0b"\n', "output_dir must be plain text"),
        ("preset: nobody\n", "preset must be one of"),
    ],
    ids=[
        "NUL",
        "deep",
        "deeper",
        "aliases",
        "keys",
        "huge",
        "hex",
        "digits",
        "NUL escaped",
        "preset",
    ],
)
def test_any_text_is_refused_in_seconds(tmp_path: pathlib.Path, text: str, told: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert time.monotonic() - began < 30.0
    assert told in str(caught.value)
    assert len(str(caught.value)) < 20_000
