"""Speculative decoding: a small model drafts, the teacher reads the draft in one forward pass.

    until every row has ended:
        the draft samples n tokens, one after another           x ~ p
        the teacher reads them in one pass: n + 1 distributions q
        tokens are accepted in order, each with probability     min(1, q(x) / p(x))
        the first that is not is replaced by a sample of        (q - p)+, normalized
        where all are accepted the teacher adds one of its own  ~ q

What is written is distributed exactly as the teacher alone writes it, whatever the draft is: p and
q are the very distributions that tokens are drawn from, each after temperature, top_k and top_p.
Greedy decoding is the case of distributions with all mass on one token.

All rows share the columns of the key-value caches, since most decoders count positions by column.
Rows accept different numbers of tokens: a pass begins where the slowest row stands, and the others'
tokens from there on are read again; a row more than n tokens ahead waits. That costs nothing for
one row, and the more the larger the batch and the lower the acceptance.

Source: Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.batches import padded_batches
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.generators import named_generator
from seqdistill.core.source import Source
from seqdistill.generation.decoding import Hypothesis
from seqdistill.generation.model_facts import check_lengths, pair_facts
from seqdistill.generation.sampling import (
    decoding_probs,
    drawn,
    writing,
)
from seqdistill.generation.scoring import CachedModel
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import Decoding


@dataclasses.dataclass
class DraftCounts:
    """What happened to drafts, and what they took. A drafted token is tested when the teacher has
    accepted all before it: those after a rejected one, an end or the last token are not."""

    tested: int = 0
    accepted: int = 0
    overlap: float = 0.0
    """Sum over the tested of 1 - TVD(p, q) = sum over symbols of min(p, q)."""
    tokens: int = 0
    """Written in all."""
    row_passes: int = 0
    """Forward passes of the teacher, each counted once a row of its batch."""
    draft_steps: int = 0
    draft_seconds: float = 0.0
    teacher_passes: int = 0
    """Those that read drafts: the first of a batch does not."""
    teacher_seconds: float = 0.0

    @property
    def acceptance(self) -> float:
        """The share of the tested tokens that were accepted; 0 where none was tested."""
        return self.accepted / max(1, self.tested)

    @property
    def mean_overlap(self) -> float:
        """The mean 1 - TVD of the tested, which acceptance estimates: 0 where none was tested."""
        return self.overlap / max(1, self.tested)

    @property
    def tokens_per_pass(self) -> float:
        """What a row got from a forward pass of the teacher; 1 without a draft."""
        return self.tokens / max(1, self.row_passes)


@dataclasses.dataclass(eq=False)
class SpeculativeGenerator:
    """A `SequenceGenerator` that writes what the teacher alone does: samples, or greedy outputs.

    Raises ModelError for a draft of another kind, or with other token ids than the teacher's, and
    for models whose caches cannot be rolled back. Which tokens end a sequence is the teacher's
    word alone.
    """

    teacher: LoadedModel
    draft: LoadedModel
    _: dataclasses.KW_ONLY
    draft_tokens: int
    """How many tokens the draft proposes at a time, 1 or more."""
    counts: DraftCounts = dataclasses.field(default_factory=DraftCounts)
    """Of all that was written so far."""

    def __post_init__(self) -> None:
        teacher, draft = self.teacher, self.draft
        if draft.kind != teacher.kind:
            raise ModelError(
                f"The draft must be of the teacher's kind, {teacher.kind}, but {draft.name} is "
                f"{draft.kind}; use a student of {teacher.name}"
            )
        theirs, ours = draft.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
        if theirs != ours:
            differing = (t for t in ours | theirs if ours.get(t) != theirs.get(t))
            token = min(differing, key=(ours | theirs).__getitem__)
            raise ModelError(
                f"The draft must have the teacher's vocabulary, but {token!r} has the id "
                f"{theirs.get(token)} in {draft.name} and {ours.get(token)} in {teacher.name}; "
                "use a student that was made with the teacher's tokenizer"
            )
        self._cached()

    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `SequenceGenerator.generate`; raises UserError for a beam search.

        Samples depend on `seed`, a source's place and `draft_tokens`, not on batches.
        """
        if decoding.mode == "beam" and decoding.beam_size > 1:
            raise UserError(
                "With a draft outputs must be greedy or sampled, got a beam of "
                f"{decoding.beam_size}; use beam size 1, or no draft"
            )
        device, most = self.teacher.model.device, decoding.max_new_tokens
        asked = [source for source in sources for _ in range(decoding.n_best)]
        hypotheses: list[Hypothesis | None] = [None] * len(asked)
        with contextlib.ExitStack() as stack:
            for pair in (self.teacher, self.draft):
                check_lengths(sources, max_new_tokens=most, facts=pair_facts(pair))
                stack.enter_context(evaluation_mode(pair.model))
            stack.enter_context(writing(device, "fp32"))
            uniforms = uniforms_of(len(asked), most, seed).to(device)
            lengths = [len(source) for source in asked]
            for batch in padded_batches(lengths, batch_tokens=decoding.batch_tokens):
                written = _Batch(self, *self._cached(), decoding, uniforms[batch])
                for place, found in zip(batch, written.of([asked[i] for i in batch]), strict=True):
                    hypotheses[place] = found
                if on_progress is not None:
                    on_progress(len(batch) // decoding.n_best)
        rows = [found for found in hypotheses if found is not None]
        per_source = [rows[i : i + decoding.n_best] for i in range(0, len(rows), decoding.n_best)]
        return [sorted(found, key=lambda h: -h.log_prob) for found in per_source]

    def _cached(self) -> tuple[CachedModel, CachedModel]:
        teacher, draft = (
            CachedModel(pair.model, pair_facts(pair), keeps_all=True)
            for pair in (self.teacher, self.draft)
        )
        return teacher, draft


def uniforms_of(num_rows: int, num_tokens: int, seed: int) -> Float[Tensor, "rows tokens 3"]:
    """For each token of each row: what it is drafted by, tested by, and replaced by.

    They belong to the place and not to the round: what is drafted after a rejected token is
    thrown away unseen, and its numbers are as good as new.
    """
    random = named_generator(seed, "speculative")
    return torch.rand(num_rows, num_tokens, 3, dtype=torch.float64, generator=random)


def next_token_probs(
    logits: Float[Tensor, "*rows vocab"], decoding: Decoding
) -> Float[Tensor, "*rows vocab"]:
    """The distribution that tokens are drawn from; greedy decoding draws the likeliest."""
    if decoding.mode == "beam":
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, best, 1.0)
    flat = logits.reshape(-1, logits.shape[-1])
    return decoding_probs(flat, decoding).view_as(logits)


