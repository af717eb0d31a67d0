"""The student's sequences as a teacher with other tokens reads them, and what corresponds to what.

The text of a sequence is what joins the two: it is encoded again with the teacher's own tokenizer,
after the teacher's own form of the prompt, and both cuts are aligned at bytes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.data.aligning import Chunk, aligned
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.token_bytes import TokenBytes

Encode = Callable[[Sequence[Example]], Sequence[EncodedExample]]
Run = Sequence[int]
"""The ids of one stretch that is learned: an answer with its end, or an earlier turn."""


@dataclasses.dataclass(frozen=True)
class Speaker:
    """How one of the two models writes: its tokens, what ends a sequence, and its kind."""

    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    end_ids: tuple[int, ...]

    @functools.cached_property
    def _bytes(self) -> TokenBytes:
        return TokenBytes(self.tokenizer, self.end_ids)

    def pieces(self, run: Run) -> list[bytes | None]:
        """The bytes of a stretch's tokens; None for marks."""
        # What a decoder-only model writes goes on from its prompt.
        return self._bytes(run, continues=self.kind == "causal")

    def is_finished(self, run: Run) -> bool:
        """Whether it ends with a token that ends sequences."""
        return bool(run) and run[-1] in self.end_ids

    def text(self, run: Run) -> str:
        """What the stretch says; bytes that are no UTF-8 are replaced."""
        return b"".join(piece or b"" for piece in self.pieces(run)).decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class Reread:
    """A batch in the teacher's tokens, and the chunks that both have."""

    batch: SequenceBatch | None
    """None where the teacher can read none of the sequences whole."""
    chunk_of: Int[Tensor, "batch time"]
    """Of each of the student's positions, as `ChunkScores` has it."""
    teacher_chunk_of: Int[Tensor, " teacher_positions"]
    """Of each of the teacher's positions that count, row after row."""


class Rereader:
    """Makes the teacher's batch of a student's.

    `examples` are what the prompts come from and `references` what the student's tokenizer made of
    them: a sequence that is the reference itself is read as the reference's own text, which the
    student's tokenizer may have lost something of. Sequences of more than `max_positions` teacher
    tokens, or without a prompt in them, have no chunks.
    """

    def __init__(
        self,
        student: Speaker,
        teacher: Speaker,
        encode: Encode,
        collator: Collator,
        examples: ExampleTable,
        references: EncodedDataset,
        *,
        max_positions: int | None,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._encode, self._collator = encode, collator
        self._examples, self._references = examples, references
        self._max_positions = max_positions

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self._references.ids)}

    def __call__(self, batch: SequenceBatch) -> Reread:
        """The batch as the teacher reads it, on the CPU."""
        mask, ids = batch.target_mask.cpu(), batch.target_ids.cpu()
        rows = [_runs(*row) for row in zip(ids.tolist(), mask.tolist(), strict=True)]
        read = self._encode(
            [
                self._told(name, runs[-1] if runs else ())
                for name, runs in zip(batch.example_ids, rows, strict=True)
            ]
        )
        kept: list[EncodedExample] = []
        numbers, others, count = list[int](), list[int](), 0
        for runs, encoded in zip(rows, read, strict=True):
            example = self._cut(encoded, runs)
            own = [-1] * sum(map(len, runs))
            if self._fits(example):
                chunks = self.chunks(runs, runs_of(example))
                there = [-1] * example.num_counted
                for chunk in chunks:
                    own[chunk.start : chunk.stop] = [count] * (chunk.stop - chunk.start)
                    size = chunk.other_stop - chunk.other_start
                    there[chunk.other_start : chunk.other_stop] = [count] * size
                    count += 1
                kept.append(example)
                others += there
            numbers += own
        chunk_of = torch.full(mask.shape, -1)
        chunk_of[mask] = torch.tensor(numbers, dtype=torch.long)
        reread = self._collator(kept) if kept else None
        return Reread(reread, chunk_of, torch.tensor(others, dtype=torch.long))

    def chunks(self, runs: Sequence[Run], others: Sequence[Run]) -> list[Chunk]:
        """The chunks of a sequence, counted over all its stretches; the last ones belong together.

        An end of sequence is a chunk with the other's, whatever the two are called.
        """
        found: list[Chunk] = []
        starts, other_starts = _starts(runs), _starts(others)
        shared = min(len(runs), len(others))
        for back in range(shared, 0, -1):
            run, other = runs[-back], others[-back]
            start, other_start = starts[-back], other_starts[-back]
            both_end = self._student.is_finished(run) and self._teacher.is_finished(other)
            found += [
                Chunk(a + start, b + start, c + other_start, d + other_start)
                for a, b, c, d in aligned(self._student.pieces(run), self._teacher.pieces(other))
            ]
            if both_end:
                stop, other_stop = start + len(run), other_start + len(other)
                found.append(Chunk(stop - 1, stop, other_stop - 1, other_stop))
        return found

    def _told(self, name: str, run: Run) -> Example:
        """The example with the answer that the student's tokens say."""
        example = self._examples.named(name).for_teacher()
        place = self._places.get(name)
        if place is not None and self._references[place].target_ids == tuple(run):
            return example
        text = self._student.text(run)
        if example.messages is not None or self._student.kind == "seq2seq":
            text = text.strip()
        return dataclasses.replace(example, target=text, answer_more="")

    def _cut(self, encoded: EncodedExample, runs: Sequence[Run]) -> EncodedExample:
        """Without the end of a sequence that the student has not ended."""
        ends = self._teacher.is_finished(encoded.target_ids)
        if ends and not (runs and self._student.is_finished(runs[-1])):
            return encoded.with_target(encoded.target_ids[:-1])
        return encoded

    def _fits(self, example: EncodedExample) -> bool:
        if not example.target_ids or not example.num_source:
            return False
        sides = (example.num_source, len(example.target_ids))
        length = sum(sides) if self._teacher.kind == "causal" else max(sides)
        return self._max_positions is None or length <= self._max_positions


def runs_of(example: EncodedExample) -> list[Run]:
    """The stretches of an example that are learned, in order."""
    earlier = [example.source_ids[start:stop] for start, stop in example.counted_spans]
    return [*earlier, example.target_ids]


def _runs(ids: Sequence[int], counts: Sequence[bool]) -> Sequence[Run]:
    """The stretches of a row that count."""
    found: list[list[int]] = []
    before = False
    for token_id, counted in zip(ids, counts, strict=True):
        if counted and not before:
            found.append([])
        if counted:
            found[-1].append(token_id)
        before = counted
    return found


def _starts(runs: Sequence[Run]) -> list[int]:
    """Where each begins when all stand one after another."""
    starts = [0]
    for run in runs:
        starts.append(starts[-1] + len(run))
    return starts[:-1]
