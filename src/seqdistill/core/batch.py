"""A batch of sequences with targets already aligned. Nobody downstream shifts anything.

At each time step t the model has read `decoder_input_ids[:, : t + 1]` (and the source, if there is
one) and `target_ids[:, t]` is what it should say next. Masks are Bool and True means *counts*:
padding is known by mask alone, never by a token id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqdistill.core.features import Features
from seqdistill.core.head import Head
from seqdistill.core.origins import Origin
from seqdistill.core.source import SourceInputs
from seqdistill.core.token_sum import TokenSum

Kind = Literal["seq2seq", "causal"]
"""Encoder-decoder, or decoder-only."""


@dataclasses.dataclass(frozen=True)
class SequenceBatch:
    """Token ids of several examples, padded to a rectangle.

    `source` feeds an encoder and is None for decoder-only models. `decoder_mask` is True on tokens
    that may be attended to. `target_mask` is True on the positions whose target counts: the
    response with its end-of-sequence token.

    What only some methods ask for is None where it is unknown: `origins`, where each sequence comes
    from; `sampled_log_probs`, the log-probability (nats) of every target under the distribution
    that it was drawn from; `advantages`, each sequence's reward less its baseline. `extras` are
    the numeric columns of the data that a recipe names. `teacher` has the same targets after
    another prompt, which the teacher alone reads: see `for_teacher`.
    """

    example_ids: tuple[str, ...]
    decoder_input_ids: Int[Tensor, "batch time"]
    decoder_mask: Bool[Tensor, "batch time"]
    target_ids: Int[Tensor, "batch time"]
    target_mask: Bool[Tensor, "batch time"]
    source: SourceInputs | None = None
    origins: tuple[Origin, ...] | None = None
    sampled_log_probs: Float[Tensor, "batch time"] | None = None
    advantages: Float[Tensor, " batch"] | None = None
    extras: Mapping[str, Float[Tensor, " batch"]] = dataclasses.field(default_factory=dict)
    teacher: SequenceBatch | None = None

    @property
    def for_teacher(self) -> SequenceBatch:
        """The batch as the teacher reads it: its k-th target of a row is this one's k-th."""
        return self if self.teacher is None else self.teacher

    def aligned(
        self, hidden: Float[Tensor, "batch teacher_time dim"]
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden states of `for_teacher` at the positions of these targets.

        They are moved only where the teacher reads another prompt; at all positions that do not
        count they are then zero.
        """
        if self.teacher is None:
            return hidden
        moved = hidden.new_zeros(*self.target_mask.shape, hidden.shape[-1])
        moved[self.target_mask] = hidden[self.teacher.target_mask]
        return moved

    @property
    def num_sequences(self) -> int:
        """How many examples the batch holds."""
        return len(self.example_ids)

    @property
    def num_targets(self) -> int:
        """How many positions count."""
        return int(self.target_mask.sum())

    @property
    def padding(self) -> TokenSum:
        """Padded positions of what encoder and decoder read, over all of them."""
        masks = [self.decoder_mask, *([] if self.source is None else [self.source.mask])]
        padded = torch.stack([(~mask).sum() for mask in masks]).sum()
        count = torch.tensor(sum(mask.numel() for mask in masks), dtype=torch.float64)
        return TokenSum(padded.double(), count)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SequenceBatch:
        """The same batch with its tensors on `device`."""
        if self.target_ids.device == device:
            return self
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SequenceBatch:
        """The same batch in page-locked memory, which a GPU copies from while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def rows(self, index: Int[Tensor, " rows"]) -> SequenceBatch:
        """These examples alone, as wide as they were."""
        chosen, where = index.tolist(), index.to(self.target_ids.device)
        alone = dataclasses.replace(self, teacher=None)
        part = alone._with(lambda tensor: tensor[where.to(tensor.device)])
        teacher = None if self.teacher is None else self.teacher.rows(index)
        return dataclasses.replace(
            part,
            example_ids=tuple(self.example_ids[i] for i in chosen),
            origins=None if self.origins is None else tuple(self.origins[i] for i in chosen),
            teacher=teacher,
        )

    def _with(self, change: Callable[[Any], Any]) -> SequenceBatch:
        """The batch with every tensor changed."""
        changed: dict[str, Any] = {"extras": {k: change(v) for k, v in self.extras.items()}}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
        if self.source is not None:
            tensors = {name: change(tensor) for name, tensor in self.source.tensors.items()}
            changed["source"] = SourceInputs(tensors, change(self.source.mask))
        if self.teacher is not None:
            changed["teacher"] = self.teacher._with(change)
        return dataclasses.replace(self, **changed)


@dataclasses.dataclass(frozen=True)
class StudentStates:
    """What a model says of a batch: last hidden states and its head. Logits are not built.

    `features` are of the layers that were asked for, over all their tokens.
    """

    hidden: Float[Tensor, "batch time dim"]
    head: Head
    features: Features = dataclasses.field(default_factory=dict)
