"""The example: one source with its target, known by an id. Knows no files and no tokens."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqdistill.data.tables import Table

NO_EXTRAS: Mapping[str, float] = {}


class Turn(NamedTuple):
    """One turn of a conversation, whole."""

    role: str
    content: str | None
    more: str = ""
    """Its other keys (`tool_calls`, `reasoning_content`, `name`, ...) as the JSON of an object, or
    nothing: a value that cannot change and compares as text."""

    def as_dict(self) -> dict[str, object]:
        """The turn as chat templates know it."""
        content = {} if self.content is None else {"content": self.content}
        return {"role": self.role, **content, **(json.loads(self.more) if self.more else {})}


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A source text and its target; `target` is None where there is none yet.

    A conversation has the turns before its last answer in `messages`, an empty `source`, and the
    assistant's last answer (not among `messages`) as `target`.
    """

    id: str
    source: str
    target: str | None
    messages: tuple[Turn, ...] | None = None
    answer_more: str = ""
    """What the answer's turn holds besides its content, as `Turn.more`."""
    tools: str = ""
    """The tools that the assistant may call: the JSON of a list of schemas, or nothing."""
    extras: Mapping[str, float] = dataclasses.field(default_factory=lambda: NO_EXTRAS)
    """The numbers of the row that a recipe names in `data.extra_columns`."""
    teacher_source: str | None = None
    """What the teacher reads in the place of `source`, where that is another text."""
    teacher_messages: tuple[Turn, ...] | None = None
    """The same in the place of `messages`."""
    audio: str | None = None
    """The file of the recording that is the source, where it is no text: then `source` is empty."""

    @property
    def answer(self) -> Turn | None:
        """The assistant's last turn of a conversation."""
        if self.target is None:
            return None
        return Turn("assistant", self.target, self.answer_more)

    def without_reference(self) -> Example:
        """The same source with nothing to compare to."""
        return dataclasses.replace(self, target=None, answer_more="")

    @property
    def has_teacher_prompt(self) -> bool:
        """Whether the teacher reads another prompt."""
        return self.teacher_source is not None or self.teacher_messages is not None

    def for_teacher(self) -> Example:
        """The same answer after the prompt that the teacher reads."""
        if not self.has_teacher_prompt:
            return self
        return dataclasses.replace(
            self,
            source=self.teacher_source or "",
            messages=self.teacher_messages,
            teacher_source=None,
            teacher_messages=None,
        )


def _turns(stored: list[dict[str, Any]] | None) -> tuple[Turn, ...] | None:
    return None if stored is None else tuple(Turn(**turn) for turn in stored)


_TURN = pa.struct({"role": pa.string(), "content": pa.string(), "more": pa.string()})


class ExampleTable(Table[Example]):
    """Examples in Arrow."""

    schema = pa.schema(
        {
            "id": pa.string(),
            "source": pa.string(),
            "target": pa.string(),
            "messages": pa.list_(_TURN),
            "answer_more": pa.string(),
            "tools": pa.string(),
            "extras": pa.map_(pa.string(), pa.float64()),
            "teacher_source": pa.string(),
            "teacher_messages": pa.list_(_TURN),
            "audio": pa.string(),
        }
    )

    def _read(self, values: list[Any]) -> Example:
        name, source, target, messages, answer_more, tools, extras, *teacher, audio = (
            value.as_py() for value in values
        )
        return Example(
            name,
            source,
            target,
            _turns(messages),
            answer_more,
            tools,
            dict(extras),
            teacher[0],
            _turns(teacher[1]),
            audio,
        )

    @property
    def has_chats(self) -> bool:
        """Whether any of the stored rows is a conversation."""
        messages = self._stored.table.column("messages")
        return bool(messages.null_count < len(messages))

    @property
    def has_audio(self) -> bool:
        """Whether the sources are recordings."""
        files = self._stored.table.column("audio")
        return bool(files.null_count < len(files))

    @property
    def inputs(self) -> list[str]:
        """What is read of every row, whatever its kind, as a text: equal for rows that read the
        same."""

        def texts(chunk: Any) -> npt.NDArray[Any]:
            return np.array([str(value or "") for value in chunk.to_pylist()], dtype=object)

        columns = (self.gathered(name, texts) for name in ("source", "messages", "audio", "tools"))
        return ["\0".join(parts) for parts in zip(*columns, strict=True)]

    def with_audio_in(self, folder: Path) -> ExampleTable:
        """The same examples, the paths of whose recordings count from this folder."""
        table, place = self._stored.table, self.schema.get_field_index("audio")
        files = [name and str(folder / name) for name in table.column(place).to_pylist()]
        found = table.set_column(place, self.schema.field(place), pa.array(files, pa.string()))
        return ExampleTable(dataclasses.replace(self._stored, table=found), self._rows, self._edits)

    def targets_hold(self, text: str) -> npt.NDArray[np.bool_]:
        """Of each row whether its target has the text in it; of none it has not."""
        assert not self._edits, "what is stored is looked at"

        def hold(targets: Any) -> npt.NDArray[Any]:
            found: npt.NDArray[Any] = (
                pc.match_substring(targets, text).fill_null(False).to_numpy(zero_copy_only=False)
            )
            return found

        return self.gathered("target", hold).astype(np.bool_)

    def extra(self, name: str) -> npt.NDArray[np.float64]:
        """A numeric column that came with the rows."""

        def values(extras: Any) -> npt.NDArray[Any]:
            found: npt.NDArray[Any] = pc.map_lookup(extras, name, "first").to_numpy(
                zero_copy_only=False
            )
            return found

        return self.gathered("extras", values)

    def with_id_prefix(self, prefix: str) -> ExampleTable:
        """The same examples, each id with the prefix before it."""
        table = self._stored.table
        ids = pc.binary_join_element_wise(prefix, table.column("id"), "")
        renamed = table.set_column(0, self.schema.field("id"), ids)
        fingerprint = hashlib.sha256(f"{self._stored.fingerprint} {prefix}".encode()).hexdigest()
        stored = dataclasses.replace(self._stored, table=renamed, fingerprint=fingerprint)
        return ExampleTable(stored, self._rows, self._edits)

    def named(self, example_id: str) -> Example:
        """The example of that id."""
        return self[self._places[example_id]]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}
