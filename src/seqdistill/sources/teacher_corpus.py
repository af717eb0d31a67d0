"""A teacher's outputs for a training set, on disk: made once by `labelling`, verified, reused.

corpus.json          what decides the outputs; when all are there also counts and checksums
shard-00000.parquet  the outputs, see `shards`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.atomic import write_json
from seqdistill.records.checksums import own_file
from seqdistill.records.fingerprint import of_file
from seqdistill.sources.shards import Counts, TeacherOutput, read_shard

CORPUS = "corpus.json"
_NO_EFFECT = {
    "beam": {"seed", "sampling_temperature", "top_k", "top_p", "batch_tokens"},
    "sample": {"beam_size", "length_penalty", "batch_tokens"},
}
"""Settings that decide no output in a mode; `batch_tokens` is a matter of speed."""
Difference = tuple[str, object, object]
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Everything that decides a teacher's outputs.

    `seed` counts in mode `sample` only. `engine` names the program, its arithmetic and its search,
    such as "ctranslate2 auto of torch.float32, beam or greedy". `sources_fingerprint` is that of
    `fingerprint_sources`.
    """

    teacher_fingerprint: str
    tokenizer_fingerprint: str
    sources_fingerprint: str
    decoding: Decoding
    seed: int = 0
    engine: str = ""


@dataclasses.dataclass(frozen=True)
class CorpusRecord:
    """The content of corpus.json: written when labelling begins, and again when it has ended."""

    settings: CorpusSettings
    num_examples: int
    shard_size: int
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The sha256 of each shard by its name; none before all are there."""
    counts: Counts = dataclasses.field(default_factory=Counts)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def shard_names(self) -> list[str]:
        """The names of all shards, there or not."""
        number = -(-self.num_examples // self.shard_size)
        return [f"shard-{index:05d}.parquet" for index in range(number)]


@dataclasses.dataclass(frozen=True)
class TeacherCorpus:
    """A verified corpus on disk, whose rows are read from there whenever it is iterated."""

    folder: Path
    record: CorpusRecord

    @classmethod
    def open(cls, folder: Path, *, expected: CorpusSettings | None) -> TeacherCorpus:
        """The corpus in `folder`, its shards compared with their checksums.

        Raises StaleCorpusError when it was made otherwise than `expected` (None expects nothing),
        and DataError when it is not finished or a shard is damaged.
        """
        record = read_record(folder)
        if expected is not None:
            check_same(folder, differences(record.settings, expected))
        if not record.checksums:
            raise DataError(
                f"{folder} must be a finished teacher's corpus, but its labelling has not ended; "
                "label again to finish it: shards that are there are kept"
            )
        for name in record.checksums:
            check_shard(folder, record, name)
        return cls(folder, record)

    def best(self, outputs: Sequence[TeacherOutput], count: int) -> list[TeacherOutput]:
        """So many of an example's, those that the teacher's decoder put first."""
        return [output for output in outputs if output.rank < count]

    def by_example(self) -> Iterator[tuple[str, list[TeacherOutput]]]:
        """Every example's id, in order, with its outputs that were kept: none, or some."""
        for name in self.record.shard_names:
            yield from read_shard(own_file(self.folder, name))


def in_step(
    items: Iterable[tuple[str, Item]], stream: Iterable[tuple[str, Value]]
) -> Iterator[tuple[Item, Value]]:
    """Each item with the value of its id, both read once and in one order.

    Ids of `stream` that no item has are skipped. Raises DataError for an item without a value.
    """
    values = iter(stream)
    for name, item in items:
        for found, value in values:
            if found == name:
                yield item, value
                break
        else:
            raise DataError(
                f"The teacher's corpus must be of these examples, but it has none {name!r} at its "
                "place; label this data, or give another folder as sequences.corpus."
            )


def write_record(folder: Path, record: CorpusRecord) -> None:
    """Writes corpus.json, whole or not at all."""
    write_json(folder / CORPUS, TypeAdapter(CorpusRecord).dump_python(record, mode="json"))


def read_record(folder: Path) -> CorpusRecord:
    """What corpus.json holds. Raises DataError when there is none or it cannot be read."""
    path = folder / CORPUS
    try:
        return TypeAdapter(CorpusRecord).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} must be a teacher's corpus, but has no {CORPUS}; label into it first"
        ) from error
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} must describe a teacher's corpus, found: {error}; delete the folder to label "
            "again"
        ) from error


def is_begun(folder: Path) -> bool:
    """Whether labels were written there, or begun."""
    return (folder / CORPUS).is_file()


def is_complete(folder: Path) -> bool:
    """Whether labelling has ended there and every shard is there, whole or not."""
    if not is_begun(folder):
        return False
    checksums = read_record(folder).checksums
    return bool(checksums) and all(own_file(folder, name).is_file() for name in checksums)


def check_shard(folder: Path, record: CorpusRecord, name: str) -> None:
    """Raises DataError unless the file has the bytes that corpus.json describes."""
    path, wanted = own_file(folder, name), record.checksums[name]
    if not path.is_file():
        raise DataError(f"{path} must be there, but is missing; label again to have it made again")
    if (found := of_file(path)) != wanted:
        raise DataError(
            f"{path} must have the sha256 {wanted} of {CORPUS}, found {found}: it was damaged or "
            "replaced; delete this file and label again to have it alone made again"
        )


def check_usable(folder: Path) -> None:
    """Raises DataError for a file, and for a folder with other things than a teacher's corpus."""
    if not folder.exists() or is_begun(folder):
        return
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder, found a file; give another folder")
    others = sorted(
        entry.name for entry in folder.iterdir() if not entry.name.startswith((".", CORPUS))
    )
    if others and not is_begun(folder):  # another process may just have begun
        raise DataError(
            f"{folder} must be a new or empty folder or a teacher's corpus, found {others[0]!r} "
            f"and no {CORPUS}; give another folder"
        )


def differences(stored: CorpusSettings, wanted: CorpusSettings) -> list[Difference]:
    """The fields that decide outputs and differ, each with what is stored and what is wanted."""
    pairs = [
        (f"{part}{name}", getattr(ours, name), getattr(theirs, name))
        for part, ours, theirs, names in (
            ("", stored, wanted, vars(wanted)),
            ("decoding.", stored.decoding, wanted.decoding, Decoding.model_fields),
        )
        for name in names
        if name not in {"decoding", *_NO_EFFECT[wanted.decoding.mode]}
    ]
    return [pair for pair in pairs if pair[1] != pair[2]]


def check_same(folder: Path, found: list[Difference]) -> None:
    """Raises StaleCorpusError, naming each field that differs, unless none does."""
    if not found:
        return
    listed = "\n".join(f"  {name}: stored {old!r}, wanted {new!r}" for name, old, new in found)
    raise StaleCorpusError(
        f"{folder} must hold a teacher's corpus made as wanted, but it differs in\n{listed}\n"
        "go back to the stored settings, give another folder, or delete this one to label again"
    )
