"""A teacher's outputs for a training set: made once, stored in shards, verified, reused.

    settings.json        what decides the outputs: fingerprints, decoding, engine, seed
    shard-00000.parquet  id, source, rank, token_ids, text, log_prob, finished (see `corpus_shards`)
    times.jsonl          seconds of each shard
    manifest.json        written last: counts, seconds, versions, a checksum of each shard

`label` makes them with any engine and goes on where a killed process stopped; `TeacherCorpus`
reads them. Which teacher, which data and which folder are the caller's to say.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from seqdistill.core.errors import DataError, ModelError
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.records.atomic import JsonLinesWriter, read_json_lines
from seqdistill.records.environment import versions
from seqdistill.records.own_files import own_file
from seqdistill.sources.corpus_lock import locked
from seqdistill.sources.corpus_manifest import (
    MANIFEST,
    CorpusManifest,
    manifest_of,
    read_manifest,
)
from seqdistill.sources.corpus_settings import (
    SETTINGS,
    CorpusSettings,
    StoredSettings,
    begin_or_check,
    check_same,
    check_usable,
    fingerprint_sources,
)
from seqdistill.sources.corpus_shards import (
    TeacherOutput,
    check_shard,
    is_whole,
    num_with_text,
    read_outputs,
    shard_name,
    summarize,
    write_shard,
)

logger = logging.getLogger(__name__)

TIMES = "times.jsonl"
_ENOUGH_SEEN = 512
"""Examples that tell whether a teacher ends its outputs at all: hours before the last one."""
_ENOUGH_TEXTS = 64
"""Examples of which one at least must have got a text; of fewer all may be rightly empty."""
_LEAST_SHARE = 0.05
"""Of examples with an output. With fewer, the corpus is no sample of what the data asks."""
Sources = Sequence[tuple[str, Source]]
"""Pairs of an example's id and its source."""


@dataclasses.dataclass(frozen=True)
class TeacherCorpus:
    """A verified corpus on disk. Iterating gives every kept output, example by example."""

    folder: Path
    manifest: CorpusManifest

    @classmethod
    def open(cls, folder: Path, *, expected: CorpusSettings | None) -> TeacherCorpus:
        """The corpus in `folder`, its shards compared with their checksums.

        Raises StaleCorpusError when it was made otherwise than `expected` (None expects nothing),
        and DataError when it is not finished or a shard is damaged.
        """
        manifest = read_manifest(folder)
        if expected is not None:
            check_same(folder, stored=manifest.settings, wanted=expected)
        for shard in manifest.shards:
            check_shard(own_file(folder, shard.name), shard)
        return cls(folder, manifest)

    def __iter__(self) -> Iterator[TeacherOutput]:
        for shard in self.manifest.shards:
            yield from read_outputs(own_file(self.folder, shard.name))

    def best(self, num_outputs: int = 1) -> dict[str, tuple[tuple[int, ...], ...]]:
        """The token ids of up to `num_outputs` best outputs of each example that has any."""
        kept: dict[str, tuple[tuple[int, ...], ...]] = {}
        for output in self:
            if output.rank < num_outputs:
                kept[output.id] = (*kept.get(output.id, ()), output.token_ids)
        return kept

    def n_best(self, example_id: str) -> tuple[TeacherOutput, ...]:
        """The kept outputs of one example, best first; reads shards until it is found.

        Empty for an example of which nothing was kept. Raises KeyError for an unknown id.
        """
        if example_id in self.manifest.unfinished_ids:
            return ()
        for shard in self.manifest.shards:
            outputs = read_outputs(own_file(self.folder, shard.name))
            found = tuple(output for output in outputs if output.id == example_id)
            if found:
                return found
        raise KeyError(example_id)


def is_finished(folder: Path) -> bool:
    """Whether a labelling of this folder has ended; its settings may still be others."""
    return (folder / MANIFEST).is_file()


