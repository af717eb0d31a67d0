"""Rows in Arrow, in memory or mapped from a file, as a sequence of objects made when asked for.

A table may be a selection of the stored rows, and may show them edited: both cost no copy.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqdistill.core.source import SourceInputs

T = TypeVar("T")
This = TypeVar("This", bound="Table[Any]")
Notes = Mapping[str, int]
"""How many rows something was noticed of, by what it was."""
ROWS_PER_BATCH = 2048
"""Every batch but the last has so many rows, however it was made, so that equal rows have equal
fingerprints."""
_CHUNKS_IN_MEMORY = 16


@dataclasses.dataclass(frozen=True)
class Stored:
    """An Arrow table, its fingerprint, and what was noticed of its rows."""

    table: Any
    fingerprint: str
    notes: Notes
    mapped: tuple[mmap.mmap, ...] = ()

    def release(self) -> None:
        """Takes the pages of mapped files out of this process's memory; they stay readable."""
        for mapped in self.mapped if hasattr(mmap, "MADV_DONTNEED") else ():
            mapped.madvise(mmap.MADV_DONTNEED)

    def gathered(self, column: str, read: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """A value for each row: what `read` makes, by copying, of each chunk of the column.

        Of a mapped file few pages are in memory at a time, however large those around a value are.
        """
        found = []
        for place, chunk in enumerate(self.table.column(column).chunks, start=1):
            found.append(read(chunk))
            if place % _CHUNKS_IN_MEMORY == 0:
                self.release()
        self.release()
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def followed_by(self, other: Stored) -> Stored:
        """The rows of both tables, copied nowhere."""
        joined = hashlib.sha256(f"{self.fingerprint} {other.fingerprint}".encode()).hexdigest()
        return Stored(
            pa.concat_tables([self.table, other.table]),
            joined,
            Counter(self.notes) + Counter(other.notes),
            (*self.mapped, *other.mapped),
        )


def put_away(
    batches: Iterable[tuple[Any, Notes]], keep: Callable[[Any], object]
) -> tuple[str, Notes]:
    """Gives each record batch to `keep`; the fingerprint of all, and what was noticed of them."""
    digest, notes = hashlib.sha256(), Counter[str]()
    for batch, noted in batches:
        digest.update(batch.serialize())
        keep(batch)
        notes.update(noted)
    return digest.hexdigest(), notes


def in_memory(batches: Iterable[tuple[Any, Notes]], schema: Any) -> Stored:
    """Record batches kept in memory."""
    kept: list[Any] = []
    fingerprint, notes = put_away(batches, kept.append)
    return Stored(pa.Table.from_batches(kept, schema), fingerprint, notes)


class Table(Sequence[T], abc.ABC, Generic[T]):
    """A sequence of rows; equal to any sequence of equal rows."""

    schema: ClassVar[Any]
    """A column for an attribute of the rows each, in the order in which `_read` gets them."""
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        stored: Stored,
        rows: npt.NDArray[np.int64] | None = None,
        edits: tuple[tuple[str, Callable[[T], T]], ...] = (),
    ) -> None:
        self._stored, self._rows, self._edits = stored, rows, edits

    @abc.abstractmethod
    def _read(self, values: list[Any]) -> T:
        """The row with these values (Arrow scalars) in the columns of the schema."""

    @classmethod
    def batch_of(cls, items: Iterable[T]) -> Any:
        """The rows as one record batch; each is put away before the next one is asked for."""
        rows = [[_stored(getattr(item, field.name)) for field in cls.schema] for item in items]
        columns = [
            pa.array([row[place] for row in rows], field.type)
            for place, field in enumerate(cls.schema)
        ]
        return pa.record_batch(columns, schema=cls.schema)

    @classmethod
    def batches_of(cls, items: Iterable[T]) -> Iterator[tuple[Any, Notes]]:
        """Rows, however many, as record batches."""
        remaining = iter(items)
        while (batch := cls.batch_of(islice(remaining, ROWS_PER_BATCH))).num_rows:
            yield batch, {}

    @classmethod
    def of(cls: type[This], items: Iterable[Any]) -> This:
        """The rows as a table in memory; a table stays what it is."""
        return (
            items if isinstance(items, cls) else cls(in_memory(cls.batches_of(items), cls.schema))
        )

    @property
    def notes(self) -> Notes:
        """What was noticed when the stored rows were made."""
        return self._stored.notes

    @property
    def num_bytes(self) -> int:
        """About the size of these rows."""
        table = self._stored.table
        return int(table.nbytes * len(self) // max(1, table.num_rows))

    @property
    def fingerprint(self) -> str:
        """A SHA-256 in hex: of equal tables that were made alike, in their order."""
        found = self._stored.fingerprint
        if self._rows is not None:
            found = hashlib.sha256(found.encode() + self._rows.tobytes()).hexdigest()
        for name, _ in self._edits:
            found = hashlib.sha256(f"{found} {name}".encode()).hexdigest()
        return found

    def select(self: This, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> This:
        """The rows at these indices, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        if len(chosen) == len(self) and np.array_equal(chosen, np.arange(len(self))):
            return self
        rows = chosen if self._rows is None else self._rows[chosen]
        return type(self)(self._stored, rows, self._edits)

    def edited(self: This, name: str, edit: Callable[[Any], Any]) -> This:
        """The rows, each as `edit` shows it; `name` says what that is a function of."""
        return type(self)(self._stored, self._rows, (*self._edits, (name, edit)))

    def followed_by(self: This, other: This) -> This:
        """These rows and then the other table's; neither may be edited."""
        assert not (self._edits or other._edits), "edits hold for all rows of a table"
        both = type(self)(self._stored.followed_by(other._stored))
        moved = other.places + self.num_stored
        return both.select(np.concatenate([self.places, moved]))

    @property
    def ids(self) -> list[str]:
        """The ids of all rows, in order."""
        found: list[str] = self.gathered("id", _objects).tolist()
        return found

    def gathered(self, column: str, read: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """A value for each row, of what is stored: see `Stored.gathered`."""
        found = self._stored.gathered(column, read)
        return found if self._rows is None else found[self._rows]

    @property
    def num_stored(self) -> int:
        """How many rows are stored, selected or not."""
        return int(self._stored.table.num_rows)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Of each row, which of the stored rows it is."""
        return np.arange(self.num_stored) if self._rows is None else self._rows

    def __len__(self) -> int:
        return self.num_stored if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self: This, index: slice) -> This: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = int(index) % len(self)
        row = place if self._rows is None else int(self._rows[place])
        item = self._read([column[row] for column in self._stored.table.columns])
        for _, edit in self._edits:
            item = edit(item)
        return item

    def __iter__(self) -> Iterator[T]:
        for index in range(len(self)):
            yield self[index]
            if index % ROWS_PER_BATCH == ROWS_PER_BATCH - 1:
                self._stored.release()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[*islice(self, 3)]!r}, {len(self):,} rows)"


def _objects(chunk: Any) -> npt.NDArray[Any]:
    return np.array(chunk.to_pylist(), dtype=object)


def _stored(value: object) -> object:
    """What Arrow takes: pairs for a mapping, safetensors for what is no text."""
    if isinstance(value, Mapping):
        return [*value.items()]
    return value.to_bytes() if isinstance(value, SourceInputs) else value