def verified(
    drafted: Int[Tensor, "rows draft"],
    draft_probs: Float[Tensor, "rows draft vocab"],
    teacher_probs: Float[Tensor, "rows draft_and_one vocab"],
    uniforms: Float[Tensor, "rows draft_and_one 2"],
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """How many drafted tokens each row accepts, and the token that follows them.

    The tokens must have been drawn from `draft_probs`. Of the uniforms in [0, 1) the first tests a
    token, the second draws what takes its place, or what follows when all are accepted.
    """
    at = drafted[:, :, None]
    p, q = (probs.gather(2, at)[:, :, 0] for probs in (draft_probs, teacher_probs[:, :-1]))
    num_accepted = (uniforms[:, :-1, 0] * p < q).long().cumprod(dim=1).sum(dim=1)
    every = torch.arange(len(drafted), device=drafted.device)
    # After the last drafted token the draft says nothing: what is left over is all of q.
    said = torch.nn.functional.pad(draft_probs, (0, 0, 0, 1))[every, num_accepted]
    wanted = teacher_probs[every, num_accepted]
    left = (wanted - said).clamp(min=0.0)
    # Nothing is left where p and q differ by rounding alone.
    left = torch.where(left.sum(dim=1, keepdim=True) > 0.0, left, wanted)
    return num_accepted, drawn(left, uniforms[every, num_accepted, 1])


class _Batch:
    """Outputs for a batch of prompts. `lengths` is on the CPU: once a round it is waited for."""

    def __init__(
        self,
        generator: SpeculativeGenerator,
        teacher: CachedModel,
        draft: CachedModel,
        decoding: Decoding,
        uniforms: Float[Tensor, "rows tokens 3"],
    ) -> None:
        self.teacher, self.draft, self.decoding = teacher, draft, decoding
        self.ahead, self.counts = generator.draft_tokens, generator.counts
        self.uniforms, self.device = uniforms, uniforms.device
        ends = pair_facts(generator.teacher).end_ids
        self.ends = torch.tensor(ends, device=self.device)
        num_rows, self.most = len(uniforms), decoding.max_new_tokens
        self.rows = torch.arange(num_rows)
        self.lengths = torch.zeros(num_rows, dtype=torch.long)
        # How many tokens of each row the draft has read: the last of a draft that was accepted
        # whole it has not, unlike the teacher.
        self.draft_read = torch.zeros(num_rows, dtype=torch.long)
        # Drafts may reach beyond the longest output: that is cut off.
        shape = (num_rows, self.most + self.ahead)
        self.written = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.nats = torch.zeros(num_rows, dtype=torch.float64, device=self.device)
        self.done: dict[int, Hypothesis] = {}

    def of(self, prompts: Sequence[Source]) -> list[Hypothesis]:
        """The outputs, in order."""
        logits = self.teacher.begin(prompts)[:, None]
        self.draft.begin(prompts)
        nothing = _Drafted(self.written[:, :0], logits[:, :0])
        self._commit(self.rows, nothing, logits)
        while len(self.rows):
            moving = (self.lengths - self.lengths.min() <= self.ahead).nonzero()[:, 0]
            # No longer than the slowest row can use.
            ahead = min(self.ahead, self.most - int(self.lengths.min()))
            with self._timed() as seconds:
                drafted = self._drafted(moving, ahead, logits.shape[-1])
            ahead = drafted.token_ids.shape[1]
            self.counts.draft_seconds += seconds()
            self.counts.draft_steps += ahead
            with self._timed() as seconds:
                read = self._places(moving, torch.arange(ahead + 1) - 1)
                unchanged = int(read.min())
                logits = self.teacher.after(self.written, moving, read, unchanged=unchanged)
                self._commit(moving, drafted, logits)
            self.counts.teacher_seconds += seconds()
            self.counts.teacher_passes += 1
        return [self.done[place] for place in range(len(prompts))]

    @contextlib.contextmanager
    def _timed(self) -> Iterator[Callable[[], float]]:
        started = time.perf_counter()
        ended = started
        yield lambda: ended - started
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        ended = time.perf_counter()

    def _places(
        self, moving: Int[Tensor, " moving"], after: Int[Tensor, " places"]
    ) -> Int[Tensor, "moving places"]:
        """Places so many after what these rows wrote, none but those that need be read."""
        return (self.lengths[moving][:, None] + after).clamp(max=self.most - 2)

    def _drafted(self, moving: Int[Tensor, " moving"], ahead: int, vocab_size: int) -> _Drafted:
        """At most `ahead` tokens for each of these rows; fewer where all have drafted an end."""
        probs: list[Float[Tensor, "moving vocab"]] = []
        ended = torch.zeros(len(moving), dtype=torch.bool, device=self.device)
        while len(probs) < ahead and not bool(ended.all()):
            step = len(probs)
            read = self._places(moving, torch.tensor([step - 1]))
            unchanged = int(self.draft_read.min())
            logits = self.draft.after(self.written, moving, read, unchanged=unchanged)[:, 0]
            self.draft_read[moving] = read[:, 0] + 1
            # To the teacher's rows: padding that differs is nothing that it writes.
            logits = torch.nn.functional.pad(
                logits, (0, vocab_size - logits.shape[1]), value=-torch.inf
            )
            probs.append(next_token_probs(logits, self.decoding))
            place = self.lengths[moving] + step
            uniforms = self.uniforms[moving, place.clamp(max=self.most - 1), 0]
            self.written[moving, place] = token_ids = drawn(probs[-1], uniforms)
            ended |= torch.isin(token_ids, self.ends)
        columns = self.lengths[moving][:, None] + torch.arange(len(probs))
        return _Drafted(self.written[moving[:, None], columns], torch.stack(probs, dim=1))

    def _commit(
        self,
        moving: Int[Tensor, " moving"],
        drafted: _Drafted,
        logits: Float[Tensor, "moving draft_and_one vocab"],
    ) -> None:
        """Tests what was drafted; what is accepted is written, and finished rows leave."""
        ahead = drafted.token_ids.shape[1]
        columns = self.lengths[moving][:, None] + torch.arange(ahead + 1)
        teacher_probs = next_token_probs(logits, self.decoding)
        uniforms = self.uniforms[moving[:, None], columns.clamp(max=self.most - 1), 1:]
        num_accepted, last = verified(drafted.token_ids, drafted.probs, teacher_probs, uniforms)
        new = torch.nn.functional.pad(drafted.token_ids, (0, 1)).scatter(
            1, num_accepted[:, None], last[:, None]
        )
        is_end = torch.isin(new, self.ends)
        kept = (
            (torch.arange(ahead + 1, device=self.device) <= num_accepted[:, None])
            & (columns < self.most).to(self.device)
            & (is_end.long().cumsum(dim=1) - is_end.long() == 0)
        )
        log_probs = logits.gather(2, new[:, :, None])[:, :, 0] - logits.logsumexp(dim=-1)
        self.nats[moving] += torch.where(kept, log_probs, 0.0).double().sum(dim=1)
        self.written[moving[:, None], columns] = new
        num_kept = kept.sum(dim=1)
        overlap = torch.minimum(drafted.probs, teacher_probs[:, :-1]).sum(dim=-1)
        counts = self.counts
        counts.tested += int(kept[:, :-1].sum())
        counts.accepted += int(torch.minimum(num_kept, num_accepted).sum())
        counts.overlap += float(torch.where(kept[:, :-1], overlap, 0.0).double().sum())
        counts.tokens += int(num_kept.sum())
        counts.row_passes += len(self.rows)
        self.lengths[moving] += num_kept.cpu()
        self.draft_read = torch.minimum(self.draft_read, self.lengths - 1)
        ended = torch.zeros(len(self.rows), dtype=torch.bool)
        ended[moving] = (kept & is_end).any(dim=1).cpu()
        self._leave(ended)

    def _leave(self, ended: Tensor) -> None:
        """Rows that ended, or are as long as they may be, go; the others move up."""
        gone = ended | (self.lengths == self.most)
        for row in gone.nonzero()[:, 0].tolist():
            ids = self.written[row, : self.lengths[row]].tolist()
            self.done[int(self.rows[row])] = Hypothesis(
                tuple(ids), float(self.nats[row]), finished=bool(ended[row])
            )
        left = (~gone).nonzero()[:, 0]
        self.rows, self.lengths = self.rows[left], self.lengths[left]
        self.draft_read = self.draft_read[left]
        if not gone.any() or not len(left):
            return
        on_device = left.to(self.device)
        self.written, self.nats = self.written[on_device], self.nats[on_device]
        self.uniforms = self.uniforms[on_device]
        self.teacher.keep(on_device)
        self.draft.keep(on_device)


class _Drafted(NamedTuple):
    token_ids: Int[Tensor, "rows draft"]
    probs: Float[Tensor, "rows draft vocab"]
    """What each was drawn from."""