def label(
    examples: Sources,
    generator: SequenceGenerator,
    settings: CorpusSettings,
    folder: Path,
    *,
    decode: Callable[[Sequence[int]], str],
    ends: str = "its end token",
    shard_size: int = 2048,
    source_texts: Mapping[str, str],
    on_progress: Callable[[int], None] | None = None,
) -> TeacherCorpus:
    """The teacher's corpus over `examples`, generated where `folder` does not hold it already.

    `settings` are what decides it: how `generator` decodes, and fingerprints of `examples`, the
    teacher and the data.

    Of a beam only finished hypotheses are kept; samples that `max_new_tokens` cut off are kept as
    far as they go, without an end token, and counted. Examples of which nothing is kept are counted
    and logged. A process may be killed at any moment: the next call keeps every whole shard and
    gives the same files as an undisturbed one. In mode `sample` each shard draws from its own
    stream of the seed. `source_texts` give the text of each id, for people who read the files.
    `on_progress` receives numbers of examples that became ready, stored ones
    included. A finished corpus is only read: by any number of processes, from a folder that nobody
    may write. `ends` names the tokens that end an output, for messages.

    Raises ModelError, as soon as it shows and with no corpus left, when hardly any example has an
    output that ends; StaleCorpusError when the folder was begun with other
    settings, and DataError when another process is labelling into it, when it holds other things,
    for ids that come twice and for no examples.
    """
    _check_ids(examples)
    wanted = StoredSettings(settings, shard_size)
    check_usable(folder)
    if not is_complete(folder):
        with locked(folder):
            _remove_torn_files(folder)
            begin_or_check(folder, wanted=wanted)
            if not is_complete(folder):  # nobody has finished it since we looked
                _forget_manifest(folder)
                parts = [examples[i : i + shard_size] for i in range(0, len(examples), shard_size)]
                writer = _ShardWriter(
                    folder, generator, settings, source_texts, decode, on_progress
                )
                num_seen, num_without = 0, 0
                for index, part in enumerate(parts):
                    writer.ensure(index, part)
                    num_seen += len(part)
                    num_without += len(summarize(folder / shard_name(index)).unfinished_ids)
                    if num_seen >= _ENOUGH_SEEN or index == len(parts) - 1:
                        _require_outputs(folder, num_without, num_seen, settings, ends)
                _finish(folder, settings, num_shards=len(parts), num_examples=len(examples))
                return TeacherCorpus.open(folder, expected=settings)
    begin_or_check(folder, wanted=wanted)
    if on_progress is not None:
        on_progress(len(examples))
    return TeacherCorpus.open(folder, expected=settings)


@dataclasses.dataclass(frozen=True)
class _ShardWriter:
    folder: Path
    generator: SequenceGenerator
    settings: CorpusSettings
    source_texts: Mapping[str, str]
    decode: Callable[[Sequence[int]], str]
    on_progress: Callable[[int], None] | None

    def ensure(self, index: int, part: Sources) -> None:
        """Generates and writes the shard, unless it is there, whole, and of these very sources."""
        path = self.folder / shard_name(index)
        fingerprint = fingerprint_sources(part)
        mode = self.settings.decoding.mode
        if is_whole(path, sources_fingerprint=fingerprint, mode=mode):
            if self.on_progress is not None:
                self.on_progress(len(part))
            return
        if path.is_file():
            logger.warning("%s is damaged or of an older form and is made again", path)
        began = time.monotonic()
        hypotheses = self.generator.generate(
            [source for _, source in part],
            self.settings.decoding,
            seed=derived_seed(self.settings.seed, f"teacher corpus, shard {index}"),
            on_progress=self.on_progress,
        )
        seconds = time.monotonic() - began
        ids = [example_id for example_id, _ in part]
        write_shard(
            path,
            ids,
            [self.source_texts[example_id] for example_id in ids],
            hypotheses,
            sources_fingerprint=fingerprint,
            decode=self.decode,
            mode=mode,
        )
        with JsonLinesWriter(self.folder / TIMES) as times:
            times.write({"shard": path.name, "seconds": seconds})


def _check_ids(examples: Sources) -> None:
    if not examples:
        raise DataError("labelling needs at least one example, found none; check the data's limits")
    first_places: dict[str, int] = {}
    for number, (example_id, _) in enumerate(examples, start=1):
        first = first_places.setdefault(example_id, number)
        if first != number:
            raise DataError(
                f"ids of examples must be unique, found {example_id!r} as examples {first} and "
                f"{number}; fix the column id"
            )


