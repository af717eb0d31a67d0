"""The teacher's corpus of a recipe: where it lies, what it depends on, and its outputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from seqdistill.assembly.data import (
    chat_settings,
    encode_for,
    encode_for_evaluation,
    without_references,
)
from seqdistill.assembly.decoding import build_decoding, build_generator
from seqdistill.assembly.judging import text_units
from seqdistill.core.errors import StaleCorpusError
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import prompt_text
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, fingerprint_examples
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.model_facts import pair_facts
from seqdistill.metrics.similarity import similarity_of
from seqdistill.models.identity import model_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import named_tokens, num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.sources.corpus_manifest import MANIFEST, read_manifest
from seqdistill.sources.corpus_settings import (
    SETTINGS,
    CorpusSettings,
    check_same,
    check_usable,
    differences,
    fingerprint_sources,
    read_settings,
)
from seqdistill.sources.corpus_shards import TeacherOutput
from seqdistill.sources.interpolation import InterpolationSummary
from seqdistill.sources.kept_choices import kept_interpolation
from seqdistill.sources.teacher_corpus import TeacherCorpus, is_complete, label


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A teacher's corpus as a recipe wants it: its folder, made or not, and what decides it."""

    folder: Path
    settings: CorpusSettings
    sources: Sequence[EncodedExample]

    @property
    def is_there(self) -> bool:
        """Whether labelling ended there. Raises StaleCorpusError where it was of other settings."""
        if (self.folder / SETTINGS).is_file():
            stored = read_settings(self.folder).settings
            check_same(self.folder, stored=stored, wanted=self.settings)
        return is_complete(self.folder)

    @property
    def origin(self) -> str:
        """Whether labels are reused or made anew, and why, in a sentence for people."""
        if self.is_there:
            made = time.localtime((self.folder / MANIFEST).stat().st_mtime)
            manifest = read_manifest(self.folder)
            return (
                f"reusing {manifest.num_hypotheses:,} labels of {manifest.num_examples:,} examples "
                f"in {self.folder}, made {time.strftime('%Y-%m-%d %H:%M', made)}"
            )
        if (self.folder / SETTINGS).is_file():
            shards = len(list(self.folder.glob("shard-*.parquet")))
            return f"going on with the labels in {self.folder}, which has {shards} parts"
        others = [
            (self._changed(found.parent), found.parent)
            for found in sorted(self.folder.parent.glob(f"*/{SETTINGS}"))
        ]
        others = [(changed, folder) for changed, folder in others if len(changed) <= _FEW]
        if not others:
            return f"labelling into {self.folder}"
        changed, folder = min(others, key=lambda other: len(other[0]))
        return (
            f"labelling anew into {self.folder}, since the labels in {folder} are of another "
            f"{', '.join(changed)}"
        )

    def _changed(self, folder: Path) -> list[str]:
        """What of the corpus in a folder is otherwise, under the names that recipes use."""
        stored = read_settings(folder).settings
        return [
            _NAMES.get(name, f"{_KEYS.get(name, f'sequences.{name}')} ({old}, now {new})")
            for name, old, new in differences(stored, self.settings)
        ]


_FEW = 3
"""With more differences than that, it has little to do with what is wanted."""
_NAMES = {
    "teacher_fingerprint": "teacher.model",
    "data_fingerprint": "data.train",
    "tokenizer_fingerprint": "tokenizer",
    "sources_fingerprint": "data.max_source_tokens or encoding",
}
_KEYS = {"seed": "seed", "engine": "sequences.decoding.engine and compute_type"}


def wanted_corpus(recipe: Recipe, teacher: LoadedModel, examples: Sequence[Example]) -> Wanted:
    """The corpus of these examples: in `sequences.corpus`, or beside the runs, named by content."""
    section = recipe.sequences.decoding
    facts = pair_facts(teacher)
    # Prompts alone: what the teacher reads must not depend on the references.
    encoded = encode_for_evaluation(without_references(examples), teacher, recipe.data)
    sources = [(example.id, example.source_ids) for example in encoded.examples]
    settings = CorpusSettings(
        # Where its outputs start and end need not be in the configuration.
        teacher_fingerprint=of_settings(
            [model_fingerprint(teacher.model), facts.start_id, facts.prefix_ids, facts.end_ids]
        ),
        data_fingerprint=fingerprint_examples(without_references(examples)),
        tokenizer_fingerprint=tokenizer_fingerprint(teacher.tokenizer),
        decoding=build_decoding(section),
        seed=recipe.seed if section.mode == "sample" else 0,
        engine=f"{section.engine} {section.compute_type}",
        sources_fingerprint=fingerprint_sources(sources),
    )
    # Neither the batches nor the workers change an output.
    named = [
        settings.teacher_fingerprint,
        settings.data_fingerprint,
        settings.tokenizer_fingerprint,
        section.model_dump(exclude={"batch_tokens", "threads"}),
        settings.seed,
        settings.sources_fingerprint,
    ]
    beside = output_folder(recipe).parent / "teacher-corpora" / of_settings(named)[:16]
    return Wanted(Path(recipe.sequences.corpus or beside), settings, encoded.examples)


def label_generator(
    recipe: Recipe, teacher: LoadedModel, examples: Sequence[EncodedExample]
) -> SequenceGenerator:
    """What writes the labels, compared with the teacher on the first examples."""
    section = recipe.sequences.decoding
    return build_generator(
        teacher,
        engine=section.engine,
        engine_key="sequences.decoding.engine",
        compute_type=section.compute_type,
        threads=section.threads,
        examples=with_placeholder_targets(examples),
        max_new_tokens=section.max_new_tokens,
        # Whatever student the corpus is for: it knows these ids if it has this tokenizer, and what
        # is written with others is no text.
        vocab_size=num_known_ids(teacher.tokenizer),
    )


