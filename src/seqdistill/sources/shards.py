"""The Parquet files that hold a teacher's outputs.

A row is an output that was kept: the `id` and the text of its `source` (of a chat the prompt as
the template renders it), its `token_ids`, their `text`, and their `log_prob` in nats; `rank` 0 is
the best. A sample that the length limit cut off is not finished: its tokens have no end token. An
example of which nothing was kept has one row that is not finished and has no tokens and no
log_prob. Equal outputs give equal bytes (with one version of pyarrow).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.core.source import Source, bytes_of
from seqdistill.generation.decoding import Hypothesis
from seqdistill.records.atomic import new_file

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
_SOURCES, _DROPPED, _FACTS = (f"seqdistill.{name}" for name in ("sources", "num_dropped", "facts"))
_ROWS_READ = 1024


class Prompt(NamedTuple):
    """What the teacher answers: an example's id, its source, and its text."""

    id: str
    source: Source
    text: str


@dataclasses.dataclass(frozen=True)
class Prompts(Sequence[Prompt]):
    """What the teacher answers, each made when it is asked for."""

    size: int
    make: Callable[[int], Prompt]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        places = range(self.size)[index]
        return self.make(places) if isinstance(places, int) else list(map(self.make, places))


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


def fingerprint_sources(sources: Iterable[Prompt]) -> str:
    """A sha256 in hex over ids and token ids of sources, in their order."""
    digest = hashlib.sha256()
    for prompt in sources:
        name, content = prompt.id.encode("utf-8", "surrogatepass"), bytes_of(prompt.source)
        digest.update(f"{len(name)} {len(content)} ".encode() + name + content)
    return digest.hexdigest()


def write_shard(
    path: Path,
    sources: Sequence[Prompt],
    hypotheses: Sequence[Sequence[Hypothesis]],
    *,
    decode: Callable[[Sequence[int]], str],
    keeps_cut: bool,
) -> None:
    """Writes the hypotheses of each source that are kept, best first, in one step.

    Of a beam only finished ones are: an unfinished one is the beginning of some output, and not the
    likeliest. `keeps_cut` is for samples and keeps whatever has tokens: without its long samples
    the teacher's distribution would lean to short ones. They stay cut, without an end token.
    """
    rows: list[dict[str, object]] = []
    num_dropped = 0
    for (name, _, text), found in zip(sources, hypotheses, strict=True):
        kept = [h for h in found if h.finished or (keeps_cut and h.token_ids)]
        num_dropped += len(found) - len(kept)
        outputs = [
            TeacherOutput(name, rank, h.token_ids, decode(h.content_ids), h.log_prob, h.finished)
            for rank, h in enumerate(kept)
        ]
        rows += _rows(name, text, outputs)
    facts = {_SOURCES: fingerprint_sources(sources), _DROPPED: str(num_dropped)}
    _write(path, rows, lambda: facts)


def write_outputs(
    path: Path, chosen: Iterable[tuple[str, TeacherOutput | None]], facts: Callable[[], str]
) -> None:
    """Writes one output, or none, of each example id, in one step; read by `read_shard`.

    `facts` are asked for when all is written, and come back from `facts_of`.
    """
    rows = (row for name, one in chosen for row in _rows(name, "", [one] if one else []))
    _write(path, rows, lambda: {_FACTS: facts()})


def _rows(name: str, source: str, outputs: Sequence[TeacherOutput]) -> list[dict[str, object]]:
    nothing = {"rank": 0, "token_ids": [], "text": "", "log_prob": None, "finished": False}
    found = [dataclasses.asdict(one) for one in outputs] or [nothing]
    return [{"id": name, "source": source} | one for one in found]


def _write(
    path: Path, rows: Iterable[dict[str, object]], facts: Callable[[], dict[str, str]]
) -> None:
    rows = iter(rows)
    with (
        new_file(path) as aside,
        pq.ParquetWriter(aside, SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        while part := list(itertools.islice(rows, _ROWS_READ)):
            writer.write_table(pa.Table.from_pylist(part, schema=SCHEMA))
        writer.add_key_value_metadata(facts())


def counts_of(path: Path, sources: Sequence[Prompt]) -> Counts | None:
    """What a shard holds; None unless it can be read to its last page and is of these sources."""
    try:
        with _opened(path) as file:
            table, facts = file.read(), file.metadata.metadata or {}
    except DataError:
        return None
    found = facts.get(_SOURCES.encode())
    if not table.schema.equals(SCHEMA) or found != fingerprint_sources(sources).encode():
        return None
    lengths = pc.list_value_length(table.column("token_ids"))
    num_unfinished = pc.sum(pc.equal(lengths, 0)).as_py() or 0
    texts = pc.utf8_trim_whitespace(table.column("text"))
    return Counts(
        num_unfinished=num_unfinished,
        num_hypotheses=table.num_rows - num_unfinished,
        num_cut=table.num_rows - num_unfinished - (pc.sum(table.column("finished")).as_py() or 0),
        num_dropped=int(facts[_DROPPED.encode()]),
        num_tokens=pc.sum(lengths).as_py() or 0,
        num_with_text=pc.sum(pc.not_equal(texts, "")).as_py() or 0,
    )


def facts_of(path: Path) -> str:
    """What `write_outputs` was told."""
    with _opened(path) as file:
        facts: dict[bytes, bytes] = file.metadata.metadata or {}
        return facts.get(_FACTS.encode(), b"").decode()


def read_shard(path: Path) -> Iterator[tuple[str, list[TeacherOutput]]]:
    """Each example's id with the outputs that were kept, best first: none, or some.

    Rows are read a thousand at a time.
    """
    names = [name for name in SCHEMA.names if name != "source"]
    with _opened(path) as file:
        batches = file.iter_batches(batch_size=_ROWS_READ, columns=names)
        rows = (
            row
            for batch in batches
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        for name, own in itertools.groupby(rows, operator.itemgetter(0)):
            kept = (rest for _, *rest in own if rest[1])
            yield name, [TeacherOutput(name, rank, tuple(ids), *more) for rank, ids, *more in kept]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} must be a whole Parquet file, found: {error}; delete it to have it made again"
        ) from error
