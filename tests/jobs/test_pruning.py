"""Pruning as stages of recipes: zeros hold to the end of a chain, mistakes are told early."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.jobs.test_distill import save_data_and_models
from tests.jobs.test_stages import (
    FEW,
    SHORT,
    assert_equal_students,
    settings_in,
    stages_of,
    student_of,
    texts,
    trained,
)

from seqdistill.compression.pruning import PruningMask, prune
from seqdistill.core.errors import UserError
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory

FINE_TUNING = {"preset": "seq_inter", "settings": {**SHORT, **FEW}}
PRUNE = {"preset": "prune", "settings": SHORT}


def chain_in(folder: Path, name: str, *overrides: str) -> Recipe:
    given = {
        **settings_in(folder),
        "stages": [{"preset": "seq_kd"}, PRUNE, FINE_TUNING],
        "output_dir": str(folder / "runs" / name),
    }
    return load_recipe("seq_kd_prune_seq_inter", [*texts(given), *overrides])


def plain_in(folder: Path, name: str, *overrides: str) -> Recipe:
    given = {**settings_in(folder), "output_dir": str(folder / "plain" / name)}
    return load_recipe("baseline", [*texts(given), *overrides])


def stage_directories(run: RunDirectory) -> list[RunDirectory]:
    return [RunDirectory((run.path / str(s["folder"])).resolve()) for s in stages_of(run)]


def mask_of(run: RunDirectory) -> PruningMask:
    model = load_pair(str(run.student_path)).model
    return prune(model, pruned_share=0.0, scheme="class_blind")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, models and the trained chain `runs/first`."""
    folder = tmp_path_factory.mktemp("pruned")
    save_data_and_models(folder)
    trained(chain_in(folder, "first"))
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """That folder, put back as it was after the test: recipes name where data and models lie."""
    kept = shutil.copytree(finished, tmp_path / "kept")
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(kept, finished)


def test_what_a_chain_prunes_stays_pruned_to_its_end(finished: Path) -> None:
    run = RunDirectory.open(finished / "runs" / "first")
    dense, pruned, tuned = stage_directories(run)
    assert mask_of(dense).density > 0.99
    kept, kept_at_last = mask_of(pruned).kept(), mask_of(tuned).kept()
    assert mask_of(pruned).density == pytest.approx(0.2, abs=1e-3)
    for name, mask in kept.items():
        assert torch.equal(kept_at_last[name], mask), f"the zeros of {name} are others"
    assert not torch.equal(*(student_of(r)["model.shared.weight"] for r in (pruned, tuned)))
    assert_equal_students(run, tuned)


def test_every_state_of_a_pruned_stage_has_its_zeros(finished: Path) -> None:
    run = RunDirectory.open(finished / "runs" / "first")
    for stage in stage_directories(run)[1:]:
        kept = mask_of(stage).kept()
        states = sorted(stage.checkpoints_path.glob("checkpoint-*"))
        assert len(states) == 2
        for state in states:
            stored = load_file(state / "model.safetensors")
            for name, mask in kept.items():
                if (weight := stored.get(f"module.{name}")) is not None:
                    assert not weight[~mask].any(), f"{state.name}: {name}"


def test_the_manifest_says_what_was_pruned(finished: Path) -> None:
    run = RunDirectory.open(finished / "runs" / "first")
    manifests = [r.read_manifest() for r in stage_directories(run)]
    assert "pruning" not in manifests[0]
    for manifest, stage in zip(manifests[1:], stage_directories(run)[1:], strict=True):
        facts = manifest["pruning"]
        assert isinstance(facts, dict)
        assert facts["kept"] == pytest.approx(0.2 * facts["weights"], abs=1)
        assert facts["densities"].keys() == mask_of(stage).kept().keys()


def test_an_interrupted_pruned_stage_goes_on_and_ends_the_same(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = RunDirectory.open(place / "runs" / "first")
    kept = RunDirectory(shutil.copytree(whole.path, place / "kept"))
    stages = stage_directories(whole)
    shutil.rmtree(stages[2].path)
    shutil.rmtree(stages[1].student_path)
    shutil.rmtree(stages[1].checkpoints_path / "checkpoint-4")
    stages[1].update_manifest({"finished": None})
    with caplog.at_level(logging.INFO, logger="seqdistill"):
        run = trained(chain_in(place, "first"), resume=True)
    assert "resumed at update 2" in caplog.text
    assert [stage["reused"] for stage in stages_of(run)] == [True, False, False]
    assert_equal_students(run, kept)


def test_the_next_stage_may_fill_the_zeros_with_a_warning(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(place / "runs" / "first" / "3-seq_inter")
    changed = chain_in(place, "first", "stages.2.settings.pruning.sparsity=null")
    run = trained(changed, resume=True)
    assert [stage["reused"] for stage in stages_of(run)] == [True, True, False]
    assert mask_of(run).density > 0.8  # not 1: few updates reach every row of an embedding
    told = [message for message in caplog.messages if "exactly zero" in message]
    assert len(told) == 1 and "pruning.sparsity=0" in told[0]


def test_a_share_of_zero_keeps_the_zeros_that_are_there(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = stage_directories(RunDirectory.open(place / "runs" / "first"))[1]
    pruned = f"student.model={before.student_path}"
    run = trained(plain_in(place, "kept", pruned, "pruning.sparsity=0"))
    kept = mask_of(before).kept()
    assert all(torch.equal(found, kept[name]) for name, found in mask_of(run).kept().items())
    assert "exactly zero" not in caplog.text


def test_a_student_that_was_never_pruned_is_not_warned_of(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(plain_in(place, "dense"))
    assert "exactly zero" not in caplog.text


def test_of_adapters_only_the_zeros_that_they_fill_are_told(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(plain_in(place, "adapted", "student.lora.rank=2"))
    assert "exactly zero" not in caplog.text
    pruned = stage_directories(RunDirectory.open(place / "runs" / "first"))[1].student_path
    trained(plain_in(place, "filled", f"student.model={pruned}", "student.lora.rank=2"))
    told = [message for message in caplog.messages if "exactly zero" in message]
    assert len(told) == 1 and "pruning.sparsity=0 and leave student.lora out" in told[0]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["pruning={sparsity: 0.5, exclude: ['*norm*']}"], r"'\*norm\*' matches none"),
        (["pruning={sparsity: 0.5, exclude: ['*']}"], "every one is excluded"),
        (["pruning.sparsity=0.9999999"], "leaves none; lower pruning.sparsity"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_anything_is_written(
    place: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        trained(plain_in(place, "refused", *overrides))
    assert not (place / "plain").exists()
    inside = [f"stages.1.settings.{text}" for text in overrides]
    with pytest.raises(UserError, match=sentence):
        trained(chain_in(place, "refused", "seed=9", *inside))
    assert not (place / "runs" / "refused").exists()


def test_a_plan_says_what_will_be_pruned(place: Path) -> None:
    lines = dict(plan(plain_in(place, "planned", "pruning.sparsity=0.75")).lines())
    weights = mask_of(RunDirectory.open(place / "runs" / "first")).num_weights
    words = f"class_blind, {weights - round(0.75 * weights):,} of {weights:,} weights are kept"
    assert lines["pruning"] == words
    assert "pruning" not in dict(plan(plain_in(place, "planned")).lines())
    stages = plan(chain_in(place, "planned", "seed=2")).stages
    assert [", 80.0% of the weights pruned" in words for words in stages] == [False, True, True]