def label_with_teacher(
    recipe: Recipe, teacher: LoadedModel, examples: Sequence[Example], progress: Progress
) -> TeacherCorpus:
    """The teacher's outputs for these examples, made now where they do not exist yet."""
    wanted = wanted_corpus(recipe, teacher, examples)
    check_usable(wanted.folder)
    progress.echo(wanted.origin)
    if wanted.is_there:
        return TeacherCorpus.open(wanted.folder, expected=wanted.settings)
    facts = pair_facts(teacher)
    decoder, chat = TextDecoder(teacher.tokenizer), chat_settings(recipe.data)
    progress.start("labelling with the teacher", len(examples))
    corpus = label(
        [(example.id, example.source_ids) for example in wanted.sources],
        label_generator(recipe, teacher, wanted.sources),
        wanted.settings,
        wanted.folder,
        decode=lambda ids: decoder.text(ids).strip(),
        ends=named_tokens(teacher.tokenizer, facts.end_ids),
        source_texts={e.id: prompt_text(e, teacher.tokenizer, chat) for e in examples},
        on_progress=progress.advance,
    )
    progress.finish()
    return corpus


def teacher_outputs(
    recipe: Recipe,
    teacher: LoadedModel,
    student: LoadedModel,
    examples: Sequence[Example],
    progress: Progress,
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Example id -> the teacher's outputs in the student's token ids, best first.

    With one tokenizer these are the very ids that the teacher wrote; otherwise its texts are
    encoded anew.
    """
    corpus = label_with_teacher(recipe, teacher, examples, progress)
    num_outputs = recipe.sequences.decoding.n_best
    if _same_tokenizer(teacher, student):
        return _known_to(student, teacher, corpus.best(num_outputs), corpus.folder)
    kept = [output for output in corpus if output.rank < num_outputs]
    return _encoded(kept, recipe, teacher, student, examples)


def interpolated_outputs(
    recipe: Recipe,
    teacher: LoadedModel,
    student: LoadedModel,
    examples: Sequence[Example],
    progress: Progress,
) -> tuple[dict[str, tuple[tuple[int, ...], ...]], InterpolationSummary]:
    """As `teacher_outputs`, but of each example the one output most like its target."""
    corpus = label_with_teacher(recipe, teacher, examples, progress)
    decoder = TextDecoder(teacher.tokenizer)
    progress.start("choosing by similarity to the targets", len(examples))
    found = kept_interpolation(
        corpus,
        {example.id: example.target or "" for example in examples},
        similarity=similarity_of(recipe.sequences.similarity, text_units(recipe, examples)),
        decode=lambda ids: decoder.text(ids).strip(),
        on_progress=progress.advance,
    )
    progress.finish()
    if _same_tokenizer(teacher, student):
        return _known_to(student, teacher, found.targets, corpus.folder), found.summary
    kept = list(found.outputs.values())
    return _encoded(kept, recipe, teacher, student, examples), found.summary


def _same_tokenizer(teacher: LoadedModel, student: LoadedModel) -> bool:
    return tokenizer_fingerprint(teacher.tokenizer) == tokenizer_fingerprint(student.tokenizer)


def _known_to(
    student: LoadedModel,
    teacher: LoadedModel,
    outputs: dict[str, tuple[tuple[int, ...], ...]],
    folder: Path,
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The outputs, whose every id the student has a row for, ended as the student ends its own.

    What ends the teacher's and not the student's becomes the student's first end token. Raises
    StaleCorpusError for a corpus of before padded rows were cut off.
    """
    rows: int = student.model.get_output_embeddings().weight.shape[0]
    for example_id, written in outputs.items():
        highest = max((token_id for ids in written for token_id in ids), default=0)
        if highest >= rows:
            raise StaleCorpusError(
                f"{folder} must hold outputs of ids below the student's {rows}, but one of example "
                f"{example_id!r} has {highest}, from the teacher's padded rows; delete the folder "
                "to label again"
            )
    own = pair_facts(student)
    others = pair_facts(teacher)
    foreign = set(others.end_ids) - set(own.end_ids)
    if not foreign:
        return outputs
    return {
        example_id: tuple((*ids[:-1], own.end_id) if ids[-1] in foreign else ids for ids in written)
        for example_id, written in outputs.items()
    }


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
    kept: Sequence[TeacherOutput],
    recipe: Recipe,
    teacher: LoadedModel,
    student: LoadedModel,
    examples: Sequence[Example],
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The outputs in the student's ids: each as the answer to its prompt, with which it is one
    text."""
    asked = {example.id: example for example in without_references(examples)}
    texts = _as_written(kept, recipe, teacher, list(asked.values()))
    answered = [
        dataclasses.replace(asked[output.id], target=text)
        for output, text in zip(kept, texts, strict=True)
    ]
    encoded = encode_for(student, answered, chat_settings(recipe.data))
    ends = pair_facts(student).end_ids
    outputs: dict[str, tuple[tuple[int, ...], ...]] = {}
    for output, example in zip(kept, encoded, strict=True):
        ids = example.target_ids
        if not output.finished and len(ids) > 1 and ids[-1] in ends:
            ids = ids[:-1]  # a cut sample has no end, and none is made up
        outputs[example.id] = (*outputs.get(example.id, ()), ids)
    return outputs
