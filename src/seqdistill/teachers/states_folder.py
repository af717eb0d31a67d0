"""The folder of a teacher's hidden states: what is in it, what it was made from, is it whole.

    manifest.json       settings, sizes and checksums; the folder takes its name when all is there
    states.bin          a row of numbers for each target position, little-endian; last, of zeros
    index.safetensors   where each example's rows begin, and a checksum of its targets

It runs no model and knows no batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample, Kind
from seqdistill.records.atomic import write_json
from seqdistill.records.fingerprint import of_file
from seqdistill.records.own_files import own_file
from seqdistill.teachers.target_checksums import Integers, sequence_checksums

MANIFEST, STATES, INDEX = "manifest.json", "states.bin", "index.safetensors"
FORMAT_VERSION = 1

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, np.dtype[np.floating]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
}


@dataclasses.dataclass(frozen=True)
class StatesSettings:
    """What the states are a function of: compared, all of it, before they are used.

    `start_id` is what an encoder-decoder's decoder reads first; None means the last target token;
    `prefix_ids` what it reads next.
    """

    teacher_fingerprint: str
    tokenizer_fingerprint: str
    data_fingerprint: str
    kind: Kind
    start_id: int | None
    precision: Precision
    prefix_ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class StatesManifest:
    """The settings, and what was made of them. `seconds` is what the teacher took."""

    format_version: int
    settings: StatesSettings
    num_examples: int
    num_positions: int
    width: int
    states_sha256: str
    index_sha256: str
    seconds: float
    versions: dict[str, str]

    @property
    def num_bytes(self) -> int:
        """The size of the states with their row of zeros."""
        return (self.num_positions + 1) * self.width * DTYPES[self.settings.precision].itemsize

    def write(self, folder: Path) -> None:
        """Writes manifest.json in one step."""
        write_json(folder / MANIFEST, dataclasses.asdict(self))


def target_lengths(examples: Sequence[EncodedExample]) -> Integers:
    """The number of each example's tokens that count."""
    return EncodedDataset.of(examples).lengths.counted


def target_checksums(examples: Sequence[EncodedExample]) -> Integers:
    """The checksum of each example's tokens that count."""
    ids = np.fromiter(chain.from_iterable(e.counted_ids for e in examples), dtype=np.int64)
    return sequence_checksums(ids, target_lengths(examples))


def is_finished(folder: Path) -> bool:
    """Whether the folder has all its files, of whatever settings."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> StatesManifest:
    """The manifest in `folder`. Raises DataError when it cannot be read."""
    path = folder / MANIFEST
    try:
        manifest = TypeAdapter(StatesManifest).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} must be the manifest of a teacher's states, found: {error}; delete the folder "
            "to have them made again"
        ) from error
    return manifest


def check_settings(folder: Path, manifest: StatesManifest, wanted: StatesSettings) -> None:
    """Raises StaleCorpusError when the states are those of another teacher, data or precision."""
    if manifest.format_version != FORMAT_VERSION:
        raise StaleCorpusError(
            f"{folder} must have format_version {FORMAT_VERSION}, found {manifest.format_version}; "
            "delete the folder, or give another one as teacher.states"
        )
    for field in dataclasses.fields(StatesSettings):
        found: object = getattr(manifest.settings, field.name)
        needed: object = getattr(wanted, field.name)
        if found != needed:
            raise StaleCorpusError(
                f"{folder} must hold the states of this teacher for these very sequences, but its "
                f"{field.name} is {_short(found)} and this run's is {_short(needed)}; give another "
                "folder as teacher.states, or delete this one to have it made again"
            )


def check_whole(folder: Path, manifest: StatesManifest) -> None:
    """Raises DataError unless both files have the bytes that the manifest describes."""
    states, index = own_file(folder, STATES), own_file(folder, INDEX)
    size = states.stat().st_size if states.is_file() else None
    if size != manifest.num_bytes:  # told before gigabytes are read
        found = "no such file" if size is None else f"{size:,} bytes"
        raise _damaged(states, f"{manifest.num_bytes:,} bytes", found)
    for path, wanted in ((states, manifest.states_sha256), (index, manifest.index_sha256)):
        sha256 = of_file(path) if path.is_file() else "no such file"
        if sha256 != wanted:
            raise _damaged(path, f"the sha256 {_short(wanted)}", _short(sha256))


def _damaged(path: Path, wanted: str, found: str) -> DataError:
    return DataError(
        f"{path} must have {wanted} as its manifest says, found {found}: it was damaged or "
        "replaced; delete the folder to have the teacher's states made again"
    )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}..." if len(text) == 64 else text
