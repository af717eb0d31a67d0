"""A teacher's outputs for a training set, on disk: made once by `labelling`, verified, reused.

corpus.json          what decides the outputs; when all are there also counts and checksums
shard-00000.parquet  id, source, rank, token_ids, text, log_prob, finished

Equal outputs give equal bytes (with one version of pyarrow).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.core.source import Source, bytes_of
from seqdistill.generation.decoding import Decoding, Hypothesis
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.checksums import own_file
from seqdistill.records.fingerprint import of_file

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
_SOURCES, _DROPPED, _FACTS = (f"seqdistill.{name}" for name in ("sources", "num_dropped", "facts"))
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
        outputs = [
            TeacherOutput(
                source.id, rank, h.token_ids, decode(h.content_ids), h.log_prob, h.finished
            )
            for rank, h in enumerate(kept)
        ]
        rows += _rows(source.id, source.text, outputs)
    _write(path, rows, lambda: {_SOURCES: fingerprint, _DROPPED: str(num_dropped)})


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


def counts_of(path: Path, *, fingerprint: str) -> Counts | None:
    """What a shard holds; None unless it can be read to its last page and is of these sources."""
    try:
        with _opened(path) as file:
            table, facts = file.read(), file.metadata.metadata or {}
    except DataError:
        return None
    if not table.schema.equals(SCHEMA) or facts.get(_SOURCES.encode()) != fingerprint.encode():
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


CORPUS = "corpus.json"
_IN_BOTH_MODES = ("mode", "n_best", "max_new_tokens")
DECIDES = {
    "beam": (*_IN_BOTH_MODES, "beam_size", "length_penalty"),
    "sample": (*_IN_BOTH_MODES, "sampling_temperature", "top_k", "top_p"),
}
"""The fields of Decoding that decide the outputs in each mode. `batch_tokens` is a matter of speed:
a corpus made with another value is not stale."""
Difference = tuple[str, object, object]
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Everything that decides a teacher's outputs.

    `seed` counts in mode `sample` only. `engine` names the program and its arithmetic, such as
    "ctranslate2 float32". `sources_fingerprint` is that of `fingerprint_sources`.
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


def fingerprint_sources(sources: Iterable[Prompt]) -> str:
    """A sha256 in hex over ids and token ids of sources, in their order."""
    digest = hashlib.sha256()
    for prompt in sources:
        name, content = prompt.id.encode("utf-8", "surrogatepass"), bytes_of(prompt.source)
        digest.update(f"{len(name)} {len(content)} ".encode() + name + content)
    return digest.hexdigest()


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

    def __iter__(self) -> Iterator[TeacherOutput]:
        """Every output that was kept, in the order of the examples, best first."""
        for _, outputs in self.by_example():
            yield from outputs

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
    names = ["teacher_fingerprint", "tokenizer_fingerprint", "sources_fingerprint", "engine"]
    if wanted.decoding.mode == "sample":
        names.append("seed")
    pairs = [(name, getattr(stored, name), getattr(wanted, name)) for name in names]
    for name in DECIDES[wanted.decoding.mode]:
        value = getattr(stored.decoding, name)
        pairs.append((f"decoding.{name}", value, getattr(wanted.decoding, name)))
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
