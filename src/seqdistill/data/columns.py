"""Which columns hold the source and the target: by the names users have, or as they say.

It sees names alone and reads no rows.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from typing import Literal

from seqdistill.core.errors import DataError, did_you_mean

PAIRS = (
    ("source", "target"),
    ("prompt", "completion"),
    ("src", "tgt"),
    ("document", "summary"),
    ("input", "output"),
)
"""Known pairs of names, first match wins. Source: the spellings of TRL and of transformers' example
scripts, and of common translation and summarization sets."""
AUDIO = "audio"
"""The column of paths to recordings, from the table's folder: what a model is to hear."""
RECORDED = tuple((AUDIO, text) for text in ("text", "sentence", "transcription"))
"""The pairs of speech. Source: LibriSpeech, Common Voice, MInDS-14."""
TRANSLATION = "translation"
MESSAGES = "messages"
ID = "id"
SYSTEM, TOOLS, REASONING = "system", "tools", "reasoning_content"
INSTRUCTION = "instruction"
_WITH_INSTRUCTION = (("input", "output"), ("context", "response"))
"""Beside an instruction: the text it is about, and the answer. Source: Alpaca and Dolly."""
_CHANGE_MEANING = (
    *("chosen", "rejected", "tool_calls", "function_call", "functions", "documents"),
    *("image", "images", "video", "videos", "audio", "audios", "chat_template_kwargs"),
)
"""Columns without which a row says something else: never dropped unless the user says so."""
_BOOKKEEPING = frozenset({ID, "idx", "index", "__index_level_0__", "num_rollouts"})
_NUM_LISTED = 20
_LOG = logging.getLogger(__name__)
Targets = Literal["needed", "optional", "unread"]
"""`optional`: sources alone are enough, and a target that is there is read. `unread`: no example
has one, whatever the rows hold, and columns that are named for targets need not be there."""


@dataclasses.dataclass(frozen=True)
class ColumnChoice:
    """What the user said of the columns; None where nothing was said."""

    source_column: str | None = None
    target_column: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    targets: Targets = "needed"
    ignore_columns: tuple[str, ...] = ()
    """Columns, and keys of turns, that are left out knowingly."""
    extra_columns: tuple[str, ...] = ()
    """Columns of numbers that come with each example."""
    teacher_column: str | None = None
    """The column of what the teacher reads in the place of the source."""
    route: tuple[str, tuple[str, ...]] | None = None
    """The column that says which of several teachers a row is for, and the value of each."""

    @property
    def further(self) -> list[tuple[str, str]]:
        """(setting, column) of those beside source and target."""
        teacher, route = self.teacher_column, self.route
        return [
            *(("data.extra_columns", name) for name in self.extra_columns),
            *([] if teacher is None else [("teacher.prompt_column", teacher)]),
            *([] if route is None else [("teacher.route_by", route[0])]),
        ]


