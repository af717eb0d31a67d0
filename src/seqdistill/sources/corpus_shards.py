"""One Parquet file of a teacher's outputs: its rows, how it is written, and whether it is whole.

Equal outputs give equal bytes (with one version of pyarrow). It generates nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.generation.decoding import Hypothesis
from seqdistill.records.atomic import write_bytes

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
SOURCES = b"seqdistill.sources"
DROPPED = b"seqdistill.num_dropped"
KEEPS_CUT = b"seqdistill.keeps_cut"
"""In shards of samples only. Those without it are of a time when cut samples were dropped."""

Mode = Literal["beam", "sample"]


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
class ShardSummary:
    """What a manifest says of a shard; its fields are those of `CorpusManifest`."""

    name: str
    sha256: str
    num_rows: int
    num_hypotheses: int
    num_dropped: int
    num_tokens: int
    unfinished_ids: tuple[str, ...]
    num_cut: int = 0


def shard_name(index: int) -> str:
    """The file name of the shard with this number, counted from 0."""
    return f"shard-{index:05d}.parquet"


def write_shard(
    path: Path,
    ids: Sequence[str],
    source_texts: Sequence[str],
    hypotheses: Sequence[Sequence[Hypothesis]],
    *,
    sources_fingerprint: str,
    decode: Callable[[Sequence[int]], str],
    mode: Mode,
) -> None:
    """Writes the hypotheses of each id that are kept, best first, in one step.

    `beam` keeps finished ones: an unfinished one is the beginning of some output, and not the
    likeliest. `sample` keeps whatever has tokens: without its long samples the teacher's
    distribution would lean to short ones. They stay cut; nobody makes an end token up.
    """
    rows: list[dict[str, object]] = []
    num_dropped = 0
    for example_id, source, found in zip(ids, source_texts, hypotheses, strict=True):
        kept = [h for h in found if h.finished or (mode == "sample" and h.token_ids)]
        num_dropped += len(found) - len(kept)
        named = {"id": example_id, "source": source}
        rows += [named | _row(rank, one, decode) for rank, one in enumerate(kept)]
        if not kept:
            rows.append(named | _NO_OUTPUT)
    metadata = {SOURCES: sources_fingerprint.encode(), DROPPED: str(num_dropped).encode()}
    if mode == "sample":
        metadata[KEEPS_CUT] = b"true"
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def is_whole(path: Path, *, sources_fingerprint: str, mode: Mode) -> bool:
    """Whether the file is there, can be read to its last page and belongs to these sources.

    A shard of samples that was written when cut ones were dropped is not whole.
    """
    if not path.is_file():
        return False
    try:
        table = _read(path)
    except DataError:
        return False
    metadata = table.schema.metadata or {}
    is_of_these = bool(metadata.get(SOURCES) == sources_fingerprint.encode())
    return is_of_these and (KEEPS_CUT in metadata) == (mode == "sample")


def summarize(path: Path) -> ShardSummary:
    """The counts and the sha256 of a shard, from its rows."""
    table = _read(path)
    finished: list[bool] = table.column("finished").to_pylist()
    ids: list[str] = table.column("id").to_pylist()
    lengths = [len(token_ids) for token_ids in table.column("token_ids").to_pylist()]
    num_hypotheses = sum(length > 0 for length in lengths)
    return ShardSummary(
        name=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        num_rows=table.num_rows,
        num_hypotheses=num_hypotheses,
        num_dropped=int(table.schema.metadata[DROPPED]),
        num_tokens=sum(lengths),
        unfinished_ids=tuple(i for i, length in zip(ids, lengths, strict=True) if not length),
        num_cut=num_hypotheses - sum(finished),
    )


def num_with_text(path: Path) -> int:
    """How many outputs of a shard are more than their end token."""
    return sum(bool(text.strip()) for text in _read(path).column("text").to_pylist())


def check_shard(path: Path, summary: ShardSummary) -> None:
    """Raises DataError unless the file has the bytes that the manifest describes."""
    if not path.is_file():
        raise DataError(f"{path} must be there, but is missing; label again to have it made again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != summary.sha256:
        raise DataError(
            f"{path} must have the sha256 {summary.sha256} of the manifest, found {found}: it was "
            "damaged or replaced; delete this file and label again to have it alone made again"
        )


def read_outputs(path: Path) -> Iterator[TeacherOutput]:
    """The outputs that a shard keeps, in order of examples, best first."""
    table = _read(path)
    names = [name for name in SCHEMA.names if name != "source"]
    columns = (table.column(name).to_pylist() for name in names)
    for example_id, rank, token_ids, text, log_prob, finished in zip(*columns, strict=True):
        if token_ids:
            yield TeacherOutput(example_id, rank, tuple(token_ids), text, log_prob, finished)


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
