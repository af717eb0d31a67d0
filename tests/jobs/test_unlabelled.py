"""Sources without targets are learned from as if they stood in the training data."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.jobs.runs import (
    assert_equal_students,
    bench,
    folder_for,
    losses,
    recipe_in,
    save_pairs,
    trained,
)

from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import RecipeError, StaleCorpusError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.label import label_data, plan_labels
from seqdistill.jobs.plan import plan
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.teacher_corpus import TeacherCorpus

NUM_TRAIN, NUM_MORE = 24, 8


class Echo(NoProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def echo(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with `unlabelled.txt` beside the training data, and `both.tsv`, which has all."""
    place = folder_for(tmp_path, "mbart")
    rows = save_pairs(place / "more.tsv", NUM_MORE, seed=5).read_text("utf-8").splitlines()[1:]
    sources = "".join(f"{row.partition(chr(9))[0]}\n" for row in rows)
    (place / "unlabelled.txt").write_text(sources, encoding="utf-8")
    train = (place / "train.tsv").read_text("utf-8")
    (place / "both.tsv").write_text(train + sources, encoding="utf-8")
    return place


def beside(place: Path, method: str, *overrides: str, name: str = "beside") -> Recipe:
    return recipe_in(
        place, method, f"data.unlabelled={place / 'unlabelled.txt'}", *overrides, name=name
    )


def joined(place: Path, method: str, *overrides: str, name: str = "joined") -> Recipe:
    return recipe_in(place, method, f"data.train={place / 'both.tsv'}", *overrides, name=name)


@pytest.mark.parametrize(
    "decoding", ["mode=beam", "beam_size=2", "mode=sample", "max_new_tokens=5"]
)
def test_labels_are_those_of_one_file_with_all_sources(two: Path, decoding: str) -> None:
    one, other = (
        TeacherCorpus.open(
            label_data(
                make(two, "seq_kd", f"sequences.decoding.{decoding}"), progress=NoProgress()
            ),
            expected=None,
        )
        for make in (beside, joined)
    )
    labels, expected = [*one.by_example()], [*other.by_example()]
    assert [name for name, _ in labels] == [
        *(str(number) for number in range(1, NUM_TRAIN + 1)),
        *(f"unlabelled:{number}" for number in range(1, NUM_MORE + 1)),
    ]
    assert [
        [(o.rank, o.token_ids, o.text, o.log_prob) for o in outputs] for _, outputs in labels
    ] == [[(o.rank, o.token_ids, o.text, o.log_prob) for o in outputs] for _, outputs in expected]
    assert one.record.counts == other.record.counts


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("seq_kd", ()),
        ("seq_kd_word_kd", ()),
        ("on_policy_kd", ()),
        ("gkd", ("sequences.mixture.others=teacher",)),
        ("gkd", ("sequences.mixture.student_fraction=1",)),
    ],
)
def test_training_equals_training_on_one_file_with_all_sources(
    two: Path, method: str, more: tuple[str, ...]
) -> None:
    one, other = (trained(make(two, method, *more)) for make in (beside, joined))
    assert losses(one) == losses(other)
    assert_equal_students(one, other)


def test_all_of_them_are_learned_beside_a_subset_of_train(two: Path) -> None:
    found = bench(beside(two, "on_policy_kd", "data.max_train_examples=3"))
    assert len(found.prepared.train_examples) == 3 + NUM_MORE


def test_labels_are_counted_reused_and_of_these_very_sources(two: Path) -> None:
    recipe = beside(two, "seq_kd", f"sequences.corpus={two / 'labels'}")
    counted = f"{NUM_TRAIN} of {two / 'train.tsv'} and {NUM_MORE} of {two / 'unlabelled.txt'}"
    assert dict(plan_labels(recipe))["examples"] == counted
    assert dict(plan(recipe).lines())["train examples"] == f"{counted} (0 left out as too long)"
    label_data(recipe, progress=(said := Echo()))
    assert any(counted in line for line in said.lines)
    run = trained(recipe)
    assert run.read_manifest()["train_examples"] == NUM_TRAIN + NUM_MORE
    assert run.read_manifest()["train_examples_unlabelled"] == NUM_MORE
    label_data(recipe, progress=(again := Echo()))
    assert f"reusing {NUM_TRAIN + NUM_MORE} labels" in again.lines[0]
    assert any(counted in line for line in again.lines)
    alone = recipe_in(two, "seq_kd", f"sequences.corpus={two / 'labels'}")
    with pytest.raises(StaleCorpusError, match="sources_fingerprint"):
        label_data(alone, progress=NoProgress())


def test_a_run_goes_on_with_the_same_sources_alone(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqdistill.jobs import training

    recipe = beside(two, "seq_kd")
    whole = trained(beside(two, "seq_kd", name="whole"))

    def kill(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_save", kill)
        trained(recipe)
    file = two / "unlabelled.txt"
    content = file.read_bytes()
    file.write_bytes(content + b"rot\n")
    with pytest.raises(UserError, match=r"data\.unlabelled that .* but unlabelled\.txt changed"):
        trained(recipe, resume=True)
    file.write_bytes(content)
    assert_equal_students(trained(recipe, resume=True), whole)


def test_a_chain_learns_from_them_where_it_reads_no_target(two: Path) -> None:
    short = (
        "sequences.decoding.max_new_tokens=12",
        "stages.1.settings.training={steps: 2, warmup_steps: 0}",
    )
    run = trained(beside(two, "seq_kd_seq_inter", *short))
    sizes = [
        RunDirectory.open(run.path / name).read_manifest()["train_examples_unlabelled"]
        for name in ("1-seq_kd", "2-seq_inter")
    ]
    assert sizes == [NUM_MORE, 0]
    stages = plan(beside(two, "seq_kd_seq_inter", name="planned")).stages
    assert ["data.unlabelled" in words for words in stages] == [True, False]


def test_a_wrong_line_is_named(two: Path) -> None:
    (two / "unlabelled.txt").write_text("rot\n\nblau\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"unlabelled\.txt:2: source must hold text"):
        label_data(beside(two, "seq_kd"), progress=NoProgress())


def test_a_reward_of_references_is_refused_before_anything_is_written(two: Path) -> None:
    recipe = beside(two, "gkd_rl")
    with pytest.raises(UserError, match="compares with references, but the data have none"):
        prepare(recipe)


def test_outputs_beyond_the_teachers_positions_are_refused_before_anything_is_written(
    two: Path,
) -> None:
    before = sorted(two.rglob("*"))
    recipe = beside(two, "seq_kd", "sequences.decoding.max_new_tokens=4000")
    with pytest.raises(RecipeError, match=r"sequences\.decoding\.max_new_tokens must be at most"):
        label_data(recipe, progress=NoProgress())
    assert sorted(two.rglob("*")) == before
