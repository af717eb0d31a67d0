"""Completions: what a model has written for a batch of prompts, as tensors on its device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqdistill.core.source import padded_ids


@dataclasses.dataclass(frozen=True, eq=False)
class Completions:
    """Token ids of several sequences: no start token, no prefix, no prompt; zeros where padded."""

    token_ids: Int[Tensor, "sequences time"]
    lengths: Int[Tensor, " sequences"]
    """Tokens of each, its end token included where it has one."""
    finished: Bool[Tensor, " sequences"]
    """False where a length limit cut it off: then there is no end token, and none is made up."""
    log_probs: Float[Tensor, "sequences time"] | None = None
    """Nats of each token under the distribution that it was drawn from, temperature, top_k and
    top_p included; NaN in the rows of sequences whose nats are unknown, None where all are."""

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Sequence[int]],
        *,
        finished: Sequence[bool] | None = None,
        log_probs: Sequence[Sequence[float]] | None = None,
    ) -> Completions:
        """Completions on the CPU from Python numbers; `finished` None says that all are."""
        if not rows:
            return cls.of_rows([()]).select([])
        ids, mask = padded_ids(rows)
        nats = None
        if log_probs is not None:
            nats = torch.zeros(ids.shape)
            nats[mask] = torch.tensor([value for row in log_probs for value in row])
        return cls(
            ids,
            mask.sum(dim=1),
            torch.ones(len(rows), dtype=torch.bool) if finished is None else torch.tensor(finished),
            nats,
        )

    def __len__(self) -> int:
        """How many sequences these are."""
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.token_ids.device

    def cpu(self) -> Completions:
        """The same on the CPU."""
        nats = None if self.log_probs is None else self.log_probs.cpu()
        return Completions(self.token_ids.cpu(), self.lengths.cpu(), self.finished.cpu(), nats)

    def select(self, rows: Sequence[int]) -> Completions:
        """These rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        return Completions(
            self.token_ids[index],
            self.lengths[index],
            self.finished[index],
            None if self.log_probs is None else self.log_probs[index],
        )

    def split(self, counts: Sequence[int]) -> list[Completions]:
        """The first so many, the next so many, and so on, without a copy."""
        sizes, nats = [*counts], self.log_probs
        of_ids, of_lengths, of_ends = (
            torch.split(tensor, sizes) for tensor in (self.token_ids, self.lengths, self.finished)
        )
        of_nats = [None] * len(sizes) if nats is None else torch.split(nats, sizes)
        parts = zip(of_ids, of_lengths, of_ends, of_nats, strict=True)
        return [Completions(*part) for part in parts]

    @classmethod
    def concatenated(cls, parts: Sequence[Completions]) -> Completions:
        """The sequences of all parts, one part after another, on the device of the first."""
        device, width = parts[0].device, max(part.token_ids.shape[1] for part in parts)

        def widened(tensor: Tensor) -> Tensor:
            return torch.nn.functional.pad(tensor.to(device), (0, width - tensor.shape[1]))

        log_probs = None
        if any(part.log_probs is not None for part in parts):
            log_probs = torch.cat([widened(part._log_probs_or_nan()) for part in parts])
        return cls(
            torch.cat([widened(part.token_ids) for part in parts]),
            torch.cat([part.lengths.to(device) for part in parts]),
            torch.cat([part.finished.to(device) for part in parts]),
            log_probs,
        )

    def _log_probs_or_nan(self) -> Tensor:
        if self.log_probs is not None:
            return self.log_probs
        return torch.full(self.token_ids.shape, torch.nan, device=self.device)

    def rows(self) -> list[tuple[int, ...]]:
        """Token ids as Python numbers: one transfer from the device."""
        pairs = zip(self.token_ids.tolist(), self.lengths.tolist(), strict=True)
        return [tuple(ids[:length]) for ids, length in pairs]
