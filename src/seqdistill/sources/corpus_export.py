"""A teacher's best outputs as a text file that `read_examples` and other tools can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from seqdistill.core.errors import DataError
from seqdistill.records.atomic import write_text
from seqdistill.sources.corpus_shards import TeacherOutput
from seqdistill.sources.teacher_corpus import TeacherCorpus

logger = logging.getLogger(__name__)


def write_jsonl(corpus: TeacherCorpus, sources: Mapping[str, str], path: Path) -> int:
    """How many lines were written: `id`, `source`, `target` and `log_prob` of each best output.

    Samples that were cut off are left out and counted in the log: a text cannot say that it is not
    finished, and whoever reads it would close it with an end token.

    `sources` gives the text of each example's source; a KeyError means that one is missing.
    """
    lines = [
        json.dumps(
            {
                "id": output.id,
                "source": sources[output.id],
                "target": output.text,
                "log_prob": output.log_prob,
            },
            ensure_ascii=False,
        )
        for output in _best(corpus)
    ]
    return _write(path, lines)


def write_tsv(corpus: TeacherCorpus, sources: Mapping[str, str], path: Path) -> int:
    """How many examples were written: a header, then source, tab, best output on a line.

    Samples that were cut off are left out, as from `write_jsonl`.

    Raises DataError, and writes nothing, for a text with a tab or a line end, which TSV cannot
    hold. A KeyError means that a source is missing.
    """
    lines = ["source\ttarget"]
    for output in _best(corpus):
        for text in (sources[output.id], output.text):
            if any(separator in text for separator in "\t\n\r"):
                raise DataError(
                    f"texts must hold no tab and no line end for {path}, found {text!r} in example "
                    f"{output.id!r}; write .jsonl instead"
                )
        lines.append(f"{sources[output.id]}\t{output.text}")
    return _write(path, lines) - 1


def _best(corpus: TeacherCorpus) -> Iterator[TeacherOutput]:
    """The best outputs that are finished and hold text: readers refuse empty sides."""
    num_empty, num_cut = 0, 0
    for output in corpus:
        if output.rank > 0:
            continue
        if not output.finished:
            num_cut += 1
        elif output.text.strip():
            yield output
        else:
            num_empty += 1
    if num_empty:
        logger.warning("%d empty outputs are left out of the text file", num_empty)
    if num_cut:
        logger.warning("%d outputs that were cut off are left out of the text file", num_cut)


def _write(path: Path, lines: list[str]) -> int:
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(lines)
