"""Kept hidden states: equal to the live teacher's, made whole or not at all, refused when stale."""

from __future__ import annotations

import dataclasses
import fcntl
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.tiny import VOCAB, collator, random_examples, tiny_adapter

from seqdistill.core.errors import DataError, ModelError, StaleCorpusError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.core.scores import DenseScores
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel
from seqdistill.teachers import states_making
from seqdistill.teachers.in_process import InProcessTeacher, Teacher
from seqdistill.teachers.states_folder import (
    INDEX,
    MANIFEST,
    STATES,
    Precision,
    StatesSettings,
)
from seqdistill.teachers.states_making import make_states
from seqdistill.teachers.stored_states import StoredStates, StoredStatesTeacher
from seqdistill.teachers.target_checksums import sequence_checksums

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


def opened(place: Place) -> StoredStates:
    return StoredStates(place.folder, EXAMPLES, settings=place.settings)


def kept(place: Place) -> Teacher:
    return StoredStatesTeacher(opened(place), place.teacher.head.cut(VOCAB - 2))


def hidden(teacher: Teacher, examples: list[EncodedExample], place: Place) -> torch.Tensor:
    scores = teacher.score(collator(place.teacher.kind)(examples))
    assert isinstance(scores, DenseScores)
    assert scores.head.vocab_size == VOCAB - 2
    return scores.hidden


@pytest.fixture(params=["mbart", "llama"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    teacher = tiny_adapter(request.param, dropout=0.3)
    return Place(tmp_path / "states" / "kept", teacher, settings_for(teacher))


@pytest.fixture
def made(place: Place) -> Place:
    place.teacher.train()  # dropout must be off all the same
    make(place)
    return place


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
    assert opened(half).manifest.num_bytes * 2 == opened(place).manifest.num_bytes
    assert (half.folder / STATES).stat().st_size == opened(half).manifest.num_bytes


def test_what_is_there_is_not_made_again(made: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made.teacher, "forward", None)
    make(made)
    opened(made)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"teacher_fingerprint": "another"}, "teacher_fingerprint is teacher and this run's is"),
        ({"tokenizer_fingerprint": "another"}, "tokenizer_fingerprint"),
        ({"data_fingerprint": "f" * 64}, r"data_fingerprint is .* is ffffffffffffffff\.\.\.;"),
        ({"start_id": None}, "start_id is 2 and this run's is None"),
        ({"precision": "fp16"}, "precision is fp32 and this run's is fp16"),
    ],
)
def test_states_of_anything_else_are_refused(
    made: Place, change: dict[str, str | None], told: str
) -> None:
    other = made._replace(settings=dataclasses.replace(made.settings, **change))  # type: ignore[arg-type]
    make(other)  # leaves them alone
    with pytest.raises(StaleCorpusError, match=told):
        opened(other)


def truncate(folder: Path) -> None:
    content = (folder / STATES).read_bytes()
    (folder / STATES).write_bytes(content[:-8])


def change_a_byte(folder: Path) -> None:
    with open(folder / STATES, "r+b") as stream:
        stream.seek(100)
        stream.write(b"\x55\xaa")


def lose_the_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def lose_the_states(folder: Path) -> None:
    (folder / STATES).unlink()


def tear_the_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text("utf-8")
    (folder / MANIFEST).write_text(text[: len(text) // 2], "utf-8")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, r"states\.bin must have [\d,]+ bytes as its manifest says, found"),
        (change_a_byte, r"states\.bin must have the sha256"),
        (lose_the_index, r"index\.safetensors must have .* found no such file"),
        (lose_the_states, "found no such file"),
        (tear_the_manifest, r"manifest\.json must be the manifest of a teacher's states"),
    ],
)
def test_damaged_files_are_refused(made: Place, damage: Callable[[Path], None], told: str) -> None:
    damage(made.folder)
    with pytest.raises(DataError, match=told) as caught:
        opened(made)
    assert "delete the folder" in str(caught.value)


def test_what_was_not_kept_is_refused(made: Place) -> None:
    stored = kept(made)
    stranger = dataclasses.replace(EXAMPLES[0], id="stranger")
    with pytest.raises(DataError, match="an example without states: 'stranger'"):
        hidden(stored, [EXAMPLES[1], stranger], made)
    longest = max(EXAMPLES[6:], key=lambda example: len(example.target_ids))
    swapped = (longest.target_ids[1], longest.target_ids[0], *longest.target_ids[2:])
    assert swapped != longest.target_ids
    for targets in (swapped, longest.target_ids[:-1], (*longest.target_ids, 2)):
        other = dataclasses.replace(longest, target_ids=targets)
        with pytest.raises(DataError, match=f"other targets, {len(targets)} tokens long"):
            hidden(stored, [EXAMPLES[1], other], made)


