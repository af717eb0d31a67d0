"""Kept hidden states: equal to the live teacher's, made whole or not at all, refused when stale."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from tests.tiny import VOCAB, collator, random_examples, tiny_adapter

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError, ModelError, StaleCorpusError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.core.scores import DenseScores
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel
from seqdistill.teachers import keeping_scores, kept_scores
from seqdistill.teachers.forms import HiddenStates, Precision
from seqdistill.teachers.in_process import InProcessTeacher, Teacher
from seqdistill.teachers.keeping_scores import Keeping, make_scores
from seqdistill.teachers.kept_scores import (
    SCORES,
    KeptScoresTeacher,
    ScoresSettings,
)

# Of n best outputs each is an example of the same id and source.
SECOND_BEST = [
    dataclasses.replace(example, target_ids=(7, *example.target_ids))
    for example in random_examples(30, seed=4)[:6]
]
EXAMPLES = [*random_examples(30, seed=4), *SECOND_BEST]
CONVERSATIONS = [
    dataclasses.replace(example, id=f"chat {example.id}", counted_spans=((1, 2), (3, 5)))
    for example in EXAMPLES
    if len(example.source_ids) > 4
]


PART = "scores-00000.arrow"


class Place(NamedTuple):
    folder: Path
    teacher: SequenceModel
    settings: ScoresSettings
    examples: list[EncodedExample] = EXAMPLES


def settings_for(teacher: SequenceModel, precision: Precision = "fp32") -> ScoresSettings:
    return ScoresSettings("teacher", "vocabulary", teacher.kind, 2, HiddenStates(precision))


def make(place: Place) -> None:
    make_scores(
        Keeping(
            place.teacher,
            place.examples,
            collator(place.teacher.kind),
            place.folder,
            settings=place.settings,
            batch_tokens=60,
            device=torch.device("cpu"),
            progress=NoProgress(),
        )
    )


def parts(place: Place) -> list[Path]:
    return sorted(place.folder.glob("*.arrow"))


def batches_of(path: Path) -> list[Any]:
    stored = pa.ipc.open_file(path)
    return [stored.get_batch(place) for place in range(stored.num_record_batches)]


def kept(place: Place) -> KeptScoresTeacher:
    head = place.teacher.head.cut(VOCAB - 2)
    return KeptScoresTeacher(place.folder, place.examples, settings=place.settings, head=head)


def hidden(teacher: Teacher, examples: list[EncodedExample], place: Place) -> torch.Tensor:
    scores = teacher.score(collator(place.teacher.kind)(examples))
    assert isinstance(scores, DenseScores)
    assert scores.head.vocab_size == VOCAB - 2
    return scores.hidden


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    teacher = tiny_adapter(getattr(request, "param", "llama"), dropout=0.3)
    return Place(tmp_path / "states" / "kept", teacher, settings_for(teacher))


@pytest.fixture
def made(place: Place) -> Place:
    place.teacher.train()  # dropout must be off all the same
    make(place)
    return place


@pytest.mark.parametrize("place", ["mbart", "llama"], indirect=True)
def test_scores_are_the_live_teachers_whatever_the_batch(made: Place) -> None:
    stored = kept(made)
    live = InProcessTeacher(made.teacher, vocab_size=VOCAB - 2)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 9, len(EXAMPLES)):
        for _ in range(3):
            order = torch.randperm(len(EXAMPLES), generator=generator)[:size].tolist()
            examples = [EXAMPLES[index] for index in order]
            mask = collator(made.teacher.kind)(examples).target_mask
            found, expected = hidden(stored, examples, made), hidden(live, examples, made)
            assert found.shape == expected.shape and found.dtype == torch.float32
            torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)
            assert not found[~mask].any()


def test_fp16_is_half_the_size_and_read_as_fp32(place: Place) -> None:
    make(place)
    half = Place(place.folder.with_name("half"), place.teacher, settings_for(place.teacher, "fp16"))
    make(half)
    whole, rounded = (hidden(kept(each), EXAMPLES, each) for each in (place, half))
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, whole.half().float())
    sizes = [
        sum(batch.column("hidden").values.nbytes for p in parts(each) for batch in batches_of(p))
        for each in (place, half)
    ]
    assert sizes[0] == 2 * sizes[1] == 4 * 16 * sum(e.num_counted for e in EXAMPLES)


def test_states_of_anything_else_are_left_alone_and_refused(
    made: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made.teacher, "forward", None)
    make(made)
    kept(made)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"teacher_fingerprint": "another"}, "teacher_fingerprint is teacher and this run's is"),
        ({"vocabulary_fingerprint": "f" * 64}, r"is vocabulary and .* is ffffffffffffffff\.\.\.;"),
        ({"start_id": None}, "start_id is 2 and this run's is None"),
        ({"form": HiddenStates("fp16")}, "hidden states in fp32 and this run's is .* in fp16"),
    ]
    for change, told in changes:
        other = made._replace(settings=dataclasses.replace(made.settings, **change))
        make(other)
        with pytest.raises(StaleCorpusError, match=told):
            kept(other)


@pytest.mark.parametrize("name", [PART, SCORES])
def test_damaged_files_are_refused(made: Place, name: str) -> None:
    path = made.folder / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=f"(?s){name} must .* delete the folder"):
        kept(made)
    if name == PART:
        path.unlink()
        with pytest.raises(DataError, match="no such file"):
            kept(made)


def test_what_was_not_kept_is_refused(made: Place) -> None:
    stored = kept(made)
    stranger = dataclasses.replace(EXAMPLES[0], id="stranger")
    with pytest.raises(DataError, match=r"none for these .* of 'stranger'"):
        hidden(stored, [EXAMPLES[1], stranger], made)
    longest = max(EXAMPLES[6:], key=lambda example: len(example.target_ids))
    swapped = (longest.target_ids[1], longest.target_ids[0], *longest.target_ids[2:])
    assert swapped != longest.target_ids
    for targets in (swapped, longest.target_ids[:-1], (*longest.target_ids, 2)):
        other = dataclasses.replace(longest, target_ids=targets)
        with pytest.raises(DataError, match=f"none for these {len(targets)} targets"):
            hidden(stored, [EXAMPLES[1], other], made)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts hold ten examples; the list grows by each batch that the teacher is run on.

    At more than 25 examples the making is interrupted, unless the list begins below zero.
    """
    monkeypatch.setattr(kept_scores, "PART_EXAMPLES", 10)
    rows, batches = keeping_scores._states, list[int]()

    def counted(teacher: SequenceModel, batch: SequenceBatch) -> Any:
        batches.append(batch.num_sequences)
        if sum(batches) > 25:
            raise KeyboardInterrupt
        return rows(teacher, batch)

    monkeypatch.setattr(keeping_scores, "_states", counted)
    return batches


