"""Trainings that read the teacher's kept states: equal to live ones, the teacher run only once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in, student_of, trained
from tests.tiny import tiny_model

from seqdistill.assembly import preparing
from seqdistill.assembly.models import build_teacher
from seqdistill.core.errors import StaleCorpusError
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.teachers.kept_states import STATES, read_record

KEPT = "teacher.cache_hidden_states=fp32"


def states_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("teacher-states/*") if path.is_dir())


@pytest.fixture
def teacher_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every time that a teacher's network runs, from now on."""
    calls: list[str] = []

    def counted(recipe: Recipe) -> LoadedModel:
        pair = build_teacher(recipe)
        pair.model.base_model.register_forward_pre_hook(lambda *_: calls.append("whole"))
        if pair.kind == "seq2seq":
            pair.model.get_decoder().register_forward_pre_hook(lambda *_: calls.append("decoder"))
        return pair

    monkeypatch.setattr(preparing, "build_teacher", counted)
    return calls


def assert_close_students(one: RunDirectory, other: RunDirectory) -> None:
    first, second = student_of(one), student_of(other)
    for name, tensor in first.items():
        # No loss depends on a key's bias: its gradient is rounding alone, which Adam makes large.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("name", "method"), [("mbart", "word_kd"), ("llama", "word_kd"), ("mbart", "seq_kd_word_kd")]
)
def test_training_on_kept_states_equals_live_training(
    tmp_path: Path, name: str, method: str
) -> None:
    place = folder_for(tmp_path, name)
    live = trained(recipe_in(place, method, name="live"))
    assert not states_folders(place)
    kept = trained(recipe_in(place, method, KEPT, name="kept"))
    assert_close_students(live, kept)
    (folder,) = states_folders(place)
    assert folder.parent == place / "runs" / "teacher-states"
    started = RunDirectory.open(place / "runs" / "kept")
    untrained = tiny_model(name, seed=8).state_dict()
    assert any(not torch.equal(untrained[key], t) for key, t in student_of(started).items())
    steps = [row["step"] for row in started.read_manifest()["timings"]]  # type: ignore[index,union-attr]
    assert "teacher's states" in steps


def test_runs_share_the_states_and_the_second_never_runs_the_teacher(
    place: Path, teacher_calls: list[str]
) -> None:
    trained(recipe_in(place, "word_kd", KEPT, name="one"))
    assert teacher_calls
    teacher_calls.clear()
    changed = trained(
        recipe_in(place, "word_kd", KEPT, "seed=5", "training.learning_rate=0.01", name="two")
    )
    assert teacher_calls == ["whole", "decoder"], "the look at a few rows before the first step"
    assert len(states_folders(place)) == 1
    live = trained(
        recipe_in(place, "word_kd", "seed=5", "training.learning_rate=0.01", name="live")
    )
    assert teacher_calls, "the count must see a live teacher"
    assert_close_students(live, changed)


def test_other_data_teachers_and_precisions_have_folders_of_their_own(place: Path) -> None:
    trained(recipe_in(place, "word_kd", KEPT, name="one"))
    trained(recipe_in(place, "word_kd", KEPT, "data.max_train_examples=20", name="fewer"))
    trained(recipe_in(place, "word_kd", "teacher.cache_hidden_states=fp16", name="rounded"))
    tiny_model("mbart", seed=9).save_pretrained(place / "teacher")
    trained(recipe_in(place, "word_kd", KEPT, name="another"))
    assert len(states_folders(place)) == 4


def test_a_named_folder_is_used_and_refused_when_stale_before_the_run_exists(place: Path) -> None:
    own = f"teacher.states={place / 'mine'}"
    trained(recipe_in(place, "word_kd", KEPT, own, name="one"))
    assert (place / "mine" / STATES).exists() and not states_folders(place)
    trained(recipe_in(place, "word_kd", KEPT, own, name="two"))
    with pytest.raises(StaleCorpusError, match="data_fingerprint"):
        trained(recipe_in(place, "word_kd", KEPT, own, "data.max_train_examples=20", name="three"))
    tiny_model("mbart", seed=9).save_pretrained(place / "teacher")
    with pytest.raises(StaleCorpusError, match="teacher_fingerprint"):
        trained(recipe_in(place, "word_kd", KEPT, own, name="three"))
    assert not (place / "runs" / "three").exists()


def test_a_plan_says_what_the_states_take_and_makes_none(place: Path) -> None:
    recipe = recipe_in(place, "word_kd", "teacher.cache_hidden_states=fp16", name="planned")
    planned = plan(recipe)
    assert dict(planned.lines())["teacher's states"] == "about 0 MB on disk in fp16, made once"
    assert not states_folders(place) and planned.seconds_per_method > 0
    assert "teacher's states" not in dict(plan(recipe_in(place, "word_kd", name="planned")).lines())
    trained(recipe)
    (folder,) = states_folders(place)
    manifest = read_record(folder)
    assert manifest.num_positions == planned.target_tokens and manifest.width == 16
