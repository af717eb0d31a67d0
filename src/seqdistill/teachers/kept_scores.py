"""A teacher's scores on disk, read in place of running it.

    scores.json          what decides the scores; when all are there also their checksums
    scores-00000.arrow   a row for each of 512 sequences: its key, and what `forms` says

Distillation over fixed sequences asks the teacher the same questions in every epoch: it is run once
over all of them, by one process or many. A row is found by its key, a hash of the tokens that the
teacher read and scored: in whatever order, epoch or part of the data they come.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.core.families import SparseForm
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.core.source import bytes_of
from seqdistill.data.encoding import EncodedExample
from seqdistill.records.fingerprint import canonical_json, of_bytes, of_file
from seqdistill.teachers.forms import Form, HiddenStates, Numbers, at_targets, sparse_scores
from seqdistill.teachers.in_process import Teacher

SCORES = "scores.json"
PART_EXAMPLES = 512
KEY = "key"


@dataclasses.dataclass(frozen=True)
class ScoresSettings:
    """What the scores of given tokens are a function of: compared, all of it, before they are used.

    `start_id` is what an encoder-decoder's decoder reads first; None means the last target token;
    `prefix_ids` what it reads next, `end_ids` the symbols that end an output. `dtype` is that of
    the teacher's weights.
    """

    teacher_fingerprint: str
    vocabulary_fingerprint: str
    kind: Kind
    start_id: int | None
    form: Form
    prefix_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    dtype: str = "torch.float32"

    @functools.cached_property
    def salt(self) -> bytes:
        """What all keys are mixed with."""
        return bytes.fromhex(of_bytes(canonical_json(dataclasses.asdict(self)).encode()))


@dataclasses.dataclass(frozen=True)
class ScoresRecord:
    """The content of scores.json: written when the making begins, and again when it has ended."""

    settings: ScoresSettings
    data_fingerprint: str
    """Of all sequences in their order, by which parts are made; rows are found by their keys."""
    num_examples: int
    num_positions: int
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The sha256 of each part by its name; none before all are there."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    teacher: str | None = None
    """Its name as the recipe had it, for who has the scores alone; and its licence where known."""
    licence: str | None = None

    @property
    def part_names(self) -> list[str]:
        """The files of all sequences."""
        num_parts = -(-self.num_examples // PART_EXAMPLES)
        return [f"scores-{index:05d}.arrow" for index in range(num_parts)]

    def places_of(self, index: int) -> range:
        """Which sequences lie in a part."""
        first = index * PART_EXAMPLES
        return range(first, min(first + PART_EXAMPLES, self.num_examples))


def is_finished(folder: Path) -> bool:
    """Whether the folder has all its files, of whatever settings."""
    return (folder / SCORES).is_file() and bool(read_record(folder).checksums)


def read_record(folder: Path) -> ScoresRecord:
    """The record in `folder`. Raises DataError when it cannot be read."""
    path = folder / SCORES
    try:
        return TypeAdapter(ScoresRecord).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        found = " ".join(str(error).split())[:120]
        raise DataError(
            f"{path} must describe a teacher's scores, found: {found}; delete the folder to have "
            "them made again"
        ) from error


def missing_from(folder: Path) -> str:
    """The first file that unfinished scores lack, for people."""
    if not (folder / SCORES).is_file():
        return SCORES
    names = read_record(folder).part_names
    missing = [name for name in names if not (folder / name).is_file()]
    return f"{missing[0]} ({len(missing)} of {len(names)} files)" if missing else "checksums"


def check_settings(folder: Path, found: ScoresSettings, wanted: ScoresSettings) -> None:
    """Raises StaleCorpusError for scores of another teacher, vocabulary, form or beginning."""
    for field in dataclasses.fields(ScoresSettings):
        old: object = getattr(found, field.name)
        new: object = getattr(wanted, field.name)
        if old != new:
            raise StaleCorpusError(
                f"{folder} must hold the scores of this teacher in this form, but its "
                f"{field.name} is {_short(old)} and this run's is {_short(new)}; give another "
                "folder as teacher.kept_scores, or delete this one to have it made again"
            )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}..." if len(text) == 64 else text


def row_key(example: EncodedExample, settings: ScoresSettings) -> int:
    """Of what the teacher reads and scores: prompt, targets, vocabulary and the teacher itself."""
    read = example.for_teacher()
    source = read.source_ids if read.source is None else read.source
    parts = (source, [i for span in read.counted_spans for i in span], read.target_ids)
    content = b"".join(len(part := bytes_of(each)).to_bytes(8) + part for each in parts)
    digest = hashlib.blake2b(content, digest_size=8, key=settings.salt)
    return int.from_bytes(digest.digest())


def _batch_key(example_id: str, counted_ids: npt.NDArray[np.int64]) -> int:
    """Which sequence it is: of n best outputs each is an example of the same id."""
    content = example_id.encode("utf-8", "surrogatepass") + b"\0" + counted_ids.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


class _Rows:
    """The rows of all parts, memory-mapped."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._batches = [batch for path in paths for batch in _record_batches(path)]
        keys = [batch.column(KEY).to_numpy() for batch in self._batches]
        self.keys = np.concatenate(keys)
        self._starts = np.cumsum([0, *(len(each) for each in keys)])
        self._lists = dict[tuple[int, str], tuple[Numbers, Numbers]]()

    def column(self, name: str, rows: Sequence[int]) -> list[Numbers]:
        """The numbers of these rows."""
        found = []
        for row in rows:
            place = int(np.searchsorted(self._starts, row, side="right")) - 1
            if (place, name) not in self._lists:
                lists = self._batches[place].column(name)
                self._lists[place, name] = lists.offsets.to_numpy(), lists.values.to_numpy()
            offsets, values = self._lists[place, name]
            start, stop = offsets[row - self._starts[place] :][:2]
            found.append(values[start:stop])
        return found


