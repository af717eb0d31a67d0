"""The corpus of a recipe: where it lies, what it depends on, and who makes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from seqdistill.assembly.data import (
    as_teacher_reads,
    chat_settings,
    counted_train,
    encode_for_evaluation,
    without_references,
)
from seqdistill.assembly.decoding import build_generator, labelling_engine
from seqdistill.assembly.models import each_teacher, teacher_placement
from seqdistill.assembly.servers import label_requests, label_server
from seqdistill.core.origins import ROUTE
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import prompt_text
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.generation.beam_or_greedy import BeamOrGreedy, searches_twice
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.model_facts import check_output_length, pair_facts
from seqdistill.generation.text_server import text_of
from seqdistill.models.identity import pair_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import named_tokens, num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.shared_parts import Make, make_parts
from seqdistill.sources.labelling import Labelling, label
from seqdistill.sources.shards import Prompt, Prompts, fingerprint_sources
from seqdistill.sources.teacher_corpus import (
    CORPUS,
    CorpusSettings,
    TeacherCorpus,
    check_same,
    check_usable,
    differences,
    is_begun,
    is_complete,
    read_record,
)

_SERVED_TOGETHER = 512
"""Examples that a server is asked for anew after a kill, at most: its answers may cost money."""


@dataclasses.dataclass(frozen=True)
class CorpusOf:
    """What a corpus is of, and what it and the making of it are called."""

    what: str
    writer: str
    doing: str
    folder: str
    """Beside the runs."""
    engine_key: str
    shard_size: int = 2048
    """Examples whose outputs a killed process loses at most."""


LABELS = CorpusOf("labels", "teacher", "labelling", "teacher-corpora", "sequences.decoding.engine")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A corpus as a recipe wants it: its folder, made or not, and what decides it."""

    recipe: Recipe
    teacher: LoadedModel | None
    """None where a server labels."""
    examples: Sequence[Example]
    folder: Path
    settings: CorpusSettings
    sources: Sequence[EncodedExample]
    """What a model in this process reads."""
    of: CorpusOf

    @property
    def is_there(self) -> bool:
        """Whether labelling ended there. Raises StaleCorpusError where it was of other settings."""
        if is_begun(self.folder):
            stored = read_record(self.folder).settings
            check_same(self.folder, differences(stored, self.settings))
        return is_complete(self.folder)

    @property
    def origin(self) -> str:
        """Whether labels are reused or made anew, and why, in a sentence for people."""
        if self.is_there:
            made = time.localtime((self.folder / CORPUS).stat().st_mtime)
            record = read_record(self.folder)
            return (
                f"reusing {record.counts.num_hypotheses:,} {self.of.what} of "
                f"{record.num_examples:,} examples in {self.folder}, made "
                f"{time.strftime('%Y-%m-%d %H:%M', made)}"
            )
        if num_parts := len(list(self.folder.glob("shard-*.parquet"))):
            what = self.of.what
            return f"going on with the {what} in {self.folder}, which has {num_parts} parts"
        others = [
            (self._changed(found.parent), found.parent)
            for found in sorted(self.folder.parent.glob(f"*/{CORPUS}"))
            if self.of is LABELS  # settings are named as those of labels
            if found.parent != self.folder  # which another process may have begun
        ]
        others = [(changed, folder) for changed, folder in others if 0 < len(changed) <= _FEW]
        if not others:
            return f"{self.of.doing} into {self.folder}"
        changed, folder = min(others, key=lambda other: len(other[0]))
        return (
            f"{self.of.doing} anew into {self.folder}, since the {self.of.what} in {folder} are of "
            f"another {', '.join(changed)}"
        )

    def _changed(self, folder: Path) -> list[str]:
        """What of the corpus in a folder is otherwise, under the names that recipes use."""
        stored = read_record(folder).settings
        return [
            _NAMES.get(name, f"{_KEYS.get(name, f'sequences.{name}')} ({old}, now {new})")
            for name, old, new in differences(stored, self.settings)
        ]

    def generator(self) -> SequenceGenerator:
        """What writes the corpus: the model, compared with itself on the first examples, or the
        server."""
        if self.teacher is None:
            return label_server(self.recipe)
        self.teacher.model.to(teacher_placement(self.recipe).device)
        generator = build_generator(
            self.teacher,
            dataclasses.replace(labelling_engine(self.recipe), key=self.of.engine_key),
            examples=with_placeholder_targets(self.sources),
            max_new_tokens=self.recipe.sequences.decoding.max_new_tokens,
            # Whatever student the corpus is for: it knows these ids if it has this tokenizer, and
            # what is written with others is no text.
            vocab_size=num_known_ids(self.teacher.tokenizer),
        )
        return BeamOrGreedy(generator, pair_facts(self.teacher))

    def labelling(self, progress: Progress) -> Labelling:
        """What makes it."""
        if self.teacher is None:
            return Labelling(
                label_requests(self.recipe, self.examples),
                self.generator,
                self.settings,
                self.folder,
                decode=text_of,
                shard_size=_SERVED_TOGETHER,
                on_progress=progress.advance,
            )
        tokenizer, decoder = self.teacher.tokenizer, TextDecoder(self.teacher.tokenizer)
        read, chat = as_teacher_reads(self.examples), chat_settings(self.recipe.data)

        def prompt(place: int) -> Prompt:
            encoded = self.sources[place]
            return Prompt(encoded.id, encoded.prompt, prompt_text(read[place], tokenizer, chat))

        return Labelling(
            Prompts(len(self.sources), prompt),
            self.generator,
            self.settings,
            self.folder,
            decode=lambda ids: decoder.text(ids).strip(),
            ends=named_tokens(tokenizer, pair_facts(self.teacher).end_ids),
            writer=self.of.writer,
            shard_size=self.of.shard_size,
            on_progress=progress.advance,
        )


