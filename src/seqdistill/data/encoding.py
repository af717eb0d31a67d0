"""The encoded example: one source and the token ids of its target, and which of them count."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from seqdistill.core.source import Source, SourceInputs
from seqdistill.data.examples import NO_EXTRAS


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of one example; `target_ids` ends with the end token, or is empty for prompts.

    A sequence that was cut off has no end token.
    """

    id: str
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    counted_spans: tuple[tuple[int, int], ...] = ()
    """Stretches [start, stop) of `source_ids` that are learned like `target_ids`: the assistant's
    earlier turns. Whoever writes another target drops them."""
    own_prompt_ids: tuple[int, ...] | None = None
    """The tokens of the prompt alone, where they are not `source_ids`: a token of the whole text
    lies across the border, or the template opens an answer otherwise than it shows a finished one.
    """
    extras: Mapping[str, float] = dataclasses.field(default_factory=lambda: NO_EXTRAS)
    """The numbers of the row that a recipe names in `data.extra_columns`."""
    source: SourceInputs | None = None
    """What the encoder reads where that is no text; then `source_ids` are none."""
    teacher_source_ids: tuple[int, ...] | None = None
    """What the teacher reads in the place of `source_ids`, where that is another prompt."""
    teacher_own_prompt_ids: tuple[int, ...] | None = None
    """The same in the place of `own_prompt_ids`."""

    @property
    def prompt(self) -> Source:
        """What a model is given to write a target for, of whatever modality."""
        return self.prompt_ids if self.source is None else self.source

    @property
    def num_source(self) -> int:
        """Length of the source that is learned from: in tokens, or its modality's steps."""
        return len(self.source_ids) if self.source is None else len(self.source)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What is read where a target is to be written."""
        return self.source_ids if self.own_prompt_ids is None else self.own_prompt_ids

    @property
    def counted_ids(self) -> tuple[int, ...]:
        """Every token that is learned, in order: of the counted spans, then of the target."""
        earlier = (i for start, stop in self.counted_spans for i in self.source_ids[start:stop])
        return (*earlier, *self.target_ids)

    @property
    def num_counted(self) -> int:
        """How many tokens are learned."""
        return sum(stop - start for start, stop in self.counted_spans) + len(self.target_ids)

    def for_teacher(self) -> EncodedExample:
        """The same target after what the teacher reads."""
        if self.teacher_source_ids is None:
            return self
        return EncodedExample(
            self.id,
            self.teacher_source_ids,
            self.target_ids,
            own_prompt_ids=self.teacher_own_prompt_ids,
        )

    def with_target(self, target_ids: tuple[int, ...]) -> EncodedExample:
        """The same with another target."""
        return dataclasses.replace(self, target_ids=target_ids)

    def answered(self, target_ids: tuple[int, ...]) -> EncodedExample:
        """The prompt with a target that was written for it."""
        return EncodedExample(
            self.id,
            self.prompt_ids,
            target_ids,
            extras=self.extras,
            source=self.source,
            teacher_source_ids=(
                None if self.teacher_source_ids is None else self.for_teacher().prompt_ids
            ),
        )