def check_no_extras(file: object, choice: ColumnChoice) -> None:
    """Raises DataError when further columns are asked of a file that can have none."""
    for key, _ in choice.further:
        raise DataError(
            f"{key} must be of the rows, but {file} has a source and a target alone; use "
            ".jsonl, .parquet, or a .tsv whose first line names its columns"
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where an example's parts are in a row.

    With `languages` (those that the user named) the column `source` holds dictionaries from
    language to text. Without a `target` column the source may be a list of messages that ends with
    the target. `about` is the text that an instruction is about: it follows the instruction after
    an empty line. `of_chat` are the columns that make a row a conversation: `system` becomes its
    first turn, `tools` go to the chat template, `reasoning_content` belongs to the answer.
    """

    source: str
    target: str | None
    has_id: bool
    languages: tuple[str | None, str | None] | None = None
    about: str | None = None
    of_chat: tuple[str, ...] = ()
    choice: ColumnChoice = ColumnChoice()
    """What the user said."""

    @property
    def is_heard(self) -> bool:
        """Whether the source is a recording."""
        return self.source == AUDIO

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        sides = (self.source, self.about, self.target, ID if self.has_id else None)
        further = (name for _, name in self.choice.further)
        named = (*sides, *self.of_chat, *further)
        return [name for name in dict.fromkeys(named) if name is not None]


def named_pair(names: Collection[str], choice: ColumnChoice) -> tuple[str, str | None] | None:
    """The (source, target) columns of plain texts; the target is None where there is none.

    None when no convention fits. Raises DataError for a chosen column that is not there.
    """
    source, target = choice.source_column, choice.target_column
    if choice.targets == "unread" and target not in names:
        target = None
    for chosen in (source, target):
        if chosen is not None and chosen not in names:
            raise DataError(
                f"column {chosen!r} must be one of {listed(names)}.{did_you_mean(chosen, names)}"
            )
    if source is not None or target is not None:  # the other side has a conventional name
        if source is None:
            sources = (s for s, _ in (*PAIRS, *RECORDED))
            source = next((s for s in sources if s in names and s != target), None)
        if target is None:
            known = (t for _, t in (*PAIRS, *_WITH_INSTRUCTION, *RECORDED))
            target = next((t for t in known if t in names and t != source), None)
        return None if source is None else (source, target)
    pairs = list(PAIRS)
    if INSTRUCTION in names:  # what it asks for must not be lost: input alone is no source
        pairs[-1:] = [(INSTRUCTION, output) for _, output in _WITH_INSTRUCTION]
    pairs += RECORDED
    if choice.source_language is not None and choice.target_language is not None:
        pairs.append((choice.source_language, choice.target_language))
    return next(((s, t) for s, t in pairs if s in names and t in names), None)


def find_layout(names: Collection[str], choice: ColumnChoice, *, file: str) -> Layout:
    """The layout of rows with the columns `names`; what it leaves out is logged in one line.

    Raises DataError, naming the file and its columns, when nothing fits, and for columns whose
    loss would change what a row means.
    """
    kept = [name for name in names if name not in choice.ignore_columns]
    source, target, languages = _sides(kept, choice, file)
    others = [name for name in kept if name not in (source, target)]
    abouts = [text for text, _ in _WITH_INSTRUCTION if source == INSTRUCTION and text in others]
    layout = Layout(
        source,
        target,
        ID in kept,
        languages,
        about=abouts[0] if abouts else None,
        of_chat=(
            ()
            if source == AUDIO
            else tuple(name for name in (SYSTEM, TOOLS, REASONING) if name in others)
        ),
        choice=choice,
    )
    for key, name in choice.further:
        if name not in names:
            raise DataError(
                f"{file}: {key} must name columns, found {name!r} and the columns "
                f"{listed(names)}.{did_you_mean(name, names)}"
            )
    if choice.teacher_column is not None and layout.is_heard:
        raise DataError(
            f"{file}: teacher.prompt_column must be left out of speech, whose teacher hears what "
            f"the student hears, got {choice.teacher_column!r}; remove it"
        )
    if choice.teacher_column in layout.of_chat:
        raise DataError(
            f"{file}: teacher.prompt_column must be a column that the student does not read, found "
            f"{choice.teacher_column!r}, which belongs to its conversations; rename the column"
        )
    if twice := [name for name in layout.columns if [*names].count(name) > 1]:
        raise DataError(
            f"{file}: every column that is read must have a name of its own, found {twice[0]!r} "
            "twice; rename one of the two"
        )
    unread = [name for name in names if name not in (*layout.columns, *choice.ignore_columns)]
    lost = [name for name in _CHANGE_MEANING if name in unread]
    if lost:
        raise DataError(
            f"{file}: every column that changes what a row means must be read, but nothing reads "
            f"{listed(lost)}; rows are read as {listed(layout.columns)}. Take them out, or set "
            f"data.ignore_columns=[{','.join(lost)}] to learn without them"
        )
    named = [name for name in unread if name not in _BOOKKEEPING]
    if named:
        _LOG.warning(
            "%s: read as %s; columns not read: %s; others are chosen with data.source_column and "
            "data.target_column",
            file,
            listed(layout.columns),
            listed(named),
        )
    return layout


def _sides(
    names: Collection[str], choice: ColumnChoice, file: str
) -> tuple[str, str | None, tuple[str | None, str | None] | None]:
    """The column of the source, that of the target, and the languages of a column that has both."""
    try:
        pair = named_pair(names, choice)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    if pair is not None:
        return (*pair, None)
    if TRANSLATION in names:
        return TRANSLATION, None, (choice.source_language, choice.target_language)
    sources = [*(source for source, _ in PAIRS[:-1]), INSTRUCTION, PAIRS[-1][0], AUDIO]
    lone = [MESSAGES] if choice.targets == "needed" else [MESSAGES, *sources]
    if choice.targets == "unread" and choice.source_language is not None:
        lone.append(choice.source_language)
    for source in lone:
        if source in names:
            return source, None, None
    for source, target in (*PAIRS, *RECORDED):
        if source in names:
            raise DataError(
                f"{file}: the column {source!r} must have targets beside it in a column "
                f"{target!r}, found {listed(names)}; add them, or say which column holds them "
                "with data.target_column"
            )
    known = ", ".join(f"{source}/{target}" for source, target in (*PAIRS, RECORDED[0]))
    raise DataError(
        f"{file}: columns must be named by a known convention ({known}, instruction/input/output, "
        f"{TRANSLATION}, {MESSAGES}), found {listed(names)}; say which they are with "
        "data.source_column and data.target_column"
    )


def listed(names: Collection[str]) -> str:
    """The names for a message: the first twenty, and how many more there are."""
    shown = ", ".join(repr(name) for name in [*names][:_NUM_LISTED])
    more = f" and {len(names) - _NUM_LISTED:,} more" if len(names) > _NUM_LISTED else ""
    return shown + more if shown else "no columns"
