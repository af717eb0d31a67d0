"""Encoded examples in Arrow with their lengths as arrays, and views of them that cost no copy.

Jobs that need lengths read arrays; an example is made when it is asked for.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError
from seqdistill.core.source import SourceInputs
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.tables import Stored, Table

_LOG = logging.getLogger(__name__)
Integers = npt.NDArray[np.int64]
_IDS = pa.list_(pa.int32())


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How many tokens each example has; of a source of another modality, its steps."""

    source: Integers
    target: Integers
    counted: Integers
    """Those that are learned: of the target and of earlier turns."""
    prompt: Integers
    """Those that are read where a target is to be written."""
    teacher_source: Integers
    """Those that the teacher reads in the place of `source`: as many where it reads the same."""
    teacher_prompt: Integers
    """Those that it reads in the place of `prompt`."""

    def widths(self, kind: Kind) -> Integers:
        """The longer side of an encoder-decoder example, the whole of a decoder-only one."""
        if kind == "seq2seq":
            return np.maximum(self.source, self.target)
        return self.source + self.target

    def for_teacher(self) -> Lengths:
        """The lengths of `EncodedExample.for_teacher`."""
        return dataclasses.replace(self, source=self.teacher_source, prompt=self.teacher_prompt)

    def widest(self, kind: Kind) -> Integers:
        """The wider of what the student and the teacher read: what a batch is planned by."""
        return np.maximum(self.widths(kind), self.for_teacher().widths(kind))

    def at(self, indices: Integers) -> Lengths:
        """The lengths of these examples."""
        return Lengths(*(getattr(self, f.name)[indices] for f in dataclasses.fields(self)))


class EncodedDataset(Table[EncodedExample]):
    """Encoded examples in Arrow."""

    schema = pa.schema(
        {
            "id": pa.string(),
            "source_ids": _IDS,
            "target_ids": _IDS,
            "counted_spans": pa.list_(_IDS),
            "own_prompt_ids": _IDS,
            "extras": pa.map_(pa.string(), pa.float64()),
            "source": pa.large_binary(),
            "teacher_source_ids": _IDS,
            "teacher_own_prompt_ids": _IDS,
            "num_source": pa.int32(),
            "num_counted": pa.int32(),
        }
    )
    _lengths: Lengths | None = None

    def _read(self, values: list[Any]) -> EncodedExample:
        name, source, target, spans, own_prompt, extras, inputs, teacher, teachers_own, *_ = values
        return EncodedExample(
            name.as_py(),
            _ids(source),
            _ids(target),
            tuple((start, stop) for start, stop in spans.as_py()),
            _ids(own_prompt) if own_prompt.is_valid else None,
            dict(extras.as_py()),
            SourceInputs.from_bytes(inputs.as_py()) if inputs.is_valid else None,
            _ids(teacher) if teacher.is_valid else None,
            _ids(teachers_own) if teachers_own.is_valid else None,
        )

    @property
    def reads_text(self) -> bool:
        """Whether sources are token ids, and not of another modality."""
        inputs = self._stored.table.column("source")
        return bool(inputs.null_count == len(inputs))

    @property
    def lengths(self) -> Lengths:
        """The lengths of all examples, in order."""
        if self._lengths is None:
            stored = _stored_lengths(self._stored)
            self._lengths = stored if self._rows is None else stored.at(self._rows)
        return self._lengths

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> EncodedDataset:
        """The examples at these indices, in that order."""
        chosen = super().select(indices)
        if chosen is not self:
            chosen._lengths = self.lengths.at(np.asarray(indices, dtype=np.int64))
        return chosen

    def reshaped(
        self,
        name: str,
        edit: Callable[[EncodedExample], EncodedExample],
        **lengths: Integers,
    ) -> EncodedDataset:
        """The examples as `edit` shows them, and the lengths that this changes."""
        edited = self.edited(name, edit)
        edited._lengths = dataclasses.replace(self.lengths, **lengths)
        return edited

    def answered(self, count: int) -> EncodedDataset:
        """The first `count` examples that have a target."""
        return self.select(np.flatnonzero(self.lengths.target)[:count])


def _ids(scalar: Any) -> tuple[int, ...]:
    return tuple(scalar.values.to_numpy().tolist())


