"""One Parquet file of a teacher's outputs: its rows, how it is written, and whether it is whole.

Equal outputs give equal bytes (with one version of pyarrow). It generates nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.generation.decoding import Hypothesis
from seqdistill.records.atomic import write_bytes

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("log_prob", pa.float32()),
        pa.field("finished", pa.bool_(), nullable=False),
    ]
)
"""A row is a finished hypothesis; `rank` 0 is the best kept. An example without any has one row
that is not finished and has no tokens and no log_prob."""
SOURCES = b"seqdistill.sources"
DROPPED = b"seqdistill.num_dropped"


@dataclasses.dataclass(frozen=True, slots=True)
class TeacherOutput:
    """A finished output for an example: `token_ids` with the end token, `log_prob` in nats."""

    id: str
    rank: int
    token_ids: tuple[int, ...]
    text: str
    log_prob: float


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a manifest says of a shard. `num_tokens` counts end tokens too."""

    name: str
    sha256: str
    num_rows: int
    num_hypotheses: int
    num_dropped: int
    num_tokens: int
    unfinished_ids: tuple[str, ...]


def shard_name(index: int) -> str:
    """The file name of the shard with this number, counted from 0."""
    return f"shard-{index:05d}.parquet"


def write_shard(
    path: Path,
    ids: Sequence[str],
    hypotheses: Sequence[Sequence[Hypothesis]],
    *,
    sources_fingerprint: str,
    decode: Callable[[Sequence[int]], str],
) -> None:
    """Writes the finished ones among the hypotheses of each id, best first, in one step."""
    rows: list[dict[str, object]] = []
    num_dropped = 0
    for example_id, found in zip(ids, hypotheses, strict=True):
        finished = [hypothesis for hypothesis in found if hypothesis.finished]
        num_dropped += len(found) - len(finished)
        rows += [_row(example_id, rank, kept, decode) for rank, kept in enumerate(finished)]
        if not finished:
            rows.append(_row_without_output(example_id))
    metadata = {SOURCES: sources_fingerprint.encode(), DROPPED: str(num_dropped).encode()}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def is_whole(path: Path, *, sources_fingerprint: str) -> bool:
    """Whether the file is there, can be read to its last page and belongs to these sources."""
    if not path.is_file():
        return False
    try:
        table = _read(path)
    except DataError:
        return False
    metadata = table.schema.metadata or {}
    return bool(metadata.get(SOURCES) == sources_fingerprint.encode())


def summarize(path: Path) -> ShardSummary:
    """The counts and the sha256 of a shard, from its rows."""
    table = _read(path)
    finished: list[bool] = table.column("finished").to_pylist()
    ids: list[str] = table.column("id").to_pylist()
    lengths = [len(token_ids) for token_ids in table.column("token_ids").to_pylist()]
    return ShardSummary(
        name=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        num_rows=table.num_rows,
        num_hypotheses=sum(finished),
        num_dropped=int(table.schema.metadata[DROPPED]),
        num_tokens=sum(lengths),
        unfinished_ids=tuple(i for i, ends in zip(ids, finished, strict=True) if not ends),
    )


def check_shard(path: Path, summary: ShardSummary) -> None:
    """Raises DataError unless the file has the bytes that the manifest describes."""
    if not path.is_file():
        raise DataError(f"{path} must be there, but is missing; label again to have it made anew")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != summary.sha256:
        raise DataError(
            f"{path} must have the sha256 {summary.sha256} of the manifest, found {found}: it was "
            "damaged or replaced; delete this file and label again to have it alone made anew"
        )


def read_outputs(path: Path) -> Iterator[TeacherOutput]:
    """The finished outputs of a shard, in order of examples, best first."""
    table = _read(path)
    columns = (table.column(name).to_pylist() for name in SCHEMA.names)
    for example_id, rank, token_ids, text, log_prob, finished in zip(*columns, strict=True):
        if finished:
            yield TeacherOutput(example_id, rank, tuple(token_ids), text, log_prob)


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} must be a whole Parquet file, found: {error}; delete it and label again"
        ) from error
    if not table.schema.equals(SCHEMA):
        raise DataError(f"{path} must have the columns {SCHEMA.names}, found {table.column_names}")
    return table


def _row(
    example_id: str, rank: int, hypothesis: Hypothesis, decode: Callable[[Sequence[int]], str]
) -> dict[str, object]:
    return {
        "id": example_id,
        "rank": rank,
        "token_ids": list(hypothesis.token_ids),
        "text": decode(hypothesis.token_ids),
        "log_prob": hypothesis.log_prob,
        "finished": True,
    }


def _row_without_output(example_id: str) -> dict[str, object]:
    return {
        "id": example_id,
        "rank": 0,
        "token_ids": [],
        "text": "",
        "log_prob": None,
        "finished": False,
    }
