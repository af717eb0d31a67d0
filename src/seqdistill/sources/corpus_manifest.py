"""The table of contents of a teacher's corpus: written last, so that its presence means finished.

It adds up what the shards say of themselves; it does not read rows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.records.atomic import write_json
from seqdistill.sources.corpus_settings import CorpusSettings
from seqdistill.sources.corpus_shards import ShardSummary

MANIFEST = "manifest.json"
FORMAT_VERSION = 3


@dataclasses.dataclass(frozen=True)
class CorpusManifest:
    """What the corpus was made from, what is in it, and what it cost.

    An example is unfinished when nothing of it was kept. `num_hypotheses` counts what was kept,
    `num_cut` those of them that the length limit cut off (samples only), `num_dropped` what was
    not kept, `num_tokens` the tokens kept, end tokens included; `seconds` is the time spent
    generating, over all processes that took part.
    """

    format_version: int
    settings: CorpusSettings
    num_examples: int
    num_finished: int
    num_unfinished: int
    num_hypotheses: int
    num_dropped: int
    num_tokens: int
    seconds: float
    versions: dict[str, str]
    shards: tuple[ShardSummary, ...]
    num_cut: int = 0

    @property
    def unfinished_ids(self) -> tuple[str, ...]:
        """The ids of the examples of which nothing was kept, in their order."""
        return tuple(name for shard in self.shards for name in shard.unfinished_ids)

    def write(self, folder: Path) -> None:
        """Writes manifest.json in one step."""
        write_json(folder / MANIFEST, dataclasses.asdict(self))


def manifest_of(
    shards: tuple[ShardSummary, ...],
    *,
    settings: CorpusSettings,
    num_examples: int,
    seconds: float,
    versions: dict[str, str],
) -> CorpusManifest:
    """The manifest of these shards, with their counts added up."""
    num_unfinished = sum(len(shard.unfinished_ids) for shard in shards)
    return CorpusManifest(
        format_version=FORMAT_VERSION,
        settings=settings,
        num_examples=num_examples,
        num_finished=num_examples - num_unfinished,
        num_unfinished=num_unfinished,
        num_hypotheses=sum(shard.num_hypotheses for shard in shards),
        num_dropped=sum(shard.num_dropped for shard in shards),
        num_tokens=sum(shard.num_tokens for shard in shards),
        seconds=seconds,
        versions=versions,
        shards=shards,
        num_cut=sum(shard.num_cut for shard in shards),
    )


def read_manifest(folder: Path) -> CorpusManifest:
    """The manifest in `folder`.

    Raises DataError when there is none (the labelling has not ended) or it cannot be read, and
    StaleCorpusError when it was written in another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder} must be a finished teacher's corpus, but has no {MANIFEST}; label again "
            "to finish it: shards that are there are kept"
        )
    try:
        manifest = TypeAdapter(CorpusManifest).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} must be the manifest of a teacher's corpus, found: {error}; delete this file "
            "and label again: the shards are kept"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise StaleCorpusError(
            f"{path} must have format_version {FORMAT_VERSION}, found {manifest.format_version}; "
            "label again into another folder"
        )
    return manifest
