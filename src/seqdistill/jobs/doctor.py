"""The command `doctor`: what a recipe's data, tokenizers, models and machine say before training.

Models are sketched from their configurations first, so that one that is too large is told and not
loaded. What training itself refuses or warns of comes from the very checks of training. Trains
nothing and writes nothing; of large data some rows are looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from seqdistill.assembly.data import Split, chat_settings, encode_for, read_split
from seqdistill.assembly.memory import sketched, sketched_student
from seqdistill.assembly.models import model_folder
from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.servers import servers_said
from seqdistill.assembly.teachers import check_kept_scores
from seqdistill.core.errors import ServerError, UserError
from seqdistill.core.hub import must_be_downloaded
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import ExampleTable
from seqdistill.jobs.findings import Case, Finding, warnings_kept
from seqdistill.jobs.machine_findings import (
    dtypes_found,
    engines_found,
    licences_found,
    memory_found,
)
from seqdistill.jobs.preflight import joined, preflight, spelled
from seqdistill.jobs.text_findings import (
    ends_found,
    lengths_found,
    splits_found,
    templates_found,
    tokenizers_found,
)
from seqdistill.models.languages import with_languages
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import trainings

Read = Callable[[Recipe, Split], ExampleTable]
_SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_MOST_ROWS = 2000
"""Of train that are tokenized; of dev half as many."""
_NUM_SHOWN = 5
_NUM_TOKENS = 80
"""Shown at each end of what is read and of what is learned."""


@dataclasses.dataclass(frozen=True)
class SeenRow:
    """A row as the student sees it: its tokens in stretches that are learned or only read."""

    id: str
    pieces: tuple[tuple[str, bool], ...]
    """(tokens with spaces between, whether they are learned)."""


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found, by subject, and some rows."""

    findings: tuple[Finding, ...]
    rows: tuple[SeenRow, ...]

    @property
    def would_fail(self) -> bool:
        """Whether the run would be refused, or could not go on."""
        return any(finding.level == "error" for finding in self.findings)


def examine(recipe: Recipe) -> Examination:
    """What is found of a recipe; of a chain or a comparison of all its trainings together."""
    known: dict[str, ExampleTable] = {}

    def read(member: Recipe, split: Split) -> ExampleTable:
        """The rows, which the trainings of a comparison share."""
        column, data = member.teacher.prompt_column, member.data.model_dump_json()
        key = f"{split} {member.seed} {column} {data}"
        if key not in known:
            known[key] = read_split(member, split, targets="optional")
        return known[key]

    examined = [_examined(member, read) for member in trainings(recipe)]
    findings = [*dict.fromkeys(finding for one in examined for finding in one.findings)]
    subjects = [*dict.fromkeys(finding.subject for finding in findings)]
    findings.sort(key=lambda finding: subjects.index(finding.subject))
    return Examination(tuple(findings), examined[0].rows)


def _examined(recipe: Recipe, read: Read) -> Examination:
    findings: list[Finding] = []

    def add(subject: str, look: Callable[[], Iterator[Finding]]) -> None:
        """Adds what a look finds; what it raises is what training would end with."""
        told = {finding.found for finding in findings}
        try:
            findings.extend(finding for finding in look() if finding.found not in told)
        except UserError as error:
            if str(error) not in told:
                findings.append(_refusal(subject, error))

    case, reasons = _case_of(recipe, read)
    findings += reasons
    for subject, look in _LOOKS.items():
        add(subject, lambda look=look: look(case))  # type: ignore[misc]
    if not any(f.subject == "memory" and f.level == "error" for f in findings):
        add("training", lambda: _said_by_training(recipe))
    return Examination(tuple(findings), _rows_seen(case))


def _refusal(subject: str, error: UserError) -> Finding:
    return Finding(subject, "error", str(error), "training would be refused")


