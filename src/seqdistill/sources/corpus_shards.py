"""One Parquet file of a teacher's outputs: its rows, how it is written, and whether it is whole.

Equal outputs give equal bytes (with one version of pyarrow).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.core.source import Source
from seqdistill.generation.decoding import Hypothesis
from seqdistill.records.atomic import new_file, write_bytes

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("log_prob", pa.float32()),
        pa.field("finished", pa.bool_(), nullable=False),
    ]
)
"""A row is an output that was kept: the `id` and the text of its `source` (of a chat the prompt as
the template renders it), its `token_ids`, their `text`, and their `log_prob` in nats; `rank` 0 is
the best. A sample that the length limit cut off is not finished: its tokens have no end token. An
example of which nothing was kept has one row that is not finished and has no tokens and no
log_prob."""
SOURCES, DROPPED = b"seqdistill.sources", b"seqdistill.num_dropped"
_ROWS_READ = 1024

Mode = Literal["beam", "sample"]


class Prompt(NamedTuple):
    """What the teacher answers: an example's id, its source, and its text."""

    id: str
    source: Source
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class TeacherOutput:
    """An output for an example, its `log_prob` in nats.

    `token_ids` end with the end token where it is finished; a cut sample has none.
    """

    id: str
    rank: int
    token_ids: tuple[int, ...]
    text: str
    log_prob: float
    finished: bool = True


@dataclasses.dataclass(frozen=True)
class Counts:
    """What shards hold. An example is unfinished when nothing of it was kept."""

    num_unfinished: int = 0
    num_hypotheses: int = 0
    """What was kept."""
    num_cut: int = 0
    """Those of them that the length limit cut off (samples only)."""
    num_dropped: int = 0
    """What was not kept."""
    num_tokens: int = 0
    """Tokens kept, end tokens included."""
    num_with_text: int = 0
    """Outputs kept that are more than their end token."""

    def __add__(self, other: Counts) -> Counts:
        names = (field.name for field in dataclasses.fields(self))
        return Counts(*(getattr(self, name) + getattr(other, name) for name in names))


def write_shard(
    path: Path,
    sources: Sequence[Prompt],
    hypotheses: Sequence[Sequence[Hypothesis]],
    *,
    fingerprint: str,
    decode: Callable[[Sequence[int]], str],
    mode: Mode,
) -> None:
    """Writes the hypotheses of each source that are kept, best first, in one step.

    `beam` keeps finished ones: an unfinished one is the beginning of some output, and not the
    likeliest. `sample` keeps whatever has tokens: without its long samples the teacher's
    distribution would lean to short ones. They stay cut, without an end token. `fingerprint` is
    that of the sources.
    """
    rows: list[dict[str, object]] = []
    num_dropped = 0
    for source, found in zip(sources, hypotheses, strict=True):
        kept = [h for h in found if h.finished or (mode == "sample" and h.token_ids)]
        num_dropped += len(found) - len(kept)
        named = {"id": source.id, "source": source.text}
        rows += [named | _row(rank, one, decode) for rank, one in enumerate(kept)]
        if not kept:
            rows.append(named | _NO_OUTPUT)
    metadata = {SOURCES: fingerprint.encode(), DROPPED: str(num_dropped).encode()}

    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def write_outputs(path: Path, chosen: Iterable[tuple[str, TeacherOutput | None]]) -> None:
    """Writes one output, or none, of each example id, in one step; read by `read_shard`."""
    rows = (
        {"id": name, "source": ""} | (_NO_OUTPUT if output is None else dataclasses.asdict(output))
        for name, output in chosen
    )
    with (
        new_file(path) as aside,
        pq.ParquetWriter(aside, SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        while part := list(itertools.islice(rows, _ROWS_READ)):
            writer.write_table(pa.Table.from_pylist(part, schema=SCHEMA))


def is_whole(path: Path, *, fingerprint: str) -> bool:
    """Whether the file is there, can be read to its last page and belongs to these sources."""
    if not path.is_file():
        return False
    try:
        metadata = _read(path).schema.metadata or {}
    except DataError:
        return False
    return bool(metadata.get(SOURCES) == fingerprint.encode())


def counts_of(path: Path) -> Counts:
    """What a shard holds, from its rows."""
    table = _read(path)
    lengths = pc.list_value_length(table.column("token_ids"))
    num_unfinished = pc.sum(pc.equal(lengths, 0)).as_py() or 0
    texts = pc.utf8_trim_whitespace(table.column("text"))
    return Counts(
        num_unfinished=num_unfinished,
        num_hypotheses=table.num_rows - num_unfinished,
        num_cut=table.num_rows - num_unfinished - (pc.sum(table.column("finished")).as_py() or 0),
        num_dropped=int(table.schema.metadata[DROPPED]),
        num_tokens=pc.sum(lengths).as_py() or 0,
        num_with_text=pc.sum(pc.not_equal(texts, "")).as_py() or 0,
    )


def read_shard(path: Path) -> Iterator[tuple[str, list[TeacherOutput]]]:
    """Each example's id with the outputs that were kept, best first: none, or some.

    Rows are read a thousand at a time.
    """
    names = [name for name in SCHEMA.names if name != "source"]
    outputs: list[TeacherOutput] = []
    current: str | None = None
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_READ, columns=names):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            for example_id, rank, token_ids, text, log_prob, finished in rows:
                if current is not None and example_id != current:
                    yield current, outputs
                    outputs = []
                current = example_id
                if token_ids:
                    ids = tuple(token_ids)
                    outputs.append(TeacherOutput(example_id, rank, ids, text, log_prob, finished))
    if current is not None:
        yield current, outputs


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(path, error) from error


def _read(path: Path) -> pa.Table:
    try:
        with _opened(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(path, error) from error
    if not table.schema.equals(SCHEMA):
        raise DataError(f"{path} must have the columns {SCHEMA.names}, found {table.column_names}")
    return table


def _not_whole(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} must be a whole Parquet file, found: {error}; delete it and label again"
    )


def _row(
    rank: int, hypothesis: Hypothesis, decode: Callable[[Sequence[int]], str]
) -> dict[str, object]:
    return {
        "rank": rank,
        "token_ids": list(hypothesis.token_ids),
        "text": decode(hypothesis.content_ids),
        "log_prob": hypothesis.log_prob,
        "finished": hypothesis.finished,
    }


_NO_OUTPUT: dict[str, object] = {
    "rank": 0,
    "token_ids": [],
    "text": "",
    "log_prob": None,
    "finished": False,
}
