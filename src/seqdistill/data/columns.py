"""Which columns hold the source and the target: by the names users have, or as they say.

It sees names, and one value of a `translation` column; it does not read rows.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Sequence

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
TRANSLATION = "translation"
MESSAGES = "messages"
ID = "id"
SYSTEM, TOOLS, REASONING = "system", "tools", "reasoning_content"
INSTRUCTION = "instruction"
_WITH_INSTRUCTION = (("input", "output"), ("context", "response"))
"""Beside an instruction: the text it is about, and the answer. Source: Alpaca and Dolly."""
_CHANGE_MEANING = (
    "chosen",
    "rejected",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
    "tool_calls",
    "function_call",
    "functions",
    "documents",
    "chat_template_kwargs",
)
"""Columns without which a row says something else: never dropped unless the user says so."""
_BOOKKEEPING = frozenset({ID, "idx", "index", "__index_level_0__"})
_NUM_LISTED = 20
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ColumnChoice:
    """What the user said of the columns; None where nothing was said."""

    source_column: str | None = None
    target_column: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    need_target: bool = True
    ignore_columns: tuple[str, ...] = ()
    """Columns, and keys of turns, that are left out knowingly."""
    extra_columns: tuple[str, ...] = ()
    """Columns of numbers that come with each example."""

    def check_no_extras(self, file: object) -> None:
        """Raises DataError when extra columns are asked of a file that can have none."""
        if self.extra_columns:
            raise DataError(
                f"data.extra_columns must be columns of the rows, but {file} has a source and a "
                "target alone; use .jsonl, .parquet, or a .tsv whose first line names its columns"
            )

    def kept(self, names: Collection[str]) -> list[str]:
        """The columns that are not left out."""
        return [name for name in names if name not in self.ignore_columns]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where an example's parts are in a row.

    With `languages` the column `source` holds dictionaries from language to text. Without a
    `target` column the source may be a list of messages that ends with the target. `about` is the
    text that an instruction is about: it follows the instruction after an empty line. `of_chat`
    are the columns that make a row a conversation: `system` becomes its first turn, `tools` go to
    the chat template, `reasoning_content` belongs to the answer.
    """

    source: str
    target: str | None
    has_id: bool
    languages: tuple[str, str | None] | None = None
    about: str | None = None
    of_chat: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Keys of turns that are left out."""
    extras: tuple[str, ...] = ()
    """Columns of numbers."""

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        sides = (self.source, self.about, self.target, ID if self.has_id else None)
        named = (*sides, *self.of_chat, *self.extras)
        return [name for name in dict.fromkeys(named) if name is not None]


def named_pair(
    names: Collection[str], choice: ColumnChoice
) -> tuple[str, str] | tuple[str, None] | None:
    """The (source, target) columns of plain texts; the target is None where it is not needed.

    None when no convention fits. Raises DataError for a chosen column that is not there.
    """
    for chosen in (choice.source_column, choice.target_column):
        if chosen is not None and chosen not in names:
            raise DataError(
                f"column {chosen!r} must be one of {_listed(names)}.{did_you_mean(chosen, names)}"
            )
    if choice.source_column is not None and choice.target_column is not None:
        return choice.source_column, choice.target_column
    if choice.source_column is not None or choice.target_column is not None:
        return _other_side(names, choice)
    pairs: list[tuple[str, str]] = list(PAIRS)
    if INSTRUCTION in names:  # what it asks for must not be lost: input alone is no source
        pairs[-1:] = [(INSTRUCTION, output) for _, output in _WITH_INSTRUCTION]
    if choice.source_language is not None and choice.target_language is not None:
        pairs.append((choice.source_language, choice.target_language))
    for source, target in pairs:
        if source in names and target in names:
            return source, target
    return None


def _other_side(
    names: Collection[str], choice: ColumnChoice
) -> tuple[str, str] | tuple[str, None] | None:
    """The pair when the user named one side: the other side has a conventional name."""
    if choice.source_column is not None:
        for _, target in (*PAIRS, *_WITH_INSTRUCTION):
            if target in names and target != choice.source_column:
                return choice.source_column, target
        return choice.source_column, None
    assert choice.target_column is not None
    for source, _ in PAIRS:
        if source in names and source != choice.target_column:
            return source, choice.target_column
    return None


def find_layout(
    names: Collection[str], choice: ColumnChoice, *, file: str, first_translation: object
) -> Layout:
    """The layout of rows with the columns `names`; what it leaves out is logged in one line.

    `first_translation` is the `translation` value of the first row (None without that column); it
    tells the languages. Raises DataError, naming the file and its columns, when nothing fits, and
    for columns whose loss would change what a row means.
    """
    layout = _with_more(_sides(choice.kept(names), choice, file, first_translation), names, choice)
    for name in choice.extra_columns:
        if name not in names:
            raise DataError(
                f"{file}: data.extra_columns must name columns, found {name!r} and the columns "
                f"{_listed(names)}.{did_you_mean(name, names)}"
            )
    unread = [name for name in names if name not in (*layout.columns, *choice.ignore_columns)]
    lost = [name for name in _CHANGE_MEANING if name in unread]
    if lost:
        raise DataError(
            f"{file}: every column that changes what a row means must be read, but nothing reads "
            f"{_listed(lost)}; rows are read as {_listed(layout.columns)}. Take them out, or set "
            f"data.ignore_columns=[{','.join(lost)}] to learn without them"
        )
    named = [name for name in unread if name not in _BOOKKEEPING]
    if named:
        _LOG.warning(
            "%s: read as %s; columns not read: %s; others are chosen with data.source_column and "
            "data.target_column",
            file,
            _listed(layout.columns),
            _listed(named),
        )
    return layout


def _with_more(layout: Layout, names: Collection[str], choice: ColumnChoice) -> Layout:
    """The layout with the columns that belong to a conversation or an instruction."""
    kept = [n for n in choice.kept(names) if n not in (layout.source, layout.target)]
    about = None
    if layout.source == INSTRUCTION:
        about = next((text for text, _ in _WITH_INSTRUCTION if text in kept), None)
    of_chat = tuple(name for name in (SYSTEM, TOOLS, REASONING) if name in kept)
    return dataclasses.replace(
        layout,
        about=about,
        of_chat=of_chat,
        ignored=choice.ignore_columns,
        extras=choice.extra_columns,
    )


def _sides(
    names: Collection[str], choice: ColumnChoice, file: str, first_translation: object
) -> Layout:
    has_id = ID in names
    try:
        pair = named_pair(names, choice)
        if pair is not None:
            return Layout(pair[0], pair[1], has_id)
        if TRANSLATION in names:
            languages = _languages(first_translation, choice)
            return Layout(TRANSLATION, None, has_id, languages)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    sources = [source for source, _ in PAIRS[:-1]] + [INSTRUCTION, PAIRS[-1][0]]
    for source in [MESSAGES] if choice.need_target else [MESSAGES, *sources]:
        if source in names:
            return Layout(source, None, has_id)
    for source, target in PAIRS:
        if choice.need_target and source in names:
            raise DataError(
                f"{file}: the column {source!r} must have targets beside it in a column "
                f"{target!r}, found {_listed(names)}; add them, or say which column holds them "
                "with data.target_column"
            )
    known = ", ".join(f"{source}/{target}" for source, target in PAIRS)
    raise DataError(
        f"{file}: columns must be named by a known convention ({known}, instruction/input/output, "
        f"{TRANSLATION}, {MESSAGES}), found {_listed(names)}; say which they are with "
        "data.source_column and data.target_column"
    )


def _languages(first: object, choice: ColumnChoice) -> tuple[str, str | None]:
    if not isinstance(first, dict) or not first:
        raise DataError(
            f"a {TRANSLATION} must be a dictionary such as {{'en': ..., 'de': ...}}, "
            f"found {type(first).__name__}"
        )
    found = [str(language) for language in first]
    source, target = choice.source_language, choice.target_language
    for wanted in (source, target):
        if wanted is not None and wanted not in found:
            raise DataError(
                f"language {wanted!r} must be one of {_listed(found)}."
                f"{did_you_mean(wanted, found)} Where the model's tokenizer names it otherwise, a "
                "recipe gives both, as key:code"
            )
    if source is not None and (target is not None or not choice.need_target):
        return source, target
    others = [language for language in found if language not in (source, target)]
    if (source is not None or target is not None) and len(others) == 1:
        return source or others[0], target or others[0]
    raise DataError(
        f"data.source_language and data.target_language must say which way to translate, found "
        f"{_listed(found)} and no choice; give both, such as "
        f"data.source_language={found[0]} data.target_language={found[-1]}"
    )


def _listed(names: Collection[str]) -> str:
    listed: Sequence[str] = [repr(name) for name in list(names)[:_NUM_LISTED]]
    more = f" and {len(names) - _NUM_LISTED:,} more" if len(names) > _NUM_LISTED else ""
    return ", ".join(listed) + more if listed else "no columns"