def _case_of(recipe: Recipe, read: Read) -> tuple[Case, list[Finding]]:
    """What can be had of models and rows, and why not more."""
    reasons: list[Finding] = []

    @contextlib.contextmanager
    def noted(subject: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            reasons.append(_refusal(subject, error))

    case = Case(recipe, (), None, {}, None)
    languages = recipe.data.model_languages
    for name in recipe.teacher.other_models:
        with noted("teacher"):
            trusted = recipe.teacher.trust_remote_code
            pair = with_languages(sketched(name, trust_remote_code=trusted), *languages)
            case = dataclasses.replace(case, teachers=(*case.teachers, pair))
    with noted("student"):
        student = sketched_student(recipe, next(iter(case.teachers), None))
        if student is not None:
            case = dataclasses.replace(case, student=with_languages(student, *languages))
        elif recipe.teacher.model is None:
            words = "its vocabulary is learned from the data: rows and memory are not known yet"
            reasons.append(Finding("student", "note", words))
    for split in _SPLITS:
        if getattr(recipe.data, split) is not None:
            with noted("data"), warnings_kept():
                case = dataclasses.replace(case, rows={**case.rows, split: read(recipe, split)})
    if case.student is not None and len(case.train):
        with noted("data"), warnings_kept():
            rows = _some(case.train)
            encoded = encode_for(case.student, rows, chat_settings(recipe.data))
            case = dataclasses.replace(case, encoded=encoded)
    return case, reasons


def _some(rows: ExampleTable) -> ExampleTable:
    """Rows from all over the data, few enough to be tokenized in seconds."""
    if len(rows) <= _MOST_ROWS:
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(np.int64))


def _said_by_training(recipe: Recipe) -> Iterator[Finding]:
    """What training itself checks before its first step, on some of the rows."""
    names = (*recipe.teacher.other_models, recipe.student.model)
    if away := [name for name in names if name and must_be_downloaded(model_folder(name))]:
        words = f"the weights of {', '.join(away)} are on the hub and not on this machine yet"
        yield Finding("training", "note", words, "what training checks of them was not looked at")
        return
    data = recipe.data
    limits = {
        "max_train_examples": min(data.max_train_examples or _MOST_ROWS, _MOST_ROWS),
        "max_dev_examples": min(data.max_dev_examples or _MOST_ROWS // 2, _MOST_ROWS // 2),
    }
    limited = recipe.model_copy(update={"data": data.model_copy(update=limits)})
    with warnings_kept() as said:
        preflight(prepared := prepare(limited))
        check_kept_scores(prepared)
        try:
            served = servers_said(prepared)
        except ServerError as error:
            yield _refusal("servers", error)
            return
    yield from (Finding("servers", "ok", words) for words in served)
    for text in dict.fromkeys(said):
        if not text.startswith("left out"):  # told with the lengths
            yield Finding("training", "warning", text)
    yield Finding("training", "ok", "nothing that it checks before its first step would stop it")


def _rows_seen(case: Case) -> tuple[SeenRow, ...]:
    if case.encoded is None or case.student is None:
        return ()
    sequences, tokenizer = case.recipe.sequences, case.student.tokenizer
    samples = sequences.rolls_out and not sequences.has_two_origins
    rows: Sequence[EncodedExample] = case.encoded.answered(_NUM_SHOWN) or case.encoded[:_NUM_SHOWN]
    seen = []
    for row in rows:
        if samples:  # no reference is learned
            row = row.answered(())
        ids = (*row.source_ids, *row.target_ids)
        learned = np.zeros(len(ids), dtype=bool)
        for start, stop in (*row.counted_spans, (len(row.source_ids), len(ids))):
            learned[start:stop] = True
        tokens = spelled(ids, tokenizer)
        pieces: list[tuple[str, bool]] = []
        borders = [0, *(np.flatnonzero(np.diff(learned)) + 1).tolist(), len(ids)]
        for start, stop in itertools.pairwise(borders):
            if start < stop:
                shown = joined(tokens[start:stop], at_each_end=_NUM_TOKENS)
                pieces.append((shown, bool(learned[start])))
        if row.source is not None:
            pieces.insert(0, (case.train.named(row.id).audio or "", False))
        seen.append(SeenRow(row.id, tuple(pieces)))
    return tuple(seen)


_LOOKS: dict[str, Callable[[Case], Iterator[Finding]]] = {
    "tokenizers": tokenizers_found,
    "ends": ends_found,
    "chat templates": templates_found,
    "lengths": lengths_found,
    "splits": splits_found,
    "dtype": dtypes_found,
    "memory": memory_found,
    "engines": engines_found,
    "licences": licences_found,
}
