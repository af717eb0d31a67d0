"""The corpus of a recipe: where it lies, what it depends on, and a teacher's outputs in it."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from seqdistill.assembly.data import (
    as_teacher_reads,
    chat_settings,
    counted_train,
    encode_for,
    encode_for_evaluation,
    without_references,
)
from seqdistill.assembly.decoding import build_generator, labelling_engine
from seqdistill.assembly.judging import text_units
from seqdistill.assembly.models import build_teacher, each_teacher, teacher_placement
from seqdistill.assembly.servers import label_requests, label_server
from seqdistill.core.errors import ModelError, StaleCorpusError
from seqdistill.core.origins import ROUTE
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import prompt_text
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.text_server import text_of
from seqdistill.metrics.similarity import similarity_of
from seqdistill.models.identity import pair_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import named_tokens, num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.shared_parts import Make, make_parts
from seqdistill.sources.error_filter import within_error_rate
from seqdistill.sources.interpolation import interpolate
from seqdistill.sources.labelling import Labelling, label
from seqdistill.sources.pool import Pool
from seqdistill.sources.shards import Prompt, Prompts, TeacherOutput, fingerprint_sources
from seqdistill.sources.teacher_corpus import (
    CORPUS,
    CorpusSettings,
    TeacherCorpus,
    check_same,
    check_usable,
    differences,
    in_step,
    is_begun,
    is_complete,
    read_record,
)

Kept = Iterable[tuple[str, Sequence[TeacherOutput]]]
"""Each example's id, in order, with the teacher's outputs to use."""
_ENCODED_TOGETHER = 1024
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
        return build_generator(
            self.teacher,
            dataclasses.replace(labelling_engine(self.recipe), key=self.of.engine_key),
            examples=with_placeholder_targets(self.sources),
            max_new_tokens=self.recipe.sequences.decoding.max_new_tokens,
            # Whatever student the corpus is for: it knows these ids if it has this tokenizer, and
            # what is written with others is no text.
            vocab_size=num_known_ids(self.teacher.tokenizer),
        )

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
        facts = pair_facts(teacher)
        # Where its outputs start and end need not be in the configuration.
        fingerprint = of_settings(
            [pair_fingerprint(teacher), facts.start_id, facts.prefix_ids, facts.end_ids]
        )
        tokenizer = tokenizer_fingerprint(teacher.tokenizer)
        engine = f"{section.engine} {section.compute_type} of {teacher.model.dtype}"
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


Outputs = Iterator[tuple[str, Sequence[tuple[int, ...]]]]
"""Each example's id, in order, with its outputs' token ids, best first."""


def teacher_outputs(
    recipe: Recipe,
    teacher: LoadedModel | None,
    student: LoadedModel,
    examples: Sequence[Example],
    progress: Progress,
) -> tuple[Outputs, dict[str, object]]:
    """The teacher's outputs in the student's token ids, and how they were chosen: of an
    interpolation the one output of each example most like its target, or those within a word error
    rate.

    With one tokenizer these are the very ids that the teacher wrote; otherwise its texts are
    encoded anew.
    """
    kept: Kept
    facts: dict[str, object] = {}
    if recipe.teacher.members:
        assert teacher is not None
        corpus: TeacherCorpus = _pool(recipe, teacher, examples, progress)
    else:
        corpus = label_with_teacher(wanted_corpus(recipe, teacher, examples), progress)
    references = [(example.id, example.target or "") for example in examples]
    if recipe.sequences.origin == "interpolation":
        decode = text_of if teacher is None else TextDecoder(teacher.tokenizer).text
        progress.start("choosing by similarity to the targets", len(examples))
        kept, summary = interpolate(
            corpus,
            references,
            similarity=similarity_of(recipe.sequences.similarity, text_units(recipe, examples)),
            decode=lambda ids: decode(ids).strip(),
            on_progress=progress.advance,
        )
        progress.finish()
        facts = {"interpolation": dataclasses.asdict(summary)}
    else:
        num_outputs = recipe.sequences.decoding.n_best

        def best() -> Iterator[tuple[str, Sequence[TeacherOutput]]]:
            for name, outputs in corpus.by_example():
                yield name, corpus.best(outputs, num_outputs)

        kept = best()
        if (most := recipe.sequences.max_word_error_rate) is not None:
            kept, left = within_error_rate(best, references, most=most)
            facts = {"error_filter": dataclasses.asdict(left)}
    if teacher is not None and tokenizer_fingerprint(teacher.tokenizer) == tokenizer_fingerprint(
        student.tokenizer
    ):
        return _known_to(student, teacher, kept, corpus.folder), facts
    return _encoded(kept, recipe, teacher, student, examples), facts


def asked_of(recipe: Recipe, examples: Sequence[Example]) -> Iterator[tuple[Recipe, ExampleTable]]:
    """Each teacher's recipe, and the examples that it labels: all, or those of its route."""
    table, alone = ExampleTable.of(examples), each_teacher(recipe)
    if recipe.teacher.route_by is None:
        yield from ((one, table) for one in alone)
        return
    places = np.array([example.extras[ROUTE] for example in table])
    for number, one in enumerate(alone):
        yield one, table.select(np.flatnonzero(places == number))