_FEW = 3
"""With more differences than that, it has little to do with what is wanted."""
_NAMES = {
    "teacher_fingerprint": "teacher.model",
    "tokenizer_fingerprint": "tokenizer",
    "sources_fingerprint": "data.train, data.unlabelled, teacher.prompt_column or encoding",
}
_KEYS = {"seed": "seed", "engine": "sequences.decoding.engine and compute_type, teacher.dtype"}


def wanted_corpus(
    recipe: Recipe,
    teacher: LoadedModel | None,
    examples: Sequence[Example],
    of: CorpusOf = LABELS,
) -> Wanted:
    """The corpus of these examples: in `sequences.corpus`, or beside the runs, named by content.

    A teacher on a server has no model here, and no tokenizer: texts are asked and written.
    """
    section, sources = recipe.sequences.decoding, EncodedDataset.of(())
    if teacher is None:
        server = recipe.teacher.server
        fingerprint = of_settings([server.model, server.api])
        tokenizer, engine = "utf-8", f"server {server.api}"
        prompts: Iterable[Prompt] = label_requests(recipe, examples)
    else:
        facts, key = pair_facts(teacher), "sequences.decoding.max_new_tokens"
        check_output_length(section.max_new_tokens, facts=facts, key=key)
        # Where its outputs start and end need not be in the configuration.
        fingerprint = of_settings(
            [pair_fingerprint(teacher), facts.start_id, facts.prefix_ids, facts.end_ids]
        )
        tokenizer = tokenizer_fingerprint(teacher.tokenizer)
        engine = f"{section.engine} {section.compute_type} of {teacher.model.dtype}"
        if searches_twice(section):
            engine += ", beam or greedy"
        # Prompts alone: what the teacher reads must not depend on the references.
        asked = as_teacher_reads(without_references(examples))
        sources = encode_for_evaluation(asked, teacher, recipe.data).examples
        prompts = (Prompt(example.id, example.prompt, "") for example in sources)
    settings = CorpusSettings(
        teacher_fingerprint=fingerprint,
        tokenizer_fingerprint=tokenizer,
        sources_fingerprint=fingerprint_sources(prompts),
        decoding=section,
        seed=recipe.seed if section.mode == "sample" else 0,
        engine=engine,
    )
    named = [
        settings.teacher_fingerprint,
        settings.tokenizer_fingerprint,
        # Neither the batches nor the workers change an output.
        section.model_dump(exclude={"batch_tokens", "threads"}),
        settings.seed,
        settings.sources_fingerprint,
        settings.engine,
    ]
    beside = output_folder(recipe).parent / of.folder / of_settings(named)[:16]
    folder = Path(recipe.sequences.corpus or beside)
    return Wanted(recipe, teacher, examples, folder, settings, sources, of)


def label_with_teacher(
    wanted: Wanted, progress: Progress, make: Make = make_parts
) -> TeacherCorpus:
    """The corpus that is wanted, made now where it does not exist yet.

    Every process that calls this takes part in the making, unless `make` is otherwise.
    """
    recipe, of = wanted.recipe, wanted.of
    check_usable(wanted.folder)
    progress.echo(wanted.origin)
    if recipe.data.unlabelled is not None:
        counted = counted_train(ExampleTable.of(wanted.examples), recipe.data)
        progress.echo(f"the teacher's labels are of {counted}")
    if (column := recipe.teacher.prompt_column) is not None:
        progress.echo(f"the teacher reads the column {column} in the place of the prompts")
    if wanted.is_there:
        return TeacherCorpus.open(wanted.folder, expected=wanted.settings)
    labelling = wanted.labelling(progress)
    progress.start(f"{of.doing} with the {of.writer}", len(wanted.examples))
    corpus = label(labelling, make)
    progress.finish()
    return corpus


def asked_of(recipe: Recipe, examples: Sequence[Example]) -> Iterator[tuple[Recipe, ExampleTable]]:
    """Each teacher's recipe, and the examples that it labels: all, or those of its route."""
    table, alone = ExampleTable.of(examples), each_teacher(recipe)
    if recipe.teacher.route_by is None:
        yield from ((one, table) for one in alone)
        return
    places = np.array([example.extras[ROUTE] for example in table])
    for number, one in enumerate(alone):
        yield one, table.select(np.flatnonzero(places == number))
