"""A teacher that is not run any more: its hidden states are read from disk.

Word-level distillation over fixed sequences asks the teacher the same questions in every epoch.
What it answers is its last hidden states, and these are kept by `states_making`. Nothing is
computed here but the place of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import load_file
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.teachers.states_folder import (
    DTYPES,
    INDEX,
    STATES,
    StatesSettings,
    check_settings,
    check_whole,
    read_manifest,
    target_checksums,
)
from seqdistill.teachers.target_checksums import Integers, sequence_checksums


class StoredStates:
    """The states of one folder, memory-mapped: rows for examples known by id and targets.

    Everything is compared once, when the folder is opened: `settings` and `examples` must be what
    the states were made from, and every byte what was written.

    Raises StaleCorpusError for other settings and DataError for damaged files.
    """

    def __init__(
        self, folder: Path, examples: Sequence[EncodedExample], *, settings: StatesSettings
    ) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        check_settings(folder, self.manifest, settings)
        check_whole(folder, self.manifest)
        index = load_file(folder / INDEX)
        checksums = target_checksums(examples)
        if not np.array_equal(index["checksums"], checksums):
            raise DataError(
                f"{folder / INDEX} must list the targets of these {len(examples)} examples, found "
                "others; delete the folder to have the teacher's states made again"
            )
        # An id alone is not enough: of the n best outputs each is an example of the same id.
        ids = EncodedDataset.of(examples).ids
        places = zip(ids, checksums.tolist(), index["offsets"].tolist(), strict=True)
        self._offsets = {(name, checksum): offset for name, checksum, offset in places}
        # Plain, since indexing a memmap object costs time that indexing an array does not.
        self._rows = np.asarray(
            np.memmap(
                folder / STATES,
                dtype=DTYPES[self.manifest.settings.precision],
                mode="r",
                shape=(self.manifest.num_positions + 1, self.manifest.width),
            )
        )

    def at_targets(self, batch: SequenceBatch) -> Float[Tensor, "batch time teacher_dim"]:
        """The states, in fp32, at the positions that count, and zeros at all others.

        Raises DataError for an example, or targets of an example, that no states were kept of.
        """
        counts = batch.target_mask.cpu()
        targets, lengths = batch.target_ids.cpu()[counts].numpy(), counts.sum(dim=1).numpy()
        offsets = self._offsets_of(batch.example_ids, targets, lengths)
        mask, zeros = counts.numpy(), self.manifest.num_positions
        places = np.where(mask, offsets[:, None] + mask.cumsum(axis=1) - 1, zeros)
        return torch.from_numpy(self._rows[places]).float()

    def _offsets_of(
        self, example_ids: Sequence[str], targets: Integers, lengths: Integers
    ) -> Integers:
        """Where the rows of each example begin; `targets` stand one after another."""
        if not lengths.all():
            raise self._unknown(example_ids[int(lengths.argmin())], 0)
        checksums = sequence_checksums(targets, lengths).tolist()
        keys = list(zip(example_ids, checksums, strict=True))
        missing = [index for index, key in enumerate(keys) if key not in self._offsets]
        if missing:
            raise self._unknown(example_ids[missing[0]], int(lengths[missing[0]]))
        return np.array([self._offsets[key] for key in keys], dtype=np.int64)

    def _unknown(self, example_id: str, length: int) -> DataError:
        known = any(name == example_id for name, _ in self._offsets)
        found = f"other targets, {length} tokens long" if known else "an example without states"
        return DataError(
            f"{self.folder} must hold the teacher's states for every sequence of a batch, found "
            f"{found}: {example_id!r}; train on the sequences that the states were made for, or "
            "set teacher.cache_hidden_states=none"
        )


class StoredStatesTeacher:
    """Gives the teacher's whole distribution as kept hidden states and its head.

    At positions that do not count the states are zero; objectives never read them. `head` must lie
    where the batches lie, and be cut to the shared vocabulary.
    """

    def __init__(self, states: StoredStates, head: Head) -> None:
        self._states = states
        self._head = head

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The kept hidden states at every position that counts, on the batch's device."""
        hidden = self._states.at_targets(batch)
        return DenseScores(hidden.to(batch.target_ids.device), self._head)
