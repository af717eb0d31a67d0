"""From a recipe to its teacher while training: none, the live model, or what was kept of it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from seqdistill.assembly.comparing import check_vocabularies, rereader_of
from seqdistill.assembly.data import collator_for
from seqdistill.assembly.licences import model_licence
from seqdistill.assembly.models import (
    build_teacher,
    model_folder,
    teacher_placement,
    teaches_without_adapters,
)
from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.servers import server_teacher
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.core.head import Head
from seqdistill.core.progress import Progress
from seqdistill.core.scores import SparseScores
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.model_facts import pair_facts
from seqdistill.models.adapters import SequenceModel, decoder_prefix_ids, decoder_start_id, head_of
from seqdistill.models.identity import pair_fingerprint, place_fingerprint, vocabulary_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.shared_parts import Make, make_parts
from seqdistill.teachers.forms import Form, HiddenStates, Samples, TopK
from seqdistill.teachers.in_process import (
    AveragedTeacher,
    InProcessTeacher,
    LiveTeacher,
    NoTeacher,
    Teacher,
)
from seqdistill.teachers.keeping_scores import Keeping, make_scores
from seqdistill.teachers.kept_scores import (
    KeptScoresTeacher,
    ScoresSettings,
    is_finished,
    missing_from,
    read_record,
)
from seqdistill.teachers.other_tokens import OtherTokensTeacher
from seqdistill.teachers.published import Change, Place, PublishedTeacher
from seqdistill.teachers.several import AdapterTeacher, MixtureOfTeachers, RoutedTeachers


@dataclasses.dataclass(frozen=True)
class Publication:
    """Of a teacher that may be published anew: how processes agree, and who is told."""

    agree: Callable[[str | None], str | None] = lambda own: own
    on_change: Callable[[Sequence[Change]], None] = lambda _changes: None


def live_teacher(
    prepared: Prepared, device: torch.device, publication: Publication = Publication()
) -> Teacher:
    """The recipe's teacher on `device`, run for every batch; none where nothing asks it, and where
    it is on a server.

    The student itself, where that is its teacher, has to be there already.
    """
    on_server = prepared.recipe.teacher.on_server
    if not prepared.asks_teacher or prepared.teacher is None or on_server:
        return NoTeacher()
    if prepared.crosses_tokenizers:
        rereader = rereader_of(
            prepared.recipe,
            prepared.student,
            prepared.teacher,
            prepared.train_examples,
            prepared.train,
        )
        return OtherTokensTeacher(SequenceModel(prepared.teacher.model.to(device)), rereader)
    size = check_vocabularies(prepared.student, *prepared.teachers)
    section, student = prepared.recipe.teacher, prepared.adapted
    layers = prepared.objective.teacher_layers
    if section.is_student and section.average_decay == 0.0:
        return LiveTeacher(student, vocab_size=size, layers=layers)
    if teaches_without_adapters(prepared.recipe) and prepared.lora is not None:
        return LiveTeacher(student, vocab_size=size, layers=layers, first=prepared.lora.off)
    if section.members:
        return _several(prepared, device, size)
    model = SequenceModel(prepared.teacher.model.to(device))
    decay = section.average_decay
    if section.is_student and decay < 1.0:
        return AveragedTeacher(model, student, decay=decay, vocab_size=size, layers=layers)
    if section.reload_every is not None:
        return PublishedTeacher(
            model,
            _place(prepared, device, publication),
            every=section.reload_every,
            on_change=publication.on_change,
            vocab_size=size,
            layers=layers,
        )
    return InProcessTeacher(model, vocab_size=size, layers=layers)


def _place(prepared: Prepared, device: torch.device, publication: Publication) -> Place:
    name = str(prepared.recipe.teacher.model)
    folder = model_folder(name)

    def load() -> SequenceModel:
        pair = build_teacher(prepared.recipe)
        check_vocabularies(prepared.student, pair)
        return SequenceModel(pair.model.to(device))

    return Place(lambda: place_fingerprint(name, folder), load, publication.agree)


def _several(prepared: Prepared, device: torch.device, vocab_size: int) -> Teacher:
    """All teachers as one; a model that several share is there once."""
    section, models = prepared.recipe.teacher, dict[int, SequenceModel]()
    teachers: list[InProcessTeacher] = []
    for pair in prepared.teachers:
        if id(pair.model) not in models:
            models[id(pair.model)] = SequenceModel(pair.model.to(device))
        model = models[id(pair.model)]
        if pair.adapter is None:
            teachers.append(InProcessTeacher(model, vocab_size=vocab_size))
        else:
            teachers.append(AdapterTeacher(model, pair.adapter, vocab_size=vocab_size))
    if section.route_by is not None:
        return RoutedTeachers(teachers)
    geometric = section.mixture == "log_probabilities"
    return MixtureOfTeachers(teachers, section.weights, geometric=geometric)


def teacher_facts(recipe: Recipe) -> dict[str, str]:
    """What a teacher has that is not its own, or reads that the student does not, for people."""
    section, found = recipe.teacher, dict[str, str]()
    if section.is_student:
        decay = section.average_decay
        kept = {1.0: "the student's first", 0.0: "the student's present"}
        found["weights"] = kept.get(decay, f"average of the student's, decay {decay:g}")
    if section.on_server and section.scores != "none":
        found["asked"] = f"at {', '.join(section.server.url)}, {section.top_k} symbols a token"
    if section.route_by is not None:
        found["by row"] = f"the column {section.route_by} says which of {len(section.members)}"
    elif section.members and section.scores != "none":
        parts = zip(section.members, section.weights, strict=True)
        listed = ", ".join(f"{weight:.3g} {member.model}" for member, weight in parts)
        found["mixture"] = f"of {section.mixture.replace('_', '-')}: {listed}"
    if section.reload_every is not None:
        found["weights"] = f"looked at again every {section.reload_every:,} updates"
    if section.prompt_column is not None:
        found["reads"] = f"the column {section.prompt_column} in the place of the student's prompt"
    return found


def build_teacher_scores(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    device: torch.device,
    progress: Progress,
    publication: Publication = Publication(),
) -> Teacher:
    """What scores the batches of these sequences: kept scores, made now if need be, a server, or a
    model."""
    section = prepared.recipe.teacher
    if section.on_server and prepared.asks_teacher:
        return server_teacher(prepared, examples, device)
    if not (section.keeps_scores and prepared.asks_teacher):
        return live_teacher(prepared, device, publication)
    wanted = wanted_scores(prepared, examples)
    wanted.made(progress)
    return wanted.opened(device)


def check_kept_scores(prepared: Prepared) -> None:
    """Raises what training would of scores on disk that take the teacher's place."""
    if prepared.recipe.teacher.keeps_scores and prepared.asks_teacher and not prepared.teachers:
        wanted_scores(prepared, prepared.train).opened(torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class WantedScores:
    """A teacher's scores as a recipe wants them: their folder, made or not, and what decides it."""

    prepared: Prepared
    examples: Sequence[EncodedExample]
    folder: Path
    settings: ScoresSettings

    def keeping(self, progress: Progress) -> Keeping:
        """What makes them, with the teacher of the recipe."""
        recipe, teacher = self.prepared.recipe, self.prepared.teacher
        assert teacher is not None
        return Keeping(
            SequenceModel(teacher.model),
            self.examples,
            collator_for(self.prepared.student),
            self.folder,
            self.settings,
            batch_tokens=recipe.training.batch_tokens,
            device=teacher_placement(recipe).device,
            progress=progress,
            name=teacher.name,
            licence=functools.partial(model_licence, teacher.name),
        )

    def made(self, progress: Progress, make: Make = make_parts) -> None:
        """Returns when they are there: made now, by all who call this, where they are not."""
        if self.prepared.teacher is not None and not is_finished(self.folder):
            make_scores(self.keeping(progress), make)

    def opened(self, device: torch.device) -> KeptScoresTeacher:
        """Those that are there, for batches on `device`."""
        teacher, section, head = self.prepared.teacher, self.prepared.recipe.teacher, None
        if section.cache_hidden_states != "none":
            assert teacher is not None
            # It was compared with the model's logits when the states of this teacher were made.
            size = check_vocabularies(self.prepared.student, teacher)
            head = _placed_head(teacher, size, device)
        return KeptScoresTeacher(
            self.folder,
            self.examples,
            settings=self.settings,
            head=head,
            sparse_form=section.sparse_form or "bucket",
        )


def wanted_scores(prepared: Prepared, examples: Sequence[EncodedExample]) -> WantedScores:
    """The scores of these sequences.

    Raises RecipeError where they are to be made and no teacher is named.
    """
    recipe, teacher = prepared.recipe, prepared.teacher
    named = recipe.teacher.kept_scores
    if teacher is not None:
        settings = _settings(prepared, teacher)
        return WantedScores(prepared, examples, _folder(recipe, settings, examples), settings)
    assert named is not None
    folder = Path(named)
    if not is_finished(folder):
        raise RecipeError(
            "teacher.model must be given unless teacher.kept_scores is a folder of finished "
            f"scores, got none and {named!r}, which lacks {missing_from(folder)}; finish them "
            "where the teacher is (`seqdistill score RECIPE --teacher-scores`)"
        )
    return WantedScores(prepared, examples, folder, _settings_without_teacher(prepared, folder))


def _folder(recipe: Recipe, settings: ScoresSettings, examples: Sequence[EncodedExample]) -> Path:
    if (named := recipe.teacher.kept_scores) is not None:
        return Path(named)
    content = {**dataclasses.asdict(settings), "data": EncodedDataset.of(examples).fingerprint}
    return output_folder(recipe).parent / "teacher-scores" / of_settings(content)[:16]


def kept_form(recipe: Recipe, vocab_size: int) -> Form:
    """What the recipe keeps of a distribution over so many symbols."""
    section, temperature = recipe.teacher, recipe.objective.loss_temperature
    if section.scores == "top_k":
        most = min(section.top_k, vocab_size)
        return TopK(most, vocab_size, section.top_k_mass, temperature)
    if section.scores == "sampled":
        return Samples(section.samples_per_token, vocab_size, temperature)
    assert section.cache_hidden_states != "none"
    return HiddenStates(section.cache_hidden_states)


def _settings(prepared: Prepared, teacher: LoadedModel) -> ScoresSettings:
    size = check_vocabularies(prepared.student, teacher)
    return ScoresSettings(
        teacher_fingerprint=pair_fingerprint(teacher),
        form=kept_form(prepared.recipe, size),
        dtype=str(teacher.model.dtype),
        **_of_student(prepared.student),
    )


def _of_student(student: LoadedModel) -> dict[str, Any]:
    """What the teacher has, too: `check_vocabularies` says so."""
    facts = pair_facts(student)
    return {
        "vocabulary_fingerprint": vocabulary_fingerprint(student.tokenizer),
        "kind": student.kind,
        "start_id": decoder_start_id(student.model) if student.kind == "seq2seq" else None,
        "prefix_ids": decoder_prefix_ids(student.model),
        "end_ids": tuple(sorted(facts.end_ids)),
    }


def _settings_without_teacher(prepared: Prepared, folder: Path) -> ScoresSettings:
    """Those of the folder, but for what the recipe and the student say otherwise.

    Raises ModelError where the student has no row for a symbol that the teacher scored.
    """
    recipe, student = prepared.recipe, prepared.student
    found = read_record(folder).settings
    changes = _of_student(student)
    if not isinstance(found.form, HiddenStates):
        rows = student.model.get_output_embeddings().weight.shape[0]
        if not num_known_ids(student.tokenizer) <= found.form.vocab_size <= rows:
            raise ModelError(
                f"The student must score the {found.form.vocab_size} symbols that the scores in "
                f"{folder} are of, but its head has {rows} rows; score again with this student's "
                "recipe"
            )
        changes["form"] = kept_form(recipe, found.form.vocab_size)
    if (name := recipe.teacher.other_model) is not None:
        changes["teacher_fingerprint"] = place_fingerprint(name, model_folder(name))
    return dataclasses.replace(found, **changes)


def _placed_head(teacher: LoadedModel, vocab_size: int, device: torch.device) -> Head:
    head = head_of(teacher.model).cut(vocab_size).detached()
    bias = None if head.bias is None else head.bias.to(device)
    return dataclasses.replace(head, weight=head.weight.to(device), bias=bias)


def scores_bytes(prepared: Prepared) -> tuple[Form, float]:
    """What is kept of the teacher for the training examples, and the bytes that it takes at most;
    where no teacher was loaded, of a student's vocabulary."""
    head = (prepared.teacher or prepared.student).model.get_output_embeddings().weight
    form = kept_form(prepared.recipe, int(head.shape[0]))
    return form, int(prepared.train.lengths.counted.sum()) * form.num_bytes(int(head.shape[1]))


def stand_in_scores(prepared: Prepared, batch: SequenceBatch) -> SparseScores:
    """Scores of the size of those that are kept, for a batch that none were kept of."""
    section, shape = prepared.recipe.teacher, batch.target_ids.shape
    vocab_size = int(prepared.student.model.get_output_embeddings().weight.shape[0])
    most = section.top_k if section.scores == "top_k" else section.samples_per_token
    size = min(vocab_size, most)
    ids = torch.arange(size, device=batch.target_ids.device).expand(*shape, size)
    even = torch.full((*shape, size + 1), -math.log(size + 1), device=ids.device)
    form = section.sparse_form or "bucket"
    return SparseScores(ids, even[..., :-1], even[..., -1], vocab_size, form)
