"""Runs a teacher once over all sequences and keeps its hidden states, by one process or many.

Memory does not grow with the data: a batch is written before the next one is computed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.progress import Progress
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.environment import versions
from seqdistill.records.fingerprint import of_file
from seqdistill.records.shared_parts import make_parts, one_at_a_time
from seqdistill.teachers.kept_states import (
    DTYPES,
    PART_EXAMPLES,
    STATES,
    StatesRecord,
    StatesSettings,
    check_settings,
    is_finished,
    part_names,
    part_starts,
    read_record,
)


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
    killed process loses the part it was making. Finished states are left alone, whatever they are
    of: who opens them compares.

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
        making = _Making(
            teacher, examples, collator, folder, record, batch_tokens, device, progress
        )
        progress.start("keeping the teacher's hidden states", len(examples))
        make_parts(
            folder,
            part_names(len(examples)),
            is_made=making.is_made,
            make=making.make,
            is_finished=lambda: is_finished(folder),
            finish=making.finish,
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


@dataclasses.dataclass(frozen=True)
class _Making:
    """One process's share of a folder."""

    teacher: SequenceModel
    examples: Sequence[EncodedExample]
    collator: Collator
    folder: Path
    record: StatesRecord
    batch_tokens: int
    device: torch.device
    progress: Progress

    def _part(self, index: int) -> tuple[Path, list[EncodedExample]]:
        path = self.folder / part_names(len(self.examples))[index]
        places = range(index * PART_EXAMPLES, min((index + 1) * PART_EXAMPLES, len(self.examples)))
        return path, [self.examples[place] for place in places]

    def is_made(self, index: int) -> bool:
        """Whether the part is there: it was renamed when it was whole."""
        path, part = self._part(index)
        if is_there := path.is_file():
            self.progress.advance(len(part))
        return is_there

    def make(self, index: int) -> None:
        """Runs the teacher over the part's examples and writes its states, batch by batch."""
        path, part = self._part(index)
        lengths = np.array([example.num_counted for example in part], dtype=np.int64)
        starts = part_starts(lengths)
        with new_file(path) as aside:
            rows = np.lib.format.open_memmap(
                aside,
                mode="w+",
                dtype=DTYPES[self.record.settings.precision],
                shape=(int(lengths.sum()), self.record.width),
            )
            for indices in in_length_order(part, self.collator.kind, self.batch_tokens):
                batch = self.collator([part[place] for place in indices]).to(self.device)
                states = _rows(self.teacher, batch)
                places = [np.arange(starts[i], starts[i] + lengths[i]) for i in indices]
                with np.errstate(over="ignore"):  # told as not finite
                    stored = states.astype(rows.dtype)
                if not np.isfinite(stored).all():
                    raise ModelError(
                        "The teacher's hidden states must be finite in "
                        f"{self.record.settings.precision}, but among the examples "
                        f"{', '.join(batch.example_ids[:5])} (first of {batch.num_sequences}) one "
                        "is not; set teacher.cache_hidden_states=fp32, or look at these examples"
                    )
                rows[np.concatenate(places)] = stored
                self.progress.advance(len(indices))
            rows.flush()

    def finish(self) -> None:
        """Writes the checksums, by which the states are finished."""
        names = part_names(len(self.examples))
        checksums = {name: of_file(self.folder / name) for name in names}
        finished = dataclasses.replace(self.record, checksums=checksums, versions=versions())
        write_json(self.folder / STATES, dataclasses.asdict(finished))


@torch.no_grad()
def _rows(teacher: SequenceModel, batch: SequenceBatch) -> np.ndarray:
    """The hidden states at the positions that count, example after example, in fp32."""
    rows: np.ndarray = hidden_states(teacher, batch)[batch.target_mask].float().cpu().numpy()
    return rows
