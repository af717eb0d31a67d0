"""Prompts and completions -> padded batches. Targets are shifted here and nowhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.source import Source, SourceInputs, pad_sources, padded_ids
from seqdistill.data.encoding import EncodedExample


class Collator:
    """Makes a SequenceBatch of encoded examples, or of prompts and what was written for them.

    `start_id` is what an encoder-decoder's decoder reads first; None means the last target token
    (mBART's convention). `prefix_ids` is what it reads next: a position each that never counts.
    `pad_id` only fills holes: masks tell what is real. `pad` makes a batch of an encoder's sources.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        pad_id: int,
        start_id: int | None = None,
        prefix_ids: Sequence[int] = (),
        pad: Callable[[Sequence[Source]], SourceInputs] = pad_sources,
    ) -> None:
        self.kind = kind
        self._pad_id = pad_id
        self._start_id = start_id
        self._prefix_ids = tuple(prefix_ids)
        self._pad = pad

    def __call__(self, examples: Sequence[EncodedExample]) -> SequenceBatch:
        """The examples as one batch on the CPU, in the order given.

        Raises DataError for an example without a target, and for one without a source: a
        decoder-only model would have nothing to predict its first target from.
        """
        for example in examples:
            if not example.target_ids or not example.num_source:
                side = "source" if example.target_ids else "target"
                raise DataError(
                    f"Examples in a batch must have tokens on both sides, but the {side} of "
                    f"{example.id!r} has none; take it out of the data."
                )
        return self.joined(examples, Completions.of_rows([e.target_ids for e in examples]))

    def joined(self, prompts: Sequence[EncodedExample], completions: Completions) -> SequenceBatch:
        """The prompts with these completions as targets, on the completions' device.

        Targets that the prompts have are not read. Log-probabilities lie where their targets do
        and are 0 where nothing counts; unknown ones are NaN. The width is that of the longest row,
        which is the one number that a GPU is asked for. Where any prompt has one of the teacher's
        own, the batch also holds the completions after those.
        """
        make = self._seq2seq if self.kind == "seq2seq" else self._causal
        batch, teacher = make(prompts, completions), None
        if any(prompt.teacher_source_ids is not None for prompt in prompts):
            teacher = make([prompt.for_teacher() for prompt in prompts], completions)
        names = prompts[0].extras
        extras = {name: torch.tensor([float(p.extras[name]) for p in prompts]) for name in names}
        device = completions.device
        extras = {name: values.to(device) for name, values in extras.items()}
        return dataclasses.replace(batch, extras=extras, teacher=teacher)

    def _seq2seq(
        self, prompts: Sequence[EncodedExample], completions: Completions
    ) -> SequenceBatch:
        device, lengths = completions.device, completions.lengths
        first = torch.full_like(lengths, len(self._prefix_ids))
        place = torch.arange(len(self._prefix_ids) + int(lengths.max()), device=device)
        mask = place < (first + lengths)[:, None]
        targets = _placed(completions.token_ids, first, len(place))
        targets[:, : len(self._prefix_ids)] = targets.new_tensor(self._prefix_ids)
        if self._start_id is None:
            start = completions.token_ids.gather(1, lengths[:, None] - 1)
        else:
            start = targets.new_full((len(targets), 1), self._start_id)
        inputs = torch.cat([start, targets[:, :-1]], dim=1)
        counted = mask & (place >= len(self._prefix_ids))
        return SequenceBatch(
            tuple(prompt.id for prompt in prompts),
            decoder_input_ids=self._filled(inputs, mask),
            decoder_mask=mask,
            target_ids=self._filled(targets, mask),
            target_mask=counted,
            source=self._pad([p.source_ids if p.source is None else p.source for p in prompts]).to(
                device
            ),
            sampled_log_probs=_aligned(completions, first, counted, counted),
        )

    def _causal(self, prompts: Sequence[EncodedExample], completions: Completions) -> SequenceBatch:
        device = completions.device
        read, _ = padded_ids([prompt.source_ids for prompt in prompts])
        first = torch.tensor([len(prompt.source_ids) for prompt in prompts], device=device)
        total = first + completions.lengths
        place = torch.arange(int(total.max()), device=device)
        ids = _placed(completions.token_ids, first, len(place))
        read = torch.nn.functional.pad(read, (0, len(place) - read.shape[1])).to(device)
        ids = torch.where(place < first[:, None], read, ids)
        # Position t predicts token t + 1, so the first target is predicted at the prompt's end.
        mask = place[1:] < total[:, None]
        written = mask & (place[:-1] >= first[:, None] - 1)
        counted = written.clone()
        for row, prompt in enumerate(prompts):
            for start, stop in prompt.counted_spans:
                counted[row, start - 1 : stop - 1] = True
        return SequenceBatch(
            tuple(prompt.id for prompt in prompts),
            decoder_input_ids=self._filled(ids[:, :-1], mask),
            decoder_mask=mask,
            target_ids=self._filled(ids[:, 1:], mask),
            target_mask=counted,
            sampled_log_probs=_aligned(completions, first - 1, written, counted),
        )

    def _filled(self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Tensor:
        return torch.where(mask, ids, self._pad_id)


def _placed(
    rows: Num[Tensor, "batch time"], first: Int[Tensor, " batch"], width: int
) -> Num[Tensor, "batch width"]:
    """Each row moved to begin at its `first` column; what else there is means nothing."""
    columns = torch.arange(width, device=rows.device) - first[:, None]
    return rows.gather(1, columns.clamp(0, rows.shape[1] - 1))


def _aligned(
    completions: Completions,
    first: Int[Tensor, " batch"],
    written: Bool[Tensor, "batch time"],
    counted: Bool[Tensor, "batch time"],
) -> Tensor | None:
    """Log-probabilities where the targets are: NaN for what counts and was not drawn, 0 beyond."""
    if completions.log_probs is None:
        return None
    moved = _placed(completions.log_probs, first, written.shape[1])
    unknown = torch.full_like(moved, torch.nan).where(counted, 0.0)
    return torch.where(written, moved, unknown)
