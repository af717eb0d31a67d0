"""What is kept of a teacher: labels that are reused, and states that equal a live model's."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in, student_of, trained
from tests.tiny import EOS, tiny_model

from seqdistill.assembly import preparing
from seqdistill.assembly.models import build_teachers
from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.jobs.label import label_data, plan_labels
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.teachers.kept_scores import SCORES, read_record


class Said(NoProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, description: str, total: int) -> None:
        """A job is a line, too."""
        self.lines.append(description)

    def echo(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)


@pytest.fixture(scope="module", params=["mbart", "llama"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_for(tmp_path_factory.mktemp("labels"), request.param)
    if request.param == "mbart":  # its outputs are to end, and not at once
        model = tiny_model("mbart", seed=3)
        model.final_logits_bias[0, EOS] += 5.0
        model.save_pretrained(folder / "teacher")
    return folder


def label_recipe(place: Path, *overrides: str) -> Recipe:
    given = [
        f"data.train={place / 'train.tsv'}",
        f"teacher.model={place / 'teacher'}",
        f"output_dir={place / 'runs' / 'x'}",
        "sequences.decoding={engine: transformers, max_new_tokens: 20, beam_size: 2}",
    ]
    return load_recipe("seq_kd", [*given, *overrides], purpose="label")


def labelled(place: Path, *overrides: str) -> tuple[Path, list[str]]:
    said = Said()
    return label_data(label_recipe(place, *overrides), progress=said), said.lines


def test_labels_are_planned_made_and_reused_and_all_of_it_is_said(either: Path) -> None:
    planned = dict(plan_labels(label_recipe(either)))
    assert not Path(planned["would write to"]).exists()
    assert "minutes, from 24 that were timed" in planned["teacher's labels"]
    folder, lines = labelled(either)
    assert (str(folder), lines) == (
        planned["would write to"],
        [f"labelling into {folder}", "labelling with the teacher"],
    )
    again, lines = labelled(either)
    assert again == folder and len(lines) == 1
    assert lines[0].startswith("reusing ") and f"of 24 examples in {folder}, made 2" in lines[0]
    assert dict(plan_labels(label_recipe(either)))["teacher's labels"] == lines[0]
    (folder / "shard-00000.parquet").unlink()
    assert labelled(either)[1][0] == f"labelling into {folder}", "begun, by another process perhaps"
    other, lines = labelled(either, "sequences.decoding.beam_size=3")
    assert other != folder
    assert lines[0] == (
        f"labelling anew into {other}, since the labels in {folder} are of another "
        "sequences.decoding.beam_size (2, now 3)"
    )


def test_labels_go_where_they_are_to_go_and_hold_the_sources(either: Path) -> None:
    folder, _ = labelled(either, f"sequences.corpus={either / 'mine'}")
    assert folder == either / "mine"
    table = pq.read_table(folder / "shard-00000.parquet")
    names = ["id", "source", "rank", "token_ids", "text", "log_prob", "finished"]
    assert table.column_names == names
    sources = {row["id"]: row["source"] for row in table.to_pylist()}
    examples = read_examples(str(either / "train.tsv"))
    assert sources == {example.id: example.source for example in examples}


KEPT = "teacher.cache_hidden_states=fp32"


def states_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("teacher-scores/*") if path.is_dir())


@pytest.fixture
def teacher_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every time that a teacher's network runs, from now on."""
    calls: list[str] = []

    def counted(recipe: Recipe, *, asked: bool) -> tuple[LoadedModel, ...]:
        (pair,) = build_teachers(recipe, asked=asked)
        pair.model.base_model.register_forward_pre_hook(lambda *_: calls.append("whole"))
        if pair.kind == "seq2seq":
            pair.model.get_decoder().register_forward_pre_hook(lambda *_: calls.append("decoder"))
        return (pair,)

    monkeypatch.setattr(preparing, "build_teachers", counted)
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
    assert folder.parent == place / "runs" / "teacher-scores"
    started = RunDirectory.open(place / "runs" / "kept")
    untrained = tiny_model(name, seed=8).state_dict()
    assert any(not torch.equal(untrained[key], t) for key, t in student_of(started).items())
    steps = [row["step"] for row in started.read_manifest()["timings"]]  # type: ignore[index,union-attr]
    assert "teacher's scores" in steps


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
    trained(recipe_in(place, "word_kd", "teacher.cache_hidden_states=fp16", name="rounded"))
    tiny_model("mbart", seed=9).save_pretrained(place / "teacher")
    trained(recipe_in(place, "word_kd", KEPT, name="of another"))
    assert len(states_folders(place)) == 3


def test_a_named_folder_is_used_and_refused_when_stale_before_the_run_exists(place: Path) -> None:
    own = f"teacher.kept_scores={place / 'mine'}"
    trained(recipe_in(place, "word_kd", KEPT, own, name="one"))
    assert (place / "mine" / SCORES).exists() and not states_folders(place)
    trained(recipe_in(place, "word_kd", KEPT, own, name="two"))
    trained(recipe_in(place, "word_kd", KEPT, own, "data.max_train_examples=20", name="of fewer"))
    others = f"data.train={place / 'test.tsv'}"
    with pytest.raises(DataError, match=r"mine must hold .* but lacks 3 of 6, the first that of"):
        trained(recipe_in(place, "word_kd", KEPT, own, others, "data.test=null", name="three"))
    tiny_model("mbart", seed=9).save_pretrained(place / "teacher")
    with pytest.raises(StaleCorpusError, match="teacher_fingerprint"):
        trained(recipe_in(place, "word_kd", KEPT, own, name="three"))
    assert not (place / "runs" / "three").exists()


def test_a_plan_says_what_the_states_take_and_makes_none(place: Path) -> None:
    recipe = recipe_in(place, "word_kd", "teacher.cache_hidden_states=fp16", name="planned")
    planned = plan(recipe)
    assert dict(planned.lines())["teacher's scores"].startswith("hidden states in fp16")
    assert not states_folders(place) and planned.update_seconds > 0
    assert "teacher's scores" not in dict(plan(recipe_in(place, "word_kd", name="planned")).lines())
    trained(recipe)
    (folder,) = states_folders(place)
    manifest = read_record(folder)
    assert manifest.num_positions == planned.target_tokens
