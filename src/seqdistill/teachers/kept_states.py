"""A teacher's hidden states on disk, read in place of running it.

    states.json        what decides the states; when all are there also their checksums
    states-00000.npy   a row for each target position of 512 examples, one after another

Word-level distillation over fixed sequences asks the teacher the same questions in every epoch.
`states_making` makes what is read here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.data.encoding import EncodedExample
from seqdistill.records.fingerprint import of_file

STATES = "states.json"
PART_EXAMPLES = 512
Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, np.dtype[np.floating]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
}


@dataclasses.dataclass(frozen=True)
class StatesSettings:
    """What the states are a function of: compared, all of it, before they are used.

    `start_id` is what an encoder-decoder's decoder reads first; None means the last target token;
    `prefix_ids` what it reads next. `dtype` is that of the teacher's weights, `precision` that of
    the stored states.
    """

    teacher_fingerprint: str
    tokenizer_fingerprint: str
    data_fingerprint: str
    kind: Kind
    start_id: int | None
    precision: Precision
    prefix_ids: tuple[int, ...] = ()
    dtype: str = "torch.float32"


@dataclasses.dataclass(frozen=True)
class StatesRecord:
    """The content of states.json: written when the making begins, and again when it has ended."""

    settings: StatesSettings
    num_positions: int
    width: int
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The sha256 of each part by its name; none before all are there."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def part_names(num_examples: int) -> list[str]:
    """The files of so many examples."""
    return [f"states-{index:05d}.npy" for index in range(-(-num_examples // PART_EXAMPLES))]


def is_finished(folder: Path) -> bool:
    """Whether the folder has all its files, of whatever settings."""
    return (folder / STATES).is_file() and bool(read_record(folder).checksums)


def read_record(folder: Path) -> StatesRecord:
    """The record in `folder`. Raises DataError when it cannot be read."""
    path = folder / STATES
    try:
        return TypeAdapter(StatesRecord).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} must describe a teacher's states, found: {error}; delete the folder to have "
            "them made again"
        ) from error


def check_settings(folder: Path, found: StatesSettings, wanted: StatesSettings) -> None:
    """Raises StaleCorpusError when the states are those of another teacher, data or precision."""
    for field in dataclasses.fields(StatesSettings):
        old: object = getattr(found, field.name)
        new: object = getattr(wanted, field.name)
        if old != new:
            raise StaleCorpusError(
                f"{folder} must hold the states of this teacher for these very sequences, but its "
                f"{field.name} is {_short(old)} and this run's is {_short(new)}; give another "
                "folder as teacher.states, or delete this one to have it made again"
            )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}..." if len(text) == 64 else text


def _key(example_id: str, counted_ids: npt.NDArray[np.int64]) -> int:
    """Which sequence it is: of n best outputs each is an example of the same id."""
    content = example_id.encode("utf-8", "surrogatepass") + b"\0" + counted_ids.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


class KeptStates:
    """The states of one folder, memory-mapped: rows for examples known by id and targets.

    Everything is compared once, when the folder is opened: `settings` and `examples` must be what
    the states were made from, and every byte what was written.

    Raises StaleCorpusError for other settings and DataError for damaged files.
    """

    def __init__(
        self, folder: Path, examples: Sequence[EncodedExample], *, settings: StatesSettings
    ) -> None:
        self.folder = folder
        self.record = read_record(folder)
        check_settings(folder, self.record.settings, settings)
        names = part_names(len(examples))
        for name in names:
            wanted = self.record.checksums.get(name, "none")
            path = folder / name
            found = of_file(path) if path.is_file() else "no such file"
            if found != wanted:
                raise DataError(
                    f"{path} must have the sha256 {_short(wanted)} of {STATES}, found "
                    f"{_short(found)}: it was damaged or replaced; delete the folder to have the "
                    "teacher's states made again"
                )
        self._parts = [np.asarray(np.load(folder / name, mmap_mode="r")) for name in names]
        described = (
            (_key(e.id, np.asarray(e.counted_ids, np.int64)), e.num_counted) for e in examples
        )
        dtype = np.dtype([("key", np.uint64), ("length", np.int64)])
        table = np.fromiter(described, dtype, count=len(examples))
        self._starts = part_starts(table["length"])
        self._places = np.argsort(table["key"])
        self._keys = table["key"][self._places]

    def at_targets(self, batch: SequenceBatch) -> Float[Tensor, "batch time teacher_dim"]:
        """The states, in fp32, at the positions that count, and zeros at all others.

        Raises DataError for an example, or targets of an example, that no states were kept of.
        """
        mask, targets = batch.target_mask.cpu(), batch.target_ids.cpu()
        states = torch.zeros(*mask.shape, self.record.width)
        for row, example_id in enumerate(batch.example_ids):
            ids = targets[row][mask[row]].numpy()
            example = self._example(example_id, ids)
            part, start = self._parts[example // PART_EXAMPLES], self._starts[example]
            states[row, mask[row]] = torch.from_numpy(part[start : start + len(ids)].astype("<f4"))
        return states

    def _example(self, example_id: str, counted_ids: npt.NDArray[np.int64]) -> int:
        key = np.uint64(_key(example_id, counted_ids))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            raise DataError(
                f"{self.folder} must hold the teacher's states for every sequence of a batch, but "
                f"has none for these {len(counted_ids)} targets of {example_id!r}; train on the "
                "sequences that the states were made for, or set teacher.cache_hidden_states=none"
            )
        return int(self._places[place])


def part_starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each example's rows begin in its part."""
    starts = np.cumsum(lengths) - lengths
    firsts = np.arange(len(lengths)) // PART_EXAMPLES * PART_EXAMPLES
    return starts - starts[firsts]


class KeptStatesTeacher:
    """Gives the teacher's whole distribution as kept hidden states and its head.

    At positions that do not count the states are zero; objectives never read them. `head` must lie
    where the batches lie, and be cut to the shared vocabulary.
    """

    def __init__(self, states: KeptStates, head: Head) -> None:
        self._states = states
        self._head = head

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The kept hidden states at every position that counts, on the batch's device."""
        hidden = self._states.at_targets(batch)
        return DenseScores(hidden.to(batch.target_ids.device), self._head)
