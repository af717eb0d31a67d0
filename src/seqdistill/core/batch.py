"""A batch of sequences with targets already aligned. Nobody downstream shifts anything.

At each time step t the model has read `decoder_input_ids[:, : t + 1]` (and the source, if there is
one) and `target_ids[:, t]` is what it should say next. Masks are Bool and True means *counts*:
padding is known by mask alone, never by a token id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.core.origins import Origin


@dataclasses.dataclass(frozen=True)
class SequenceBatch:
    """Token ids of several examples, padded to a rectangle.

    `source_ids` and `source_mask` feed an encoder and are None for decoder-only models.
    `decoder_mask` is True on tokens that may be attended to. `target_mask` is True on the
    positions whose target counts: the response with its end-of-sequence token.

    What only some methods ask for: `origin` says who wrote each sequence, `sampled_log_probs`
    the log-probability (nats) of every target under the distribution that it was drawn from, and
    `advantages` each sequence's reward less its baseline. They are None where nobody asks.
    """

    example_ids: tuple[str, ...]
    decoder_input_ids: Int[Tensor, "batch time"]
    decoder_mask: Bool[Tensor, "batch time"]
    target_ids: Int[Tensor, "batch time"]
    target_mask: Bool[Tensor, "batch time"]
    source_ids: Int[Tensor, "batch source"] | None = None
    source_mask: Bool[Tensor, "batch source"] | None = None
    origin: tuple[Origin, ...] | None = None
    sampled_log_probs: Float[Tensor, "batch time"] | None = None
    advantages: Float[Tensor, " batch"] | None = None

    @property
    def num_sequences(self) -> int:
        """How many examples the batch holds."""
        return len(self.example_ids)

    @property
    def num_targets(self) -> int:
        """How many positions count."""
        return int(self.target_mask.sum())

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SequenceBatch:
        """The same batch with its tensors on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SequenceBatch:
        """The same batch in page-locked memory, which a GPU copies from while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> SequenceBatch:
        """The batch with every tensor changed."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {n: change(v) for n, v in values.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **changed)


@dataclasses.dataclass(frozen=True)
class StudentStates:
    """What a model says of a batch: last hidden states and its head. Logits are not built."""

    hidden: Float[Tensor, "batch time dim"]
    head: Head
