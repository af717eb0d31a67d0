"""Trainings that read the teacher's kept states: equal to live ones, the teacher run only once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs.test_distill import save_pairs, save_teacher
from tests.jobs.test_stages import chain_in, settings_in, student_of, texts, trained
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.assembly import preparing
from seqdistill.assembly.models import build_teacher
from seqdistill.core.errors import StaleCorpusError
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import stage_recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.teachers.kept_states import STATES, read_record

FP32 = "training.precision=fp32"
KEPT = "teacher.cache_hidden_states=fp32"


def folder_for(folder: Path, name: str) -> Path:
    save_pairs(folder / "train.tsv", 24, seed=0)
    save_pairs(folder / "test.tsv", 6, seed=1)
    save_teacher(folder / "teacher", name)
    tiny_model(name, seed=8).save_pretrained(folder / "student")
    character_tokenizer(closes=name == "mbart").save_pretrained(folder / "student")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return folder_for(tmp_path, "mbart")


def recipe_in(folder: Path, name: str, *overrides: str, method: str = "word_kd") -> Recipe:
    given = {**settings_in(folder), "output_dir": str(folder / "runs" / name)}
    return load_recipe(method, [*texts(given), FP32, *overrides])


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
    live = trained(recipe_in(place, "live", method=method))
    assert not states_folders(place)
    kept = trained(recipe_in(place, "kept", KEPT, method=method))
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
    trained(recipe_in(place, "one", KEPT))
    assert teacher_calls
    teacher_calls.clear()
    changed = trained(recipe_in(place, "two", KEPT, "seed=5", "training.learning_rate=0.01"))
    assert teacher_calls == ["whole", "decoder"], "the look at a few rows before the first step"
    assert len(states_folders(place)) == 1
    live = trained(recipe_in(place, "live", "seed=5", "training.learning_rate=0.01"))
    assert teacher_calls, "the count must see a live teacher"
    assert_close_students(live, changed)


def test_other_data_teachers_and_precisions_have_folders_of_their_own(place: Path) -> None:
    trained(recipe_in(place, "one", KEPT))
    trained(recipe_in(place, "fewer", KEPT, "data.max_train_examples=20"))
    trained(recipe_in(place, "rounded", "teacher.cache_hidden_states=fp16"))
    tiny_model("mbart", seed=9).save_pretrained(place / "teacher")
    trained(recipe_in(place, "another", KEPT))
    assert len(states_folders(place)) == 4


def test_a_named_folder_is_used_and_refused_when_stale_before_the_run_exists(place: Path) -> None:
    own = f"teacher.states={place / 'mine'}"
    trained(recipe_in(place, "one", KEPT, own))
    assert (place / "mine" / STATES).exists() and not states_folders(place)
    trained(recipe_in(place, "two", KEPT, own))
    with pytest.raises(StaleCorpusError, match="data_fingerprint"):
        trained(recipe_in(place, "three", KEPT, own, "data.max_train_examples=20"))
    tiny_model("mbart", seed=9).save_pretrained(place / "teacher")
    with pytest.raises(StaleCorpusError, match="teacher_fingerprint"):
        trained(recipe_in(place, "three", KEPT, own))
    assert not (place / "runs" / "three").exists()


def test_a_chain_keeps_states_for_the_stage_that_asks_the_teacher(place: Path) -> None:
    short = {"training.steps": 4, "training.warmup_steps": 1}
    few = {"sequences.decoding.beam_size": 4, "sequences.decoding.n_best": 4}
    stages = [{"preset": "seq_kd_word_kd"}, {"preset": "seq_inter", "settings": {**short, **few}}]
    recipe = chain_in(place, "kept", FP32, KEPT, stages=stages)
    made = [
        stage_recipe(recipe, index, start_from="x").teacher.cache_hidden_states for index in (0, 1)
    ]
    assert made == ["fp32", "none"]
    run = trained(recipe)
    assert run.student_path.is_dir()
    assert [path.parent.parent.name for path in states_folders(place)] == [run.path.name]


def test_a_plan_says_what_the_states_take_and_makes_none(place: Path) -> None:
    recipe = recipe_in(place, "planned", "teacher.cache_hidden_states=fp16")
    planned = plan(recipe)
    assert dict(planned.lines())["teacher's states"] == "about 0 MB on disk in fp16, made once"
    assert not states_folders(place) and planned.seconds_per_method > 0
    assert "teacher's states" not in dict(plan(recipe_in(place, "planned")).lines())
    trained(recipe)
    (folder,) = states_folders(place)
    manifest = read_record(folder)
    assert manifest.num_positions == planned.target_tokens and manifest.width == 16
