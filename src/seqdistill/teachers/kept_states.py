"""A teacher's hidden states on disk, read in place of running it.

    states.json        what decides the states; when all are there also their checksums
    states-00000.npy   a row for each target position of 512 examples, one after another

Word-level distillation over fixed sequences asks the teacher the same questions in every epoch: it
is run once over all of them, by one process or many.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.errors import DataError, ModelError, StaleCorpusError, UserError
from seqdistill.core.head import Head
from seqdistill.core.progress import Progress
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.environment import versions
from seqdistill.records.fingerprint import of_file
from seqdistill.records.shared_parts import make_parts, one_at_a_time
from seqdistill.teachers.in_process import Teacher

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


class KeptStatesTeacher(Teacher):
    """Gives the teacher's whole distribution as kept hidden states, memory-mapped, and its head.

    Everything is compared once, when the folder is opened: `settings` and `examples` must be what
    the states were made from, and every byte what was written. `head` must lie where the batches
    lie, and be cut to the shared vocabulary. Raises StaleCorpusError for other settings and
    DataError for damaged files.
    """

    def __init__(
        self,
        folder: Path,
        examples: Sequence[EncodedExample],
        head: Head,
        *,
        settings: StatesSettings,
    ) -> None:
        self.folder, self._head = folder, head
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

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The states, in fp32, at the positions that count, on the batch's device.

        At all others they are zero; objectives never read them. Raises DataError for an example, or
        targets of an example, that no states were kept of.
        """
        mask, targets = batch.target_mask.cpu(), batch.target_ids.cpu()
        states = torch.zeros(*mask.shape, self.record.width)
        for row, example_id in enumerate(batch.example_ids):
            ids = targets[row][mask[row]].numpy()
            example = self._example(example_id, ids)
            part, start = self._parts[example // PART_EXAMPLES], self._starts[example]
            states[row, mask[row]] = torch.from_numpy(part[start : start + len(ids)].astype("<f4"))
        return DenseScores(states.to(batch.target_ids.device), self._head)

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


def make_states(
    teacher: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    folder: Path,
    *,
    settings: StatesSettings,
    batch_tokens: int,
    device: torch.device,
    progress: Progress,
) -> None:
    """Sees to it that `folder` holds the teacher's states at every target position.

    Any number of processes may call this at once: each makes parts that no other one is making. A
    killed process loses the part it was making. Memory does not grow with the data. Finished states
    are left alone, whatever they are of: who opens them compares.

    Raises UserError when the folder holds other things or cannot be written, or when the disk is
    too small; StaleCorpusError for a folder begun with other settings; ModelError for a state that
    is not finite in this precision.
    """
    if is_finished(folder):
        return
    try:
        with one_at_a_time(folder):
            record = _begun(folder, settings, examples, teacher.head.weight.shape[1])
        teacher.eval().requires_grad_(False).to(device)
        names = part_names(len(examples))

        def part(index: int) -> list[EncodedExample]:
            first = index * PART_EXAMPLES
            places = range(first, min(first + PART_EXAMPLES, len(examples)))
            return [examples[place] for place in places]

        def is_made(index: int) -> bool:
            # It was renamed when it was whole.
            if is_there := (folder / names[index]).is_file():
                progress.advance(len(part(index)))
            return is_there

        def make(index: int) -> None:
            with new_file(folder / names[index]) as aside:
                batches = _write(
                    aside, teacher, part(index), collator, record, batch_tokens, device
                )
                for num_examples in batches:
                    progress.advance(num_examples)

        def finish() -> None:
            checksums = {name: of_file(folder / name) for name in names}
            finished = dataclasses.replace(record, checksums=checksums, versions=versions())
            write_json(folder / STATES, dataclasses.asdict(finished))

        progress.start("keeping the teacher's hidden states", len(examples))
        make_parts(
            folder,
            names,
            is_made=is_made,
            make=make,
            is_finished=lambda: is_finished(folder),
            finish=finish,
        )
        progress.finish()
    except OSError as error:
        raise UserError(
            f"{folder} must be a folder where teacher's states can be written, found: {error}; "
            "give another one as teacher.states"
        ) from error


def _begun(
    folder: Path, settings: StatesSettings, examples: Sequence[EncodedExample], width: int
) -> StatesRecord:
    """The record of states begun before, or of these, which is written."""
    if (folder / STATES).is_file():
        stored = read_record(folder)
        check_settings(folder, stored.settings, settings)
        return stored
    own = (".", f"{STATES}.partial-")
    if any(not path.name.startswith(own) for path in folder.iterdir()):
        raise UserError(
            f"{folder} must be new, empty, or a folder of teacher's states, found other files; "
            "give another one as teacher.states"
        )
    record = StatesRecord(settings, sum(example.num_counted for example in examples), width)
    needed = record.num_positions * width * DTYPES[settings.precision].itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The teacher's states need {needed / 1e9:.1f} GB on disk in {settings.precision}, "
            f"found {free / 1e9:.1f} GB free; set teacher.states to a folder on another disk, or "
            "teacher.cache_hidden_states to fp16 or none"
        )
    write_json(folder / STATES, dataclasses.asdict(record))
    return record


def _write(
    path: Path,
    teacher: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    record: StatesRecord,
    batch_tokens: int,
    device: torch.device,
) -> Iterator[int]:
    """Writes the states of a part's examples batch by batch; yields how many each one holds."""
    lengths = np.array([example.num_counted for example in examples], dtype=np.int64)
    starts = part_starts(lengths)
    rows = np.lib.format.open_memmap(
        path,
        mode="w+",
        dtype=DTYPES[record.settings.precision],
        shape=(int(lengths.sum()), record.width),
    )
    for indices in in_length_order(examples, collator.kind, batch_tokens):
        batch = collator([examples[place] for place in indices]).to(device)
        states = _rows(teacher, batch)
        places = [np.arange(starts[i], starts[i] + lengths[i]) for i in indices]
        with np.errstate(over="ignore"):  # told as not finite
            stored = states.astype(rows.dtype)
        if not np.isfinite(stored).all():
            raise ModelError(
                f"The teacher's hidden states must be finite in {record.settings.precision}, but "
                f"among the examples {', '.join(batch.example_ids[:5])} (first of "
                f"{batch.num_sequences}) one is not; set teacher.cache_hidden_states=fp32, or look "
                "at these examples"
            )
        rows[np.concatenate(places)] = stored
        yield len(indices)
    rows.flush()


@torch.no_grad()
def _rows(teacher: SequenceModel, batch: SequenceBatch) -> np.ndarray:
    """The hidden states at the positions that count, example after example, in fp32."""
    read = batch.for_teacher
    rows: np.ndarray = hidden_states(teacher, read)[read.target_mask].float().cpu().numpy()
    return rows