def test_an_interrupted_making_goes_on_and_ends_as_a_whole_one(
    place: Place, computed: list[int]
) -> None:
    whole = place._replace(folder=place.folder.with_name("whole"))
    computed[:] = [-100]
    make(whole)
    computed.clear()
    with pytest.raises(KeyboardInterrupt):
        make(place)
    assert len(parts(place)) == 2
    with pytest.raises(DataError, match="sha256 none"):
        kept(place)
    (place.folder / f"{PART}.partial-999999").write_bytes(b"of a killed process")
    computed[:] = [-100]
    make(place)
    assert 100 + sum(computed) == len(EXAMPLES) - 20
    files = [{path.name: path.read_bytes() for path in parts(each)} for each in (place, whole)]
    assert files[0] == files[1]
    assert {p.name for p in place.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}
    assert torch.equal(hidden(kept(place), EXAMPLES, place), hidden(kept(whole), EXAMPLES, whole))


def test_states_too_large_for_fp16_are_refused(place: Place) -> None:
    half = place._replace(settings=settings_for(place.teacher, "fp16"))
    with torch.no_grad():
        for parameter in place.teacher.parameters():
            if parameter.dim() == 1:  # the last layer norm's, among others
                parameter.mul_(1e6)
    with pytest.raises(
        ModelError, match=r"finite, as hidden states in fp16.*cache_hidden_states=fp32"
    ):
        make(half)
    assert not parts(half)


def test_a_full_disk_and_a_folder_of_other_things_are_told_before_anything_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(place.folder.parent.parent)._replace(free=100)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"as hidden states in fp32, found 0\.0 GB free"):
            make(place)
    assert not (place.folder / SCORES).exists()
    (place.folder / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match=r"give another one as teacher\.kept_scores"):
        make(place)


def test_earlier_turns_that_count_have_their_states_too(tmp_path: Path) -> None:
    teacher = tiny_adapter("llama")
    settings = settings_for(teacher)
    place = Place(tmp_path / "kept", teacher, settings, CONVERSATIONS)
    make(place)
    stored, batch = kept(place), collator("causal")(CONVERSATIONS)
    assert stored.record.num_positions == sum(e.num_counted for e in CONVERSATIONS)
    found = hidden(stored, CONVERSATIONS, place)[batch.target_mask]
    live = hidden(InProcessTeacher(teacher, vocab_size=VOCAB - 2), CONVERSATIONS, place)
    torch.testing.assert_close(found, live[batch.target_mask], rtol=1e-5, atol=1e-5)
    without = [dataclasses.replace(e, counted_spans=()) for e in CONVERSATIONS]
    with pytest.raises(DataError, match="none for these"):
        hidden(stored, without, place)
