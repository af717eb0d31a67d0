"""Makes a teacher's corpus, shard by shard, by one process or many, and resumes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from seqdistill.core.errors import DataError, ModelError
from seqdistill.core.generators import derived_seed
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.records.environment import versions
from seqdistill.records.fingerprint import of_file
from seqdistill.records.shared_parts import (
    Make,
    Parts,
    make_parts,
    one_at_a_time,
    remove_left_overs,
)
from seqdistill.sources.shards import Counts, Prompt, counts_of, write_shard
from seqdistill.sources.teacher_corpus import (
    CORPUS,
    CorpusRecord,
    CorpusSettings,
    TeacherCorpus,
    check_same,
    check_shard,
    check_usable,
    differences,
    is_begun,
    is_complete,
    read_record,
    write_record,
)

logger = logging.getLogger(__name__)

_ENOUGH_SEEN = 512
"""Examples that tell whether a teacher ends its outputs at all: hours before the last one."""
_ENOUGH_TEXTS = 64
"""Examples of which one at least must have got a text; of fewer all may be rightly empty."""
_LEAST_SHARE = 0.05
"""Of examples with an output. With fewer, the corpus is no sample of what the data asks."""


def label(labelling: Labelling, make: Make = make_parts) -> TeacherCorpus:
    """The teacher's corpus, generated where its folder does not hold it already.

    Any number of processes may call this at once, on one launch or several: each makes shards that
    no other one is making, and all return when all are made; with another `make`, as that says. The
    corpus is the same however many there are. A process may be killed at any moment and loses the
    shard it was making; the next call goes on. In mode `sample` each shard draws from its own
    stream of the seed. A finished corpus is only read.

    Raises ModelError, as soon as it shows and with no corpus left, when hardly any example has an
    output that ends; StaleCorpusError when the folder was begun with other settings, and DataError
    when it holds other things and for no examples.
    """
    folder, record = labelling.folder, labelling.record
    if is_complete(folder):
        _check_record(folder, record)
        labelling.on_progress(record.num_examples)
    else:
        make(labelling.parts())
    return TeacherCorpus.open(folder, expected=labelling.settings)


def _begin(folder: Path, record: CorpusRecord) -> None:
    """Writes the record, or checks that the corpus was begun with the same.

    Of a finished corpus that has lost shards the others are compared with their checksums: what
    they vouch for is not silently replaced.
    """
    try:
        with one_at_a_time(folder):
            if is_begun(folder):
                stored = _check_record(folder, record)
                if is_complete(folder) or not stored.checksums:
                    return
                for name in stored.checksums:
                    if (folder / name).is_file():
                        check_shard(folder, stored, name)
            write_record(folder, record)
    except OSError as error:
        raise DataError(
            f"{folder} must be a folder that can be written, found: {error}; give another folder"
        ) from error


def _check_record(folder: Path, wanted: CorpusRecord) -> CorpusRecord:
    """The record in the folder. Raises StaleCorpusError when it is of another corpus."""
    stored = read_record(folder)
    found = differences(stored.settings, wanted.settings)
    for name in ("num_examples", "shard_size"):
        if getattr(stored, name) != getattr(wanted, name):
            found.append((name, getattr(stored, name), getattr(wanted, name)))
    check_same(folder, found)
    return stored


@dataclasses.dataclass
class Labelling:
    """A corpus to be made: what is asked, and who answers.

    `settings` are what decides the outputs; ids of `sources` come once each, and their texts are
    for people who read the files. Of a beam only finished hypotheses are kept; samples that
    `max_new_tokens` cut off are kept as far as they go, and counted.

    Raises DataError for no sources and for a folder that holds other things.
    """

    sources: Sequence[Prompt]
    generator: Callable[[], SequenceGenerator]
    """Built by who makes shards, before the first."""
    settings: CorpusSettings
    folder: Path
    decode: Callable[[Sequence[int]], str]
    ends: str = "its end token"
    """The tokens that end an output, for messages; and who writes."""
    writer: str = "teacher"
    shard_size: int = 2048
    on_progress: Callable[[int], None] = lambda _: None
    """Receives numbers of examples that became ready, stored ones included."""
    counts: Counts = dataclasses.field(default_factory=Counts, init=False)
    """Of the examples in the shards that are there."""
    num_seen: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        if not len(self.sources):
            raise DataError(
                "labelling needs at least one example, found none; check the data's limits"
            )
        check_usable(self.folder)
        self.record = CorpusRecord(self.settings, len(self.sources), self.shard_size)

    def parts(self) -> Parts:
        """The shards, for whoever makes them."""
        return Parts(
            self.folder,
            self.record.shard_names,
            begin=self._begin,
            is_made=self._is_made,
            make=self._make,
            is_finished=lambda: is_complete(self.folder),
            finish=self._finish,
        )

    def _begin(self) -> None:
        self._built = self.generator()
        _begin(self.folder, self.record)

    def _part(self, index: int) -> tuple[Path, list[Prompt]]:
        size = self.record.shard_size
        places = range(index * size, min((index + 1) * size, len(self.sources)))
        path = self.folder / self.record.shard_names[index]
        return path, [self.sources[place] for place in places]

    def _is_made(self, index: int) -> bool:
        """Whether the shard is there, whole, and of these sources."""
        path, part = self._part(index)
        if not path.is_file() or not self._count(path, part):
            return False
        self.on_progress(len(part))
        return True

    def _make(self, index: int) -> None:
        """Generates and writes the shard."""
        (path, part), settings = self._part(index), self.record.settings
        if path.is_file():
            logger.warning("%s is damaged and is made again", path)
        hypotheses = self._built.generate(
            [prompt.source for prompt in part],
            settings.decoding,
            seed=derived_seed(settings.seed, f"teacher corpus, shard {index}"),
            on_progress=self.on_progress,
        )
        write_shard(
            path,
            part,
            hypotheses,
            decode=self.decode,
            keeps_cut=settings.decoding.mode == "sample",
        )
        self._count(path, part)

    def _count(self, path: Path, part: Sequence[Prompt]) -> bool:
        """Counts what a shard holds; False where it is damaged or of other sources."""
        counts = counts_of(path, part)
        if counts is None:
            return False
        self.num_seen += len(part)
        self.counts += counts
        if self.num_seen >= _ENOUGH_SEEN:
            self._require_outputs()
        return True

    def _require_outputs(self) -> None:
        """Raises ModelError where hardly any example has an output, and removes what was begun."""
        num_seen = self.num_seen
        num_ended = num_seen - self.counts.num_unfinished
        if num_ended and num_ended >= _LEAST_SHARE * num_seen:
            return
        self._remove()
        raise ModelError(
            f"The {self.writer} must end its outputs with {self.ends} within max_new_tokens "
            f"({self.record.settings.decoding.max_new_tokens}), but it does so for "
            f"{num_ended} of {num_seen} examples, and no corpus is written. Raise "
            f"max_new_tokens, or name the token that the {self.writer} ends with in eos_token_id "
            "of its generation_config.json"
        )

    def _remove(self) -> None:
        for begun in [*self.folder.glob("shard-*.parquet"), self.folder / CORPUS]:
            begun.unlink(missing_ok=True)
        remove_left_overs(self.folder)

    def _finish(self) -> None:
        """Writes corpus.json with counts and checksums, by which the corpus is finished."""
        counts = self.counts  # every process has seen every shard
        self._require_outputs()
        if not counts.num_with_text and self.num_seen >= _ENOUGH_TEXTS:
            self._remove()
            raise ModelError(
                f"The {self.writer} must write texts, but its outputs for all {self.num_seen} "
                "examples are empty, and no corpus is written. Is it trained, and for these texts, "
                "in this chat template and these languages?"
            )
        self._warn()
        finished = dataclasses.replace(
            self.record,
            checksums={name: of_file(self.folder / name) for name in self.record.shard_names},
            counts=counts,
            versions=versions(),
        )
        write_record(self.folder, finished)

    def _warn(self) -> None:
        counts, num_examples = self.counts, self.num_seen
        longest = self.record.settings.decoding.max_new_tokens
        if counts.num_with_text < counts.num_hypotheses / 2:
            logger.warning(
                "%d of the %s's %d outputs are empty: was it trained for these texts, in this "
                "chat template and these languages?",
                counts.num_hypotheses - counts.num_with_text,
                self.writer,
                counts.num_hypotheses,
            )
        if counts.num_unfinished:
            logger.warning(
                "the %s's corpus has no output for %d of %d examples (%.1f%%): of a beam only "
                "what ends within max_new_tokens (%d) is kept, of samples what has a token",
                self.writer,
                counts.num_unfinished,
                num_examples,
                100 * counts.num_unfinished / num_examples,
                longest,
            )
        if counts.num_cut:
            logger.warning(
                "%d of the %s's %d samples were cut off at %d tokens (%.1f%%) and are kept so",
                counts.num_cut,
                self.writer,
                counts.num_hypotheses,
                longest,
                100 * counts.num_cut / counts.num_hypotheses,
            )