def _remove_torn_files(folder: Path) -> None:
    """Removes what killed processes were writing aside; nobody else writes under the lock."""
    for name in (SETTINGS, MANIFEST, "shard-*.parquet"):
        for torn in folder.glob(f"{name}.partial-*"):
            torn.unlink()


def is_complete(folder: Path) -> bool:
    """Whether there is a manifest and a file for every shard of it, whole or not."""
    if not is_finished(folder):
        return False
    return all(own_file(folder, shard.name).is_file() for shard in read_manifest(folder).shards)


def _forget_manifest(folder: Path) -> None:
    """Removes the manifest, if there is one, of a corpus whose shards are not all there.

    Raises DataError for a damaged shard: what the manifest vouched for is not silently replaced.
    """
    if not is_finished(folder):
        return
    for shard in read_manifest(folder).shards:
        if own_file(folder, shard.name).is_file():
            check_shard(own_file(folder, shard.name), shard)
    (folder / MANIFEST).unlink()


def _require_outputs(
    folder: Path, num_without: int, num_seen: int, settings: CorpusSettings, ends: str
) -> None:
    """Raises ModelError where hardly any example has an output, and takes away what was begun."""
    if num_seen - num_without >= _LEAST_SHARE * num_seen and num_without < num_seen:
        return
    _take_away(folder)
    raise ModelError(
        f"The teacher must end its outputs with {ends} within max_new_tokens "
        f"({settings.decoding.max_new_tokens}), but it does so for {num_seen - num_without} of "
        f"{num_seen} examples, and no corpus is written. Raise max_new_tokens, or name the token "
        "that the teacher ends with in eos_token_id of its generation_config.json"
    )


def _take_away(folder: Path) -> None:
    for begun in [*folder.glob("shard-*.parquet"), folder / TIMES, folder / SETTINGS]:
        begun.unlink(missing_ok=True)


def _finish(folder: Path, settings: CorpusSettings, *, num_shards: int, num_examples: int) -> None:
    times = [row.get("seconds") for row in read_json_lines(folder / TIMES)]
    manifest = manifest_of(
        tuple(summarize(folder / shard_name(index)) for index in range(num_shards)),
        settings=settings,
        num_examples=num_examples,
        seconds=sum(seconds for seconds in times if isinstance(seconds, (int, float))),
        versions=versions(),
    )
    _tell_of_lengths(manifest)
    num_texts = sum(num_with_text(folder / shard.name) for shard in manifest.shards)
    if not num_texts and num_examples >= _ENOUGH_TEXTS:
        _take_away(folder)
        raise ModelError(
            f"The teacher must write texts, but its outputs for all {num_examples} examples are "
            "empty, and no corpus is written. Is it trained, and for these texts, in this chat "
            "template and these languages?"
        )
    if num_texts < manifest.num_hypotheses / 2:
        logger.warning(
            "%d of the teacher's %d outputs are empty: was it trained for these texts, in this "
            "chat template and these languages?",
            manifest.num_hypotheses - num_texts,
            manifest.num_hypotheses,
        )
    manifest.write(folder)


def _tell_of_lengths(manifest: CorpusManifest) -> None:
    longest = manifest.settings.decoding.max_new_tokens
    if manifest.num_unfinished:
        logger.warning(
            "the teacher's corpus has no output for %d of %d examples (%.1f%%), the first is %r: "
            "of a beam only what ends within max_new_tokens (%d) is kept, of samples what has a "
            "token",
            manifest.num_unfinished,
            manifest.num_examples,
            100 * manifest.num_unfinished / manifest.num_examples,
            manifest.unfinished_ids[0],
            longest,
        )
    if manifest.num_cut:
        logger.warning(
            "%d of the teacher's %d samples were cut off at %d tokens (%.1f%%) and are kept so",
            manifest.num_cut,
            manifest.num_hypotheses,
            longest,
            100 * manifest.num_cut / manifest.num_hypotheses,
        )
