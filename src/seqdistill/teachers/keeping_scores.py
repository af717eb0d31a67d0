"""Makes a teacher's scores on disk, by one process or many; `kept_scores` reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError, StaleCorpusError, UserError
from seqdistill.core.progress import Progress
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.environment import versions
from seqdistill.records.fingerprint import of_file
from seqdistill.records.shared_parts import Make, Parts, make_parts, one_at_a_time
from seqdistill.teachers.forms import HiddenStates, Numbers
from seqdistill.teachers.kept_scores import (
    KEY,
    SCORES,
    ScoresRecord,
    ScoresSettings,
    check_settings,
    is_finished,
    read_record,
    row_key,
)


@dataclasses.dataclass
class Keeping:
    """Scores to be kept: of which sequences, whose, and where.

    The teacher runs on `device`, `batch_tokens` at once. Memory does not grow with the data.
    """

    teacher: SequenceModel
    examples: Sequence[EncodedExample]
    collator: Collator
    folder: Path
    settings: ScoresSettings
    batch_tokens: int
    device: torch.device
    progress: Progress
    name: str | None = None
    """The teacher's, as the recipe has it, for the record; and what says its licence."""
    licence: Callable[[], str | None] = lambda: None

    def __post_init__(self) -> None:
        dataset = EncodedDataset.of(self.examples)
        self._wanted = ScoresRecord(
            self.settings,
            dataset.fingerprint,
            len(self.examples),
            int(dataset.lengths.counted.sum()),
            teacher=self.name,
        )

    def parts(self) -> Parts:
        """The files, for whoever makes them."""
        return Parts(
            self.folder,
            self._wanted.part_names,
            begin=self._begin,
            is_made=self._is_made,
            make=self._make,
            is_finished=lambda: is_finished(self.folder),
            finish=self._finish,
        )

    def _begin(self) -> None:
        with _writable(self.folder), one_at_a_time(self.folder):
            if (self.folder / SCORES).is_file():
                self._check_begun(read_record(self.folder))
            else:
                self._check_place()
                record = dataclasses.replace(self._wanted, licence=self.licence())
                write_json(self.folder / SCORES, dataclasses.asdict(record))
        self.teacher.eval().requires_grad_(False).to(self.device)

    def _check_begun(self, stored: ScoresRecord) -> None:
        check_settings(self.folder, stored.settings, self.settings)
        if stored.data_fingerprint != self._wanted.data_fingerprint:
            raise StaleCorpusError(
                f"{self.folder} was begun for other sequences ({stored.num_examples:,} of them), "
                "and must be finished for those; give another folder as teacher.kept_scores, or "
                "delete this one"
            )

    def _check_place(self) -> None:
        """Raises UserError for a folder with other things, and for a disk that is too small."""
        own = (".", f"{SCORES}.partial-")
        if any(not path.name.startswith(own) for path in self.folder.iterdir()):
            raise UserError(
                f"{self.folder} must be new, empty, or a folder of teacher's scores, found other "
                "files; give another one as teacher.kept_scores"
            )
        form, width = self.settings.form, self.teacher.head.weight.shape[1]
        needed = self._wanted.num_positions * form.num_bytes(width)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"The teacher's scores need {needed / 1e9:.1f} GB on disk as {form}, found "
                f"{free / 1e9:.1f} GB free; set teacher.kept_scores to a folder on another disk, "
                "or keep less of them (teacher.scores=top_k)"
            )

    def _is_made(self, index: int) -> bool:
        # It was renamed when it was whole.
        if is_there := (self.folder / self._wanted.part_names[index]).is_file():
            self.progress.advance(len(self._wanted.places_of(index)))
        return is_there

    def _make(self, index: int) -> None:
        path = self.folder / self._wanted.part_names[index]
        chosen = [self.examples[place] for place in self._wanted.places_of(index)]
        with _writable(self.folder), new_file(path) as aside:
            for num_examples in _write(
                aside,
                self.teacher,
                chosen,
                self.collator,
                self.settings,
                self.batch_tokens,
                self.device,
            ):
                self.progress.advance(num_examples)

    def _finish(self) -> None:
        names = self._wanted.part_names
        with _writable(self.folder):
            checksums = {name: of_file(self.folder / name) for name in names}
            stored = read_record(self.folder)
            finished = dataclasses.replace(stored, checksums=checksums, versions=versions())
            write_json(self.folder / SCORES, dataclasses.asdict(finished))


def make_scores(keeping: Keeping, make: Make = make_parts) -> None:
    """Sees to it that the folder holds the teacher's scores at every target position.

    Any number of processes may call this at once: each makes parts that no other one is making;
    with another `make`, as that says. A killed process loses the part it was making. Finished
    scores are left alone, whatever they are of: who opens them compares.

    Raises UserError when the folder holds other things or cannot be written, or when the disk is
    too small; StaleCorpusError for a folder begun with other settings or sequences; ModelError for
    a state that is not finite in the form's precision.
    """
    if is_finished(keeping.folder):
        return
    what = f"keeping the teacher's {keeping.settings.form}"
    keeping.progress.start(what, len(keeping.examples))
    make(keeping.parts())
    keeping.progress.finish()


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} must be a folder where teacher's scores can be written, found: {error}; "
            "give another one as teacher.kept_scores"
        ) from error


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
            keys = [row_key(example, settings) for example in chosen]
            columns = form.rows(states, teacher.head, [e.num_counted for e in chosen], keys)
            made = {KEY: pa.array(np.array(keys, np.uint64))} | {
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