def _pool(
    recipe: Recipe, teacher: LoadedModel, examples: Sequence[Example], progress: Progress
) -> Pool:
    """What all teachers write, one after the other in memory; `teacher` is the first.

    Raises ModelError for one that has another tokenizer or ends otherwise.
    """
    corpora = []
    for one, part in asked_of(recipe, examples):
        pair = build_teacher(one)
        facts = [
            (tokenizer_fingerprint(p.tokenizer), pair_facts(p).end_ids) for p in (teacher, pair)
        ]
        if facts[0] != facts[1]:
            raise ModelError(
                "Teachers whose outputs are one pool must have one tokenizer and end alike, but "
                f"{teacher.name!r} and {pair.name!r} do not; label with each, and train on the one "
                "corpus after the other"
            )
        if len(part):
            corpora.append(label_with_teacher(wanted_corpus(one, pair, part), progress))
    return Pool.of(corpora, [example.id for example in examples])


def _known_to(student: LoadedModel, teacher: LoadedModel, kept: Kept, folder: Path) -> Outputs:
    """The outputs, whose every id the student has a row for, ended as the student ends its own.

    What ends the teacher's and not the student's becomes the student's first end token. Raises
    StaleCorpusError for ids that the student has no row for.
    """
    rows: int = student.model.get_output_embeddings().weight.shape[0]
    own = pair_facts(student)
    foreign = set(pair_facts(teacher).end_ids) - set(own.end_ids)
    for name, outputs in kept:
        found = [output.token_ids for output in outputs]
        highest = max((token_id for ids in found for token_id in ids), default=0)
        if highest >= rows:
            raise StaleCorpusError(
                f"{folder} must hold outputs of ids below the student's {rows}, but one of example "
                f"{name!r} has {highest}, from the teacher's padded rows; delete the folder to "
                "label again"
            )
        yield name, [(*ids[:-1], own.end_id) if ids[-1] in foreign else ids for ids in found]


def _as_written(
    kept: Sequence[TeacherOutput], recipe: Recipe, teacher: LoadedModel, asked: Sequence[Example]
) -> list[str]:
    """The texts of outputs as they follow their prompts, with the blank that an LLM writes first.

    Those of conversations and of encoder-decoders stand alone, and have no blanks around them.
    """
    plain = [example for example in asked if teacher.kind == "causal" and example.messages is None]
    prompts = {e.id: e.prompt_ids for e in encode_for(teacher, plain, chat_settings(recipe.data))}
    decoder = TextDecoder(teacher.tokenizer)
    found = []
    for output in kept:
        text = output.text
        if output.id in prompts:
            ids = output.token_ids[:-1] if output.finished else output.token_ids
            before, whole = decoder.texts([prompts[output.id], (*prompts[output.id], *ids)])
            text = whole[len(before) :] if whole.startswith(before) else text
        # A cut may fall into a character of several bytes.
        found.append(text if output.finished else text.rstrip("\N{REPLACEMENT CHARACTER}"))
    return found


def _encoded(
    kept: Kept,
    recipe: Recipe,
    teacher: LoadedModel | None,
    student: LoadedModel,
    examples: Sequence[Example],
) -> Outputs:
    """The outputs in the student's ids: each as the answer to its prompt, with which it is one
    text."""
    asked = in_step(((e.id, e) for e in without_references(examples)), kept)
    ends = pair_facts(student).end_ids
    while chunk := list(itertools.islice(asked, _ENCODED_TOGETHER)):
        outputs = [output for _, found in chunk for output in found]
        read = [example.for_teacher() for example, _ in chunk]
        if teacher is not None:
            texts = _as_written(outputs, recipe, teacher, read)
        elif student.kind == "causal" and recipe.teacher.server.api == "completions":
            texts = [output.text for output in outputs]  # with the blank that follows a prompt
        else:
            texts = [output.text.strip() for output in outputs]
        asking = (example for example, found in chunk for _ in found)
        answered = [
            dataclasses.replace(example, target=text)
            for example, text in zip(asking, texts, strict=True)
        ]
        encoded = iter(encode_for(student, answered, chat_settings(recipe.data)))
        for example, found in chunk:
            ids = [next(encoded).target_ids for _ in found]
            yield (
                example.id,
                [
                    # A cut sample has no end, and none is made up.
                    one[:-1] if not output.finished and len(one) > 1 and one[-1] in ends else one
                    for one, output in zip(ids, found, strict=True)
                ],
            )
