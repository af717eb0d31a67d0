"""Interpolations that were made before: kept beside the corpus that they chose from.

Comparing 35 outputs of every example with its reference takes minutes, and every fine-tuning on one
corpus asks for the same. What is compared, and how, is `interpolation`'s.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError
from seqdistill.metrics.similarity import SentenceSimilarity
from seqdistill.records.atomic import write_json
from seqdistill.records.fingerprint import of_settings
from seqdistill.sources.corpus_shards import TeacherOutput
from seqdistill.sources.interpolation import (
    Interpolation,
    InterpolationSummary,
    interpolate,
    log_summary,
)
from seqdistill.sources.teacher_corpus import TeacherCorpus

_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class _Kept:
    summary: InterpolationSummary
    outputs: tuple[TeacherOutput, ...]
    sha256: str = ""
    """Of the other two."""

    def checksum(self) -> str:
        """What `sha256` must be."""
        content = dataclasses.asdict(dataclasses.replace(self, sha256=""))
        return of_settings(json.loads(json.dumps(content)))


def kept_interpolation(
    corpus: TeacherCorpus,
    references: Mapping[str, str],
    *,
    similarity: SentenceSimilarity,
    decode: Callable[[Sequence[int]], str],
    on_progress: Callable[[int], None] | None = None,
) -> Interpolation:
    """As `interpolate` of the corpus, read from its folder when it was made there before.

    The file is named after what decides the choice: the corpus' content, the references and the
    similarity with its signature. Raises DataError for a file that is damaged.
    """
    path = corpus.folder / f"choices-{_digest(corpus, references, similarity)[:16]}.json"
    if path.is_file():
        found = _read(path)
        log_summary(found.summary)
        if on_progress is not None:
            on_progress(len(references))
        return found
    found = interpolate(
        corpus, references, similarity=similarity, decode=decode, on_progress=on_progress
    )
    kept = _Kept(found.summary, tuple(found.outputs.values()))
    write_json(path, dataclasses.asdict(dataclasses.replace(kept, sha256=kept.checksum())))
    return found


def _digest(
    corpus: TeacherCorpus, references: Mapping[str, str], similarity: SentenceSimilarity
) -> str:
    shards = [shard.sha256 for shard in corpus.manifest.shards]
    how = [similarity.name, similarity.signature, _FORMAT_VERSION]
    return of_settings([shards, sorted(references.items()), how])


def _read(path: Path) -> Interpolation:
    try:
        kept = TypeAdapter(_Kept).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} must hold the outputs that were chosen from the corpus beside it, found: "
            f"{error}; delete this file to choose again"
        ) from error
    if kept.checksum() != kept.sha256:
        raise DataError(
            f"{path} must hold the outputs that were chosen from the corpus beside it, but they do "
            "not match their checksum: it was damaged or changed; delete this file to choose again"
        )
    return Interpolation({output.id: output for output in kept.outputs}, kept.summary)
