"""Kept hidden states: equal to the live teacher's, made whole or not at all, refused when stale."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from filelock import FileLock
from tests.tiny import VOCAB, collator, random_examples, tiny_adapter

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError, ModelError, StaleCorpusError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.core.scores import DenseScores
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel
from seqdistill.teachers import kept_states, states_making
from seqdistill.teachers.in_process import InProcessTeacher, Teacher
from seqdistill.teachers.kept_states import (
    STATES,
    KeptStates,
    KeptStatesTeacher,
    Precision,
    StatesSettings,
)
from seqdistill.teachers.states_making import make_states

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


PART = "states-00000.npy"


class Place(NamedTuple):
    folder: Path
    teacher: SequenceModel
    settings: StatesSettings


def settings_for(teacher: SequenceModel, precision: Precision = "fp32") -> StatesSettings:
    return StatesSettings(
        "teacher", "tokenizer", EncodedDataset.of(EXAMPLES).fingerprint, teacher.kind, 2, precision
    )


def make(place: Place) -> None:
    make_states(
        place.teacher,
        EXAMPLES,
        collator(place.teacher.kind),
        place.folder,
        settings=place.settings,
        batch_tokens=60,
        device=torch.device("cpu"),
        progress=NoProgress(),
    )


def parts(place: Place) -> list[Path]:
    return sorted(place.folder.glob("*.npy"))


def opened(place: Place) -> KeptStates:
    return KeptStates(place.folder, EXAMPLES, settings=place.settings)


def kept(place: Place) -> Teacher:
    return KeptStatesTeacher(opened(place), place.teacher.head.cut(VOCAB - 2))


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
    sizes = [sum(p.stat().st_size - 128 for p in parts(each)) for each in (place, half)]
    assert sizes[0] == 2 * sizes[1] == 4 * 16 * sum(e.num_counted for e in EXAMPLES)


def test_what_is_there_is_not_made_again(made: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made.teacher, "forward", None)
    make(made)
    opened(made)


def test_states_of_anything_else_are_refused(made: Place) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"teacher_fingerprint": "another"}, "teacher_fingerprint is teacher and this run's is"),
        ({"data_fingerprint": "f" * 64}, r"data_fingerprint is .* is ffffffffffffffff\.\.\.;"),
        ({"start_id": None}, "start_id is 2 and this run's is None"),
        ({"precision": "fp16"}, "precision is fp32 and this run's is fp16"),
    ]
    for change, told in changes:
        other = made._replace(settings=dataclasses.replace(made.settings, **change))
        make(other)  # leaves them alone
        with pytest.raises(StaleCorpusError, match=told):
            opened(other)


@pytest.mark.parametrize("name", [PART, STATES])
def test_damaged_files_are_refused(made: Place, name: str) -> None:
    path = made.folder / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=f"(?s){name} must .* delete the folder"):
        opened(made)
    if name == PART:
        path.unlink()
        with pytest.raises(DataError, match="no such file"):
            opened(made)


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


def test_an_interrupted_making_goes_on_and_ends_as_a_whole_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_states, "PART_EXAMPLES", 10)
    monkeypatch.setattr(states_making, "PART_EXAMPLES", 10)
    whole = place._replace(folder=place.folder.with_name("whole"))
    make(whole)
    rows, batches = states_making._rows, list[int]()

    def cut(teacher: SequenceModel, batch: SequenceBatch) -> Any:
        batches.append(batch.num_sequences)
        if sum(batches) > 25:
            raise KeyboardInterrupt
        return rows(teacher, batch)

    monkeypatch.setattr(states_making, "_rows", cut)
    with pytest.raises(KeyboardInterrupt):
        make(place)
    assert len(parts(place)) == 2
    with pytest.raises(DataError, match="sha256 none"):
        opened(place)
    (place.folder / f"{PART}.partial-999999").write_bytes(b"of a killed process")
    batches.clear()
    with pytest.raises(KeyboardInterrupt):
        make(place._replace(folder=place.folder.with_name("other")))
    batches[:] = [-100]
    make(place)
    assert 100 + sum(batches) == len(EXAMPLES) - 20
    assert {path.name for path in place.folder.iterdir()} == {
        path.name for path in whole.folder.iterdir()
    }
    assert [p.read_bytes() for p in parts(place)] == [p.read_bytes() for p in parts(whole)]
    expected = hidden(kept(whole), EXAMPLES, whole)
    assert torch.equal(hidden(kept(place), EXAMPLES, place), expected)


def test_a_part_that_another_process_makes_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_states, "PART_EXAMPLES", 10)
    monkeypatch.setattr(states_making, "PART_EXAMPLES", 10)
    whole = place._replace(folder=place.folder.with_name("whole"))
    make(whole)
    rows, batches = states_making._rows, list[int]()

    def counted(teacher: SequenceModel, batch: SequenceBatch) -> Any:
        batches.append(batch.num_sequences)
        return rows(teacher, batch)

    monkeypatch.setattr(states_making, "_rows", counted)
    (place.folder / ".locks").mkdir(parents=True)
    with FileLock(place.folder / ".locks" / PART):
        second = threading.Thread(target=make, args=(place,))
        second.start()
        deadline = time.monotonic() + 60
        while len(parts(place)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert second.is_alive() and sum(batches) == len(EXAMPLES) - 10
        shutil.copy(whole.folder / PART, place.folder / PART)
    second.join(timeout=60)
    assert sum(batches) == len(EXAMPLES) - 10
    assert [p.read_bytes() for p in parts(place)] == [p.read_bytes() for p in parts(whole)]
    opened(place)


def test_states_too_large_for_fp16_are_refused(place: Place) -> None:
    half = place._replace(settings=settings_for(place.teacher, "fp16"))
    with torch.no_grad():
        for parameter in place.teacher.parameters():
            if parameter.dim() == 1:  # the last layer norm's, among others
                parameter.mul_(1e6)
    with pytest.raises(ModelError, match=r"finite in fp16.*cache_hidden_states=fp32"):
        make(half)
    assert not parts(half)


def test_a_full_disk_is_told_before_the_first_batch_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(place.folder.parent.parent)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"on disk in fp32, found 0\.0 GB free"):
        make(place)
    assert not (place.folder / STATES).exists()


def test_a_folder_of_other_things_is_refused_and_kept(place: Place) -> None:
    place.folder.mkdir(parents=True)
    (place.folder / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match=r"give another one as teacher\.states"):
        make(place)


def test_earlier_turns_that_count_have_their_states_too(tmp_path: Path) -> None:
    teacher = tiny_adapter("llama")
    settings = dataclasses.replace(
        settings_for(teacher), data_fingerprint=EncodedDataset.of(CONVERSATIONS).fingerprint
    )
    make_states(
        teacher,
        CONVERSATIONS,
        collator("causal"),
        tmp_path / "kept",
        settings=settings,
        batch_tokens=60,
        device=torch.device("cpu"),
        progress=NoProgress(),
    )
    states = KeptStates(tmp_path / "kept", CONVERSATIONS, settings=settings)
    assert states.record.num_positions == sum(e.num_counted for e in CONVERSATIONS)
    batch = collator("causal")(CONVERSATIONS)
    live = InProcessTeacher(teacher, vocab_size=VOCAB).score(batch)
    assert isinstance(live, DenseScores)
    mask = batch.target_mask
    torch.testing.assert_close(
        states.at_targets(batch)[mask], live.hidden[mask], rtol=1e-5, atol=1e-5
    )
    without = [dataclasses.replace(e, counted_spans=()) for e in CONVERSATIONS]
    assert EncodedDataset.of(without).fingerprint != settings.data_fingerprint
    with pytest.raises(DataError, match="none for these"):
        states.at_targets(collator("causal")(without))