@pytest.mark.parametrize("end", [KeyboardInterrupt, "killed"])
def test_an_interrupted_making_leaves_nothing_and_the_next_begins_again(
    place: Place, end: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows, calls = states_making._rows, []

    def interrupted(*given: object) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 3:
            if end == "killed":  # what would be left on disk at this moment
                shutil.copytree(place.folder.parent, tmp_path / "left")
            raise KeyboardInterrupt
        return rows(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(states_making, "_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(place)
    assert not [path for path in place.folder.parent.glob("*") if path.is_dir()]
    monkeypatch.setattr(states_making, "_rows", rows)
    if end == "killed":
        shutil.rmtree(place.folder.parent, ignore_errors=True)
        (tmp_path / "left").rename(place.folder.parent)
        (partial,) = (path for path in place.folder.parent.iterdir() if path.is_dir())
        assert (partial / STATES).exists() and partial != place.folder
    make(place)
    opened(place)
    assert [path for path in place.folder.parent.iterdir() if path.is_dir()] == [place.folder]


def test_a_second_process_waits_and_finds_them_finished(
    made: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    aside = made.folder.rename(made.folder.with_name("aside"))
    monkeypatch.setattr(made.teacher, "forward", None)
    with open(made.folder.with_name(f"{made.folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=make, args=(made,))
        second.start()
        for _ in range(500):
            if "waiting until it has finished" in caplog.text:
                break
            time.sleep(0.01)
        assert second.is_alive() and "another process is writing" in caplog.text
        aside.rename(made.folder)
    second.join(timeout=10)
    assert not second.is_alive()
    opened(made)


def test_states_too_large_for_fp16_are_refused(place: Place) -> None:
    half = place._replace(settings=settings_for(place.teacher, "fp16"))
    with torch.no_grad():
        for parameter in place.teacher.parameters():
            if parameter.dim() == 1:  # the last layer norm's, among others
                parameter.mul_(1e6)
    with pytest.raises(ModelError, match=r"finite in fp16.*cache_hidden_states=fp32"):
        make(half)
    assert not half.folder.exists()


def test_a_full_disk_is_told_before_the_first_batch_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(place.folder.parent.parent)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"on disk in fp32, found 0\.0 GB free"):
        make(place)
    assert not place.folder.exists()


def test_a_folder_of_other_things_is_refused_and_kept(place: Place) -> None:
    place.folder.mkdir(parents=True)
    (place.folder / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match=r"give another one as teacher\.states"):
        make(place)
    assert (place.folder / "thesis.tex").exists()


def test_checksums_equal_a_plain_loop_over_whole_numbers() -> None:
    golden, limit = 0x9E3779B97F4A7C15, 1 << 64
    sequences = [[5], [5, 5], [3, 4, 2], [4, 3, 2], [0], [151_000, 0, 0]]

    def mix(number: int) -> int:
        number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % limit
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % limit
        return number ^ (number >> 31)

    expected = [
        sum(mix((token + place * golden) % limit) for place, token in enumerate(ids, start=1))
        % limit
        for ids in sequences
    ]
    flat = np.array([token for ids in sequences for token in ids])
    found = sequence_checksums(flat, np.array([len(ids) for ids in sequences]))
    assert found.view(np.uint64).tolist() == expected
    assert len(set(expected)) == len(sequences)


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
    states = StoredStates(tmp_path / "kept", CONVERSATIONS, settings=settings)
    assert states.manifest.num_positions == sum(e.num_counted for e in CONVERSATIONS)
    batch = collator("causal")(CONVERSATIONS)
    live = InProcessTeacher(teacher, vocab_size=VOCAB).score(batch)
    assert isinstance(live, DenseScores)
    mask = batch.target_mask
    torch.testing.assert_close(
        states.at_targets(batch)[mask], live.hidden[mask], rtol=1e-5, atol=1e-5
    )
    without = [dataclasses.replace(e, counted_spans=()) for e in CONVERSATIONS]
    assert EncodedDataset.of(without).fingerprint != settings.data_fingerprint
    with pytest.raises(DataError, match="other targets"):
        states.at_targets(collator("causal")(without))
