"""Bugs that public tools have shipped in what becomes of a teacher, against what recipes build."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs.recipe_bench import bench, likeliest_outputs
from tests.jobs.test_rollouts_while_training import place_for, recipe_in, trained
from tests.jobs.test_stages import student_of
from tests.tiny import EOS, character_tokenizer, tiny_model
from torch import Tensor

from seqdistill.core.errors import UserError
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe

one_of_each_kind = pytest.mark.parametrize("kind", ["mbart", "llama"])
NO_DEV = "data.dev=null"
ON_POLICY = "sequences.mixture.student_fraction=1"


@one_of_each_kind
def test_sequence_level_kd_learns_the_teachers_beams_each_with_its_own_source(
    tmp_path: Path, kind: str
) -> None:
    """LMOps #250: the teacher's answers were made and the references learned. TRL #5726: made, and
    overwritten by the student's. mozilla #272: learned with the next line's source."""
    place = place_for(tmp_path, kind)
    if kind == "llama":  # one of whose beams some come to an end
        tiny_model("llama", seed=12).save_pretrained(place / "teacher")
    found = bench(recipe_in(place, "seq_kd", "training.batch_tokens=4000"))
    assert found.prepared.teacher is not None
    sources = {example.id: example.source_ids for example in found.prepared.train}
    assert len(found.examples) > 8
    assert all(example.source_ids == sources[example.id] for example in found.examples)
    known = len(found.prepared.teacher.tokenizer)
    expected = likeliest_outputs(
        found.prepared.teacher, found.examples, beam=5, longest=12, vocab_size=known
    )
    assert [example.target_ids for example in found.examples] == expected
    references = {example.id: example.target_ids for example in found.prepared.train}
    assert all(example.target_ids != references[example.id] for example in found.examples)
    batch = found.batch()
    by_id = {example.id: example.target_ids for example in found.examples}
    for row, name in enumerate(batch.example_ids):
        assert tuple(batch.target_ids[row][batch.target_mask[row]].tolist()) == by_id[name]


DISTILLED = [
    name
    for name in preset_names()
    if not read_recipe(name).stages and name not in ("baseline", "teacher", "demo")
]


def quick(folder: Path, method: str, name: str, teacher: str) -> dict[str, Tensor]:
    """The student that a method trains in a few updates with one of two teachers."""
    given = [
        NO_DEV,
        "training.eval_every=null",
        "training.steps=2",
        "training.learning_rate=0.01",
        f"teacher.model={folder / teacher}",
    ]
    if method == "distillm":
        given.append(ON_POLICY)
    if method == "seq_inter":
        given += ["sequences.decoding.beam_size=4", "sequences.decoding.n_best=4"]
    if method == "gkd_rl":
        given.append("objective.reward.function=tests.jobs.naive:letters_of_the_reference")
    if method == "baseline":
        given = [one for one in given if not one.startswith("teacher")]
    return student_of(trained(recipe_in(folder, method, *given, name=f"{method}-{name}")))


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with two teachers, and the student that references alone have trained."""
    place = place_for(tmp_path_factory.mktemp("supervised"), "mbart")
    other = tiny_model("mbart", seed=31)
    other.final_logits_bias[0, EOS] += 8.0
    other.save_pretrained(place / "other")
    character_tokenizer().save_pretrained(place / "other")
    return place, quick(place, "baseline", "alone", "teacher")


@pytest.mark.parametrize("method", DISTILLED)
def test_each_methods_teacher_moves_the_student_and_elsewhere_than_references_do(
    supervised: tuple[Path, dict[str, Tensor]], method: str
) -> None:
    """atropos #456: the teacher was asked, and what it said was dropped on the way to the loss."""
    place, by_references = supervised
    untrained = tiny_model("mbart", seed=8).state_dict()
    one, other = (quick(place, method, teacher, teacher) for teacher in ("teacher", "other"))
    assert differ(one, {name: untrained[name] for name in one}), "nothing was learned"
    assert differ(one, by_references), "the references alone were learned from"
    assert differ(one, other), "the teacher does not matter"


def test_two_tokenizers_are_refused_by_every_method_that_compares_token_by_token(
    tmp_path: Path,
) -> None:
    """TRL #4562, ATLAS #45, DistillKit #7 and #29 fed the teacher the student's ids; TRL's GOLD
    aligned and merged wrongly (#4392, #4765, #5905). Neither is done here."""
    place = place_for(tmp_path, "mbart")
    other = character_tokenizer(extra=["x1"])
    other.save_pretrained(place / "teacher")
    for method in [n for n in DISTILLED if read_recipe(n).teacher.scores != "none"]:
        with pytest.raises(UserError, match=r"must share one vocabulary.*'x1' for the teacher"):
            trained(recipe_in(place, method))
    assert not (place / "runs").exists()


def test_a_teacher_behind_a_server_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """ms-swift #9671 and #10073, verl #7769, TRL #5594: servers gave other scores than the same
    teacher in process, or NaN, or none for what was asked."""
    place = place_for(tmp_path, "mbart")
    with pytest.raises(UserError, match="is an address: models run in this process"):
        trained(recipe_in(place, "gkd", "teacher.model=http://localhost:8000/v1"))
    assert not (place / "runs").exists()
