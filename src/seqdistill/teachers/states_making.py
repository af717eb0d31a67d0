"""Runs a teacher once over all sequences and keeps its hidden states: made whole or not at all.

Memory does not grow with the data: a batch is written before the next one is computed. Who reads
the states is not known here.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.progress import Progress
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.records.atomic import new_folder
from seqdistill.records.environment import versions
from seqdistill.records.fingerprint import of_file
from seqdistill.records.locks import exclusive_lock
from seqdistill.teachers.states_folder import (
    DTYPES,
    FORMAT_VERSION,
    INDEX,
    STATES,
    StatesManifest,
    StatesSettings,
    is_finished,
    target_checksums,
    target_lengths,
)

_LOG = logging.getLogger(__name__)


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

    States that are there already are left alone, whatever they are of: who opens them compares.
    While another process makes them, this one waits. A killed process leaves nothing that could
    be taken for whole; the next one begins again.

    Raises UserError when the folder holds other things or cannot be written, or when the disk has
    no room; ModelError for a state that is not finite in this precision.
    """
    if is_finished(folder):
        return
    try:
        with exclusive_lock(folder, "keeping a teacher's states in"):
            if is_finished(folder):
                return
            _remove_left_overs(folder)
            with new_folder(folder) as aside:
                made = _Making(aside, settings, examples)
                made.fill(teacher, collator, batch_tokens, device, progress)
    except OSError as error:
        raise UserError(
            f"{folder} must be a folder that does not exist yet, or is empty, where teacher's "
            f"states can be written, found: {error}; give another one as teacher.states"
        ) from error


def _remove_left_overs(folder: Path) -> None:
    """Removes what killed processes have left: gigabytes, perhaps. The lock is held."""
    for left in folder.parent.glob(f"{folder.name}.partial-*"):
        _LOG.warning("removing unfinished states of a teacher: %s", left)
        shutil.rmtree(left, ignore_errors=True)


class _Making:
    """One folder being filled."""

    def __init__(
        self, folder: Path, settings: StatesSettings, examples: Sequence[EncodedExample]
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._examples = examples
        self._dtype = DTYPES[settings.precision]
        self._offsets = np.full(len(examples), -1, dtype=np.int64)
        self._digest = hashlib.sha256()
        self._width = 0

    def fill(
        self,
        teacher: SequenceModel,
        collator: Collator,
        batch_tokens: int,
        device: torch.device,
        progress: Progress,
    ) -> None:
        """Writes all files of the folder."""
        started = time.perf_counter()
        teacher = teacher.eval().requires_grad_(False).to(device)
        num_positions = 0
        # Reading batches hold examples of like lengths, too: their rows lie near each other.
        batches = in_length_order(self._examples, collator.kind, batch_tokens)
        progress.start("keeping the teacher's hidden states", len(self._examples))
        with open(self._folder / STATES, "wb") as stream:
            for indices in batches:
                batch = collator([self._examples[i] for i in indices]).to(device)
                rows = _rows(teacher, batch)
                if num_positions == 0:
                    self._width = rows.shape[1]
                    self._check_room()
                lengths = batch.target_mask.sum(dim=1).cpu().numpy()
                self._offsets[indices] = num_positions + np.cumsum(lengths) - lengths
                self._write(stream, self._stored(rows, batch))
                num_positions += len(rows)
                progress.advance(len(indices))
            # What padding reads: gathering it is faster than putting padding out afterwards.
            self._write(stream, np.zeros((1, self._width), self._dtype))
        progress.finish()
        self._finish(num_positions, time.perf_counter() - started)

    def _check_room(self) -> None:
        needed = int(target_lengths(self._examples).sum()) * self._width * self._dtype.itemsize
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"The teacher's states need {needed / 1e9:.1f} GB on disk in "
                f"{self._settings.precision}, found {free / 1e9:.1f} GB free; set "
                "teacher.states to a folder on another disk, or teacher.cache_hidden_states to "
                "fp16 or none"
            )

    def _stored(self, rows: Tensor, batch: SequenceBatch) -> npt.NDArray[np.floating]:
        with np.errstate(over="ignore"):  # told as not finite
            stored = rows.cpu().numpy().astype(self._dtype)
        if not np.isfinite(stored).all():
            raise ModelError(
                f"The teacher's hidden states must be finite in {self._settings.precision}, but "
                f"among the examples {', '.join(batch.example_ids[:5])} (first of "
                f"{batch.num_sequences}) one is not; set "
                "teacher.cache_hidden_states=fp32, or look at these examples"
            )
        return stored

    def _write(self, stream: BinaryIO, rows: npt.NDArray[np.floating]) -> None:
        content = rows.tobytes()
        self._digest.update(content)
        stream.write(content)

    def _finish(self, num_positions: int, seconds: float) -> None:
        index = {"offsets": self._offsets, "checksums": target_checksums(self._examples)}
        save_file(index, self._folder / INDEX)
        StatesManifest(
            format_version=FORMAT_VERSION,
            settings=self._settings,
            num_examples=len(self._examples),
            num_positions=num_positions,
            width=self._width,
            states_sha256=self._digest.hexdigest(),
            index_sha256=of_file(self._folder / INDEX),
            seconds=round(seconds, 2),
            versions=versions(),
        ).write(self._folder)


@torch.no_grad()
def _rows(teacher: SequenceModel, batch: SequenceBatch) -> Tensor:
    """The hidden states at the positions that count, example after example."""
    return hidden_states(teacher, batch)[batch.target_mask].float()