def _stored_lengths(stored: Stored) -> Lengths:
    def integers(chunk: Any) -> Integers:
        found: Integers = chunk.to_numpy().astype(np.int64)
        return found

    def sizes(chunk: Any) -> Integers:
        return integers(pc.list_value_length(chunk).fill_null(-1))

    source, counted = (stored.gathered(name, integers) for name in ("num_source", "num_counted"))
    target, own, teacher, teachers_own = (
        stored.gathered(name, sizes)
        for name in ("target_ids", "own_prompt_ids", "teacher_source_ids", "teacher_own_prompt_ids")
    )
    prompt = np.where(own < 0, source, own)
    return Lengths(
        source,
        target,
        counted,
        prompt,
        teacher_source=np.where(teacher < 0, source, teacher),
        teacher_prompt=np.where(
            teacher < 0, prompt, np.where(teachers_own < 0, teacher, teachers_own)
        ),
    )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples that fit, and how many were longer than the limits and left out or cut."""

    examples: EncodedDataset
    num_too_long: int


def with_placeholder_targets(
    examples: Sequence[EncodedExample], *, max_tokens: int | None = None
) -> EncodedDataset:
    """The examples, those without a target with their source's tokens in its place.

    At most `max_tokens` of them. For what needs a target of a likely length and does not care
    what it says: comparing a converted model with the live one, timing a batch.
    """
    dataset = EncodedDataset.of(examples)
    lengths = dataset.lengths
    if lengths.target.all():
        return dataset
    added = np.where(lengths.target == 0, lengths.source if dataset.reads_text else 0, 0)
    if max_tokens is not None:
        added = np.minimum(added, max_tokens)
    return dataset.reshaped(
        f"placeholder targets {max_tokens}",
        lambda e: e if e.target_ids else e.with_target(e.source_ids[:max_tokens]),
        target=lengths.target + added,
        counted=lengths.counted + added,
    )


def leave_out_long(
    examples: Sequence[EncodedExample],
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    max_steps: int | None = None,
) -> Encoded:
    """The examples within both limits, for training; the others are counted and logged.

    What the teacher reads in the place of a source is one, too. Sources that are no text may have
    `max_steps`. Raises DataError when none is left.
    """
    dataset = EncodedDataset.of(examples)
    lengths = dataset.lengths
    fits = fits_student = lengths.target <= max_target_tokens
    if dataset.reads_text:
        fits_student = fits & (lengths.source <= max_source_tokens)
        fits = fits_student & (lengths.teacher_source <= max_source_tokens)
    elif max_steps is not None:
        fits = fits_student = fits & (lengths.source <= max_steps)
    num_too_long = len(dataset) - int(fits.sum())
    for_teacher = int(fits_student.sum()) - int(fits.sum())
    prompts = f", {for_teacher} of them for the teacher's prompts alone" if for_teacher else ""
    if len(dataset) and not fits.any():
        if not dataset.reads_text:
            raise DataError(
                f"Some examples must be no longer than the model reads ({max_steps} steps) and "
                f"have at most {max_target_tokens} target tokens, but all {len(dataset)} are "
                "longer; cut the sources, or raise data.max_target_tokens."
            )
        raise DataError(
            f"Some examples must fit into {max_source_tokens} source and {max_target_tokens} "
            f"target tokens, but all {len(dataset)} are longer{prompts}; raise "
            "data.max_source_tokens and data.max_target_tokens."
        )
    if num_too_long:
        _LOG.warning("left out %d examples longer than the limits%s", num_too_long, prompts)
    return Encoded(dataset.select(np.flatnonzero(fits)), num_too_long)


def cut_unread_targets(
    examples: Sequence[EncodedExample], *, max_target_tokens: int
) -> EncodedDataset:
    """Every example, its target cut to the limit: for trainings that learn from no such target.

    There a target says how long an output may be, for planning batches, and leaves nothing out.
    """
    dataset = EncodedDataset.of(examples)
    lengths = dataset.lengths
    cut = np.minimum(lengths.target, max_target_tokens)
    if np.array_equal(cut, lengths.target):
        return dataset
    return dataset.reshaped(
        f"targets cut to {max_target_tokens}",
        lambda e: e.with_target(e.target_ids[:max_target_tokens]),
        target=cut,
        counted=lengths.counted - lengths.target + cut,
    )


def cut_long_sources(
    examples: Sequence[EncodedExample],
    *,
    max_source_tokens: int,
    kind: Kind,
    max_steps: int | None = None,
) -> Encoded:
    """Every example, for evaluation: long sources keep their first tokens and their end token.
    Those that are no text keep their first `max_steps`.

    Prompts of decoder-only models keep their last tokens instead, which lead into the completion;
    earlier turns do not count in what is cut. A prompt of the teacher's own is of training alone,
    and is not kept.
    """
    dataset = EncodedDataset.of(examples)
    lengths = dataset.lengths
    longest = max_source_tokens if dataset.reads_text else max_steps
    if longest is None or not (is_long := lengths.source > longest).any():
        return Encoded(dataset, 0)
    unit = "tokens" if dataset.reads_text else "steps"
    _LOG.warning("cut %d sources to %d %s", is_long.sum(), longest, unit)

    def cut(example: EncodedExample) -> EncodedExample:
        if example.source is not None:
            return dataclasses.replace(example, source=example.source.first(longest))
        ids = example.source_ids
        if len(ids) <= max_source_tokens:
            return example
        kept = ids[-max_source_tokens:]
        if kind == "seq2seq":
            kept = (*ids[: max_source_tokens - 1], ids[-1])
        own = example.own_prompt_ids and example.own_prompt_ids[-max_source_tokens:]
        return EncodedExample(
            example.id, kept, example.target_ids, own_prompt_ids=own, extras=example.extras
        )

    source = np.minimum(lengths.source, longest)
    prompt = np.where(is_long, np.minimum(lengths.prompt, longest), lengths.prompt)
    shown = dataset.reshaped(
        f"{kind} sources cut to {longest}",
        cut,
        source=source,
        counted=np.where(is_long, lengths.target, lengths.counted),
        prompt=prompt,
        teacher_source=source,
        teacher_prompt=prompt,
    )
    return Encoded(shown, int(is_long.sum()))
