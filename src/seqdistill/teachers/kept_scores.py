"""A teacher's scores on disk, read in place of running it.

    scores.json          what decides the scores; when all are there also their checksums
    scores-00000.arrow   a row for each of 512 sequences: its key, and what `forms` says

Distillation over fixed sequences asks the teacher the same questions in every epoch: it is run once
over all of them, by one process or many. A row is found by its key, a hash of the tokens that the
teacher read and scored: in whatever order, epoch or part of the data they come.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.errors import DataError, ModelError, StaleCorpusError, UserError
from seqdistill.core.families import SparseForm
from seqdistill.core.head import Head
from seqdistill.core.progress import Progress
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.core.source import bytes_of
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.environment import versions
from seqdistill.records.fingerprint import canonical_json, of_bytes, of_file
from seqdistill.records.shared_parts import make_parts, one_at_a_time
from seqdistill.teachers.forms import Form, HiddenStates, Numbers, at_targets, sparse_scores
from seqdistill.teachers.in_process import Teacher

SCORES = "scores.json"
PART_EXAMPLES = 512
_KEY = "key"


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

    @property
    def part_names(self) -> list[str]:
        """The files of all sequences."""
        num_parts = -(-self.num_examples // PART_EXAMPLES)
        return [f"scores-{index:05d}.arrow" for index in range(num_parts)]


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


def _row_key(example: EncodedExample, settings: ScoresSettings) -> int:
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
        keys = [batch.column(_KEY).to_numpy() for batch in self._batches]
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
            (_batch_key(e.id, np.asarray(e.counted_ids, np.int64)), _row_key(e, settings))
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


def make_scores(
    teacher: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    folder: Path,
    *,
    settings: ScoresSettings,
    batch_tokens: int,
    device: torch.device,
    progress: Progress,
) -> None:
    """Sees to it that `folder` holds the teacher's scores at every target position.

    Any number of processes may call this at once: each makes parts that no other one is making. A
    killed process loses the part it was making. Memory does not grow with the data. Finished scores
    are left alone, whatever they are of: who opens them compares.

    Raises UserError when the folder holds other things or cannot be written, or when the disk is
    too small; StaleCorpusError for a folder begun with other settings or sequences; ModelError for
    a state that is not finite in the form's precision.
    """
    if is_finished(folder):
        return
    try:
        with one_at_a_time(folder):
            record = _begun(folder, settings, examples, teacher.head.weight.shape[1])
        teacher.eval().requires_grad_(False).to(device)
        names = record.part_names

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
                for num_examples in _write(
                    aside, teacher, part(index), collator, settings, batch_tokens, device
                ):
                    progress.advance(num_examples)

        def finish() -> None:
            checksums = {name: of_file(folder / name) for name in names}
            finished = dataclasses.replace(record, checksums=checksums, versions=versions())
            write_json(folder / SCORES, dataclasses.asdict(finished))

        progress.start(f"keeping the teacher's {settings.form}", len(examples))
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
            f"{folder} must be a folder where teacher's scores can be written, found: {error}; "
            "give another one as teacher.kept_scores"
        ) from error


def _begun(
    folder: Path, settings: ScoresSettings, examples: Sequence[EncodedExample], width: int
) -> ScoresRecord:
    """The record of scores begun before, or of these, which is written."""
    dataset = EncodedDataset.of(examples)
    if (folder / SCORES).is_file():
        stored = read_record(folder)
        check_settings(folder, stored.settings, settings)
        if stored.data_fingerprint != dataset.fingerprint:
            raise StaleCorpusError(
                f"{folder} was begun for other sequences ({stored.num_examples:,} of them), and "
                "must be finished for those; give another folder as teacher.kept_scores, or delete "
                "this one"
            )
        return stored
    own = (".", f"{SCORES}.partial-")
    if any(not path.name.startswith(own) for path in folder.iterdir()):
        raise UserError(
            f"{folder} must be new, empty, or a folder of teacher's scores, found other files; "
            "give another one as teacher.kept_scores"
        )
    num_positions = int(dataset.lengths.counted.sum())
    record = ScoresRecord(settings, dataset.fingerprint, len(examples), num_positions)
    needed = num_positions * settings.form.num_bytes(width)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The teacher's scores need {needed / 1e9:.1f} GB on disk as {settings.form}, found "
            f"{free / 1e9:.1f} GB free; set teacher.kept_scores to a folder on another disk, or "
            "keep less of them (teacher.scores=top_k)"
        )
    write_json(folder / SCORES, dataclasses.asdict(record))
    return record


def _write(
    path: Path,
    teacher: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    settings: ScoresSettings,
    batch_tokens: int,
    device: torch.device,
) -> Iterator[int]:
    """Writes the scores of a part's examples batch by batch; yields how many each one holds."""
    form, writer = settings.form, None
    largest = form.largest if isinstance(form, HiddenStates) else float(np.finfo(np.float32).max)
    with contextlib.ExitStack() as opened:
        sink = opened.enter_context(pa.OSFile(str(path), "wb"))
        for indices in in_length_order(examples, collator.kind, batch_tokens):
            chosen = [examples[place] for place in indices]
            batch = collator(chosen).to(device)
            states = _states(teacher, batch)
            if not (states.abs() <= largest).all():
                raise ModelError(
                    f"The teacher's hidden states must be finite, as {form}, but among the "
                    f"examples {', '.join(batch.example_ids[:5])} (first of "
                    f"{batch.num_sequences}) one is not; set teacher.cache_hidden_states=fp32, or "
                    "look at these examples"
                )
            keys = [_row_key(example, settings) for example in chosen]
            columns = form.rows(states, teacher.head, [e.num_counted for e in chosen], keys)
            made = {_KEY: pa.array(np.array(keys, np.uint64))} | {
                name: _lists(rows) for name, rows in zip(form.columns, columns, strict=True)
            }
            stored = pa.record_batch(made)
            if writer is None:
                writer = opened.enter_context(pa.ipc.new_file(sink, stored.schema))
            writer.write_batch(stored)
            yield len(indices)


def _lists(rows: Sequence[Numbers]) -> Any:
    offsets = np.cumsum([0, *(row.size for row in rows)]).astype(np.int32)
    values = np.concatenate([row.reshape(-1) for row in rows])
    return pa.ListArray.from_arrays(offsets, pa.array(values))


@torch.no_grad()
def _states(teacher: SequenceModel, batch: SequenceBatch) -> Tensor:
    """The hidden states at the positions that count, example after example."""
    read = batch.for_teacher
    return hidden_states(teacher, read)[read.target_mask]