def _record_batches(path: Path) -> list[Any]:
    try:
        stored = pa.ipc.open_file(pa.memory_map(str(path)))
        return [stored.get_batch(place) for place in range(stored.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path} must be an Arrow file of a teacher's scores, found: {error}; delete the "
            "folder to have them made again"
        ) from error


class KeptScoresTeacher(Teacher):
    """Gives what was kept of a teacher, memory-mapped.

    Everything is compared once, when the folder is opened: `settings` must be what the scores were
    made with, every byte what was written, and there must be a row for each of `examples`. `head`,
    of hidden states, must lie where the batches lie, and be cut to the shared vocabulary.
    `sparse_form` is what other scores are taken for: `sampled` of `Samples`, another of a `TopK`.

    Raises StaleCorpusError for other settings and DataError for damaged or missing files and rows.
    """

    def __init__(
        self,
        folder: Path,
        examples: Sequence[EncodedExample],
        *,
        settings: ScoresSettings,
        head: Head | None = None,
        sparse_form: SparseForm = "bucket",
    ) -> None:
        self.folder, self._head, self._sparse_form = folder, head, sparse_form
        self.record = read_record(folder)
        check_settings(folder, self.record.settings, settings)
        self._rows = _Rows([self._whole(name) for name in self.record.part_names])
        order = np.argsort(self._rows.keys)
        described = (
            (_batch_key(e.id, np.asarray(e.counted_ids, np.int64)), row_key(e, settings))
            for e in examples
        )
        dtype = np.dtype([("batch", np.uint64), ("row", np.uint64)])
        table = np.fromiter(described, dtype, count=len(examples))
        places = np.searchsorted(self._rows.keys[order], table["row"])
        rows = order[np.minimum(places, len(order) - 1)]
        if len(missing := np.flatnonzero(self._rows.keys[rows] != table["row"])):
            raise DataError(
                f"{folder} must hold the teacher's scores of every sequence, token by token, but "
                f"lacks {len(missing):,} of {len(examples):,}, the first that of "
                f"{examples[int(missing[0])].id!r}; score these sequences into another folder "
                "(`seqdistill score RECIPE --teacher-scores`) and name it as teacher.kept_scores"
            )
        order = np.argsort(table["batch"])
        self._batch_keys, self._row_of = table["batch"][order], rows[order]

    def _whole(self, name: str) -> Path:
        wanted = self.record.checksums.get(name, "none")
        path = self.folder / name
        found = of_file(path) if path.is_file() else "no such file"
        if found != wanted:
            raise DataError(
                f"{path} must have the sha256 {_short(wanted)} of {SCORES}, found "
                f"{_short(found)}: it is not finished, or was damaged or replaced; delete the "
                "folder to have the teacher's scores made again"
            )
        return path

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The scores at the positions that count, in fp32, on the batch's device.

        At all others they are zero; objectives never read them. Raises DataError for an example, or
        targets of an example, that were not among those given when the folder was opened.
        """
        mask, targets = batch.target_mask.cpu(), batch.target_ids.cpu()
        rows = [
            self._row(example_id, targets[row][mask[row]].numpy())
            for row, example_id in enumerate(batch.example_ids)
        ]
        form = self.record.settings.form

        def column(name: str) -> list[Numbers]:
            return self._rows.column(name, rows)

        if isinstance(form, HiddenStates):
            assert self._head is not None, "hidden states are nothing without their head"
            width = self._head.weight.shape[1]
            return DenseScores(at_targets(form.read(column, width), batch), self._head)
        return sparse_scores(
            *form.read(column), batch=batch, vocab_size=form.vocab_size, form=self._sparse_form
        )

    def _row(self, example_id: str, counted_ids: npt.NDArray[np.int64]) -> int:
        key = np.uint64(_batch_key(example_id, counted_ids))
        place = int(np.searchsorted(self._batch_keys, key))
        if place == len(self._batch_keys) or self._batch_keys[place] != key:
            raise DataError(
                f"{self.folder} must hold the teacher's scores for every sequence of a batch, but "
                f"has none for these {len(counted_ids)} targets of {example_id!r}; train on the "
                "sequences that the scores were made for, or leave teacher.kept_scores out"
            )
        return int(self._row_of[place])
