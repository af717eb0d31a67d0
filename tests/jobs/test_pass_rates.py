"""Pass rates: an independent count of stored rollouts, whole after a kill, and trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tests.jobs.runs import bench, folder_for, recipe_in, student_of, texts, trained
from tests.jobs.test_unlabelled import Echo

from seqdistill.assembly import pass_rates
from seqdistill.assembly.pass_rates import PassRates
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.score import plan_pass_rates, score_pass_rates
from seqdistill.jobs.train import train
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe

NUM_EXAMPLES = 24  # of `folder_for`
_GENERATE = TransformersGenerator.generate


def early(
    _prompts: Sequence[str], completions: Sequence[str], _references: Sequence[str | None]
) -> list[float]:
    """What begins in the first half of the alphabet gets 1, the later the less."""
    return [
        max(0.0, min(1.0, (ord("z") - ord(text[0])) / 12)) if text else 0.0 for text in completions
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_for(tmp_path_factory.mktemp("rated"), "mbart")


def recipe(place: Path, runs: Path, *overrides: str) -> Recipe:
    given: dict[str, object] = {
        "data.train": str(place / "train.tsv"),
        "student.model": str(place / "student"),
        "objective.reward.function": "tests.jobs.test_pass_rates:early",
        "training.device": "cpu",
        "training.threads": 1,
        "output_dir": str(runs / "run"),
    }
    length = "stages.1.settings.sequences.rollouts.max_new_tokens=6"
    return load_recipe("paced", [*texts(given), length, *overrides], purpose="score")


def score(recipe: Recipe, output: Path, **settings: Any) -> list[dict[str, Any]]:
    score_pass_rates(recipe, PassRates(**settings), output, progress=NoProgress())
    if output.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
        return rows
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


def rollouts_in(runs: Path) -> list[list[str]]:
    """The texts of each example, in order, of the one corpus of a folder."""
    (folder,) = (runs / "rollouts").iterdir()
    found: dict[str, list[str]] = {}
    for shard in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            found.setdefault(row["id"], []).append(row["text"])
    return list(found.values())


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_a_pass_rate_is_the_fraction_of_an_examples_rollouts_that_pass(
    place: Path, tmp_path: Path, engine: str
) -> None:
    engines = f"stages.1.settings.sequences.rollouts.engine={engine}"
    chosen = recipe(place, tmp_path, engines)
    rows = score(chosen, tmp_path / "rated.parquet", num_rollouts=5)
    outputs = rollouts_in(tmp_path)
    assert [len(texts) for texts in outputs] == [5] * NUM_EXAMPLES
    header, *lines = (place / "train.tsv").read_text("utf-8").splitlines()
    pairs = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    rates = [
        sum(text[:1].strip() != "" and text[0] < "o" for text in found) / 5 for found in outputs
    ]
    assert rows == [
        {**pair, "pass_rate": rate, "num_rollouts": 5}
        for pair, rate in zip(pairs, rates, strict=True)
    ]
    assert len(set(rates)) > 2
    lower = recipe(place, tmp_path, engines, "objective.reward.pass_threshold=0.5")
    later = score(lower, tmp_path / "later.jsonl", num_rollouts=5)
    assert sum(row["pass_rate"] for row in later) > sum(rates)
    assert len(list((tmp_path / "rollouts").iterdir())) == 1, "judged again, of the same rollouts"


def test_the_teachers_are_its_own_and_of_a_selection_its_rows(place: Path, tmp_path: Path) -> None:
    given = [f"teacher.model={place / 'teacher'}", "data.max_train_examples=5"]
    chosen = recipe(place, tmp_path, *given)
    planned = dict(plan_pass_rates(chosen, PassRates("teacher", 3), tmp_path / "few.jsonl"))
    assert planned["rollouts"] == "3 of each prompt, by the teacher"
    assert "from 5 that were timed" in planned["sampling"] and not [*tmp_path.iterdir()]
    rows = score(chosen, tmp_path / "few.jsonl", model="teacher", num_rollouts=3)
    whole = read_examples(str(place / "train.tsv"))
    assert len(rows) == 5
    assert {(row["source"], row["target"]) for row in rows} <= {(e.source, e.target) for e in whole}


class PowerCut(BaseException):
    """Ends the process at once, as far as the code under test can tell."""


def test_what_is_killed_goes_on_and_writes_the_file_of_an_uninterrupted_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_rates, "_SHARD_ROLLOUTS", 40)  # five prompts
    asked: list[int] = []
    left = [1000]

    def counted(self: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        if not left[0]:
            raise PowerCut
        left[0] -= 1
        found = _GENERATE(self, sources, *args, **kwargs)
        asked.append(len(sources))
        return found

    monkeypatch.setattr(TransformersGenerator, "generate", counted)
    score(recipe(place, tmp_path / "whole"), tmp_path / "whole.parquet")
    assert asked == [5, 5, 5, 5, 4]
    asked.clear()
    output = tmp_path / "part.parquet"
    for alive in (2, 1):
        left[0] = alive
        with pytest.raises(PowerCut):
            score(recipe(place, tmp_path / "part"), output)
        assert not output.exists()
    left[0] = 1000
    score(recipe(place, tmp_path / "part"), output)
    assert asked == [5, 5, 5, 5, 4], "nothing is sampled twice"
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert rollouts_in(tmp_path / "part") == rollouts_in(tmp_path / "whole")
    other = score(recipe(place, tmp_path / "seeded", "seed=2"), tmp_path / "seeded.parquet")
    assert other != pq.read_table(output).to_pylist()


def paced(place: Path, rows: Path, name: str) -> Recipe:
    given = {"data.train": str(rows), "data.dev": None, "training.steps": 2}
    length = "stages.1.settings.sequences.rollouts.max_new_tokens=6"
    return recipe_in(place, "paced", *texts(given), length, name=name)


def test_scored_rows_are_trained_on_and_those_without_weight_are_skipped(
    place: Path, tmp_path: Path
) -> None:
    rated = tmp_path / "rated.jsonl"
    rows = score(recipe(place, tmp_path), rated)
    assert any(0.0 < row["pass_rate"] < 1.0 for row in rows)
    run = trained(paced(place, rated, "rated"))
    stages = [run.path / name for name in ("1-supervised_kd", "2-on_policy_kd")]
    for stage in stages:
        told = json.loads((stage / "manifest.json").read_text("utf-8"))["training"]
        assert (told["updates"], told["skipped_updates"]) == (2, 0)
    sure = tmp_path / "sure.jsonl"
    sure.write_text("".join(json.dumps({**row, "pass_rate": 1}) + "\n" for row in rows), "utf-8")
    said = Echo()
    run = train(paced(place, sure, "sure"), progress=said)
    assert sum("2 of 2 updates were skipped" in line for line in said.lines) == 2
    before = load_pair(str(place / "student")).model.state_dict()
    for name, tensor in student_of(run).items():
        assert torch.equal(tensor, before[name]), name
    logged = [row for row in run.read_metrics() if "tokens" in row]
    assert [row["skipped_updates"] for row in logged] == [1, 2, 1, 2]


OWN = [
    "sequences.rollouts.max_new_tokens=6",
    "sequences.rollouts.samples_per_prompt=4",
    "objective.terms=[{divergence: reverse_kl, token_weights: "
    "{kind: pass_rate, column: rollout_pass_rate}}]",
    "objective.reward={function: 'tests.jobs.test_pass_rates:early', pass_threshold: 0.75}",
]


def test_a_pass_rate_may_be_that_of_an_updates_own_rollouts(place: Path) -> None:
    here = bench(recipe_in(place, "on_policy_kd", *OWN))
    for update in (1, 2):
        batch = here.batch(update)
        passed: dict[str, list[bool]] = {}
        for one in here.written:
            assert one.reward is not None
            passed.setdefault(one.example.id, []).append(one.reward >= 0.75)
        assert all(len(each) == 4 for each in passed.values())
        rates = [sum(passed[name]) / 4 for name in batch.example_ids]
        assert batch.extras["rollout_pass_rate"].tolist() == rates
        told = here.source.end_update()["rollout_pass_rate"]
        assert told.mean == pytest.approx(sum(rates) / len(rates))
    run = trained(recipe_in(place, "on_policy_kd", *OWN, "training.steps=2", name="own"))
    logged = [row["rollout_pass_rate"] for row in run.read_metrics() if "loss_nats" in row]
    assert len(logged) == 2 and all(0.0 <= float(str(rate)) <= 1.0 for rate in logged)


@pytest.mark.parametrize(
    ("preset", "overrides", "told"),
    [
        ("on_policy_kd", ["sequences.rollouts.samples_per_prompt=1"], "must be at least 2 with"),
        ("on_policy_kd", ["objective.reward.function=null"], "column rollout_pass_rate, got none"),
        ("on_policy_kd", ["data.extra_columns=rollout_pass_rate"], "must leave rollout_pass_rate"),
        ("supervised_kd", [], r"sequences\.origin must be student with the column"),
        ("on_policy_kd", ["objective.terms=[forward_kl]"], "pass_threshold must be left out"),
    ],
)
def test_rates_of_own_rollouts_need_several_of_them_and_a_reward(
    place: Path, preset: str, overrides: list[str], told: str
) -> None:
    own = OWN if preset == "on_policy_kd" else OWN[2:]
    with pytest.raises(RecipeError, match=told):
        recipe_in(place, preset, *own, *overrides)


def test_a_pass_rate_beyond_its_range_is_told_with_its_row(place: Path, tmp_path: Path) -> None:
    lines = (place / "train.tsv").read_text("utf-8").splitlines()
    rates = ["pass_rate", "0.5", "1", "1.5", *["0"] * (NUM_EXAMPLES - 3)]
    rated = "\n".join("\t".join(pair) for pair in zip(lines, rates, strict=True))
    (tmp_path / "rated.tsv").write_text(rated + "\n", encoding="utf-8")
    told = r"pass_rate must be from 0 to 1 .* token weight pass_rate, but is 1\.5 .* example '3'"
    with pytest.raises(DataError, match=told):
        trained(paced(place, tmp_path / "rated.tsv", "beyond"))
    assert not (place / "runs" / "beyond").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["objective.reward.function=null"], "reward.function must say which rollouts pass"),
        (["objective.reward.function=exact_anser"], "Did you mean .exact_answer"),
        (["sequences.rollouts.mode=greedy"], "rollouts.mode must be sample for pass rates"),
        (["data.unlabelled=more.txt"], "data.unlabelled must be left out of a recipe to score"),
        (["data.train=null"], "data.train must name"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("more.txt").write_text("a\n", "utf-8")
    with pytest.raises(RecipeError, match=told):
        recipe(place, tmp_path, *overrides)


def test_a_model_without_a_name_and_a_file_of_no_form_are_refused(
    place: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.model must name the model whose rollouts"):
        score(recipe(place, tmp_path), tmp_path / "x.jsonl", model="teacher")
    with pytest.raises(DataError, match="must end with one of"):
        score(recipe(place, tmp_path), tmp_path / "x.csv")
    assert not [*tmp_path.iterdir()]
