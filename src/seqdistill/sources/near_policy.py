"""Sequences that a process of its own samples ahead of training: near-policy distillation.

    updates       1 ..  K     K+1 .. 2K    2K+1 .. 3K   ...      K = sync_every
    trained on    block 0     block 1      block 2
    written       block 1     block 2      block 3               meanwhile, by another process
    with weights  at 0        at K         at 2K                 copied as the block begins

So a sequence is learned from K to 2K - 1 updates after its weights, those of the first block 0 to
K - 1: a bound, and the same in every run. The prompts of a block are answered together, and its
sequences, whose lengths are known, are grouped by length into as many batches.
"""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.generators import derived_seed, named_generator
from seqdistill.core.origins import Origin
from seqdistill.core.phases import PhaseClock
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.rollout_process import RolloutProcess, Written
from seqdistill.sources.completions import PromptCompletions, SequenceSource, metric_sum
from seqdistill.sources.rollouts import OnCompletions

_STUDENT: Origin = "student"


@dataclasses.dataclass
class _Block:
    """The sequences of `sync_every` updates, in batches, and what there is to say of them."""

    written: PromptCompletions
    batches: list[list[int]]
    """Rows, of the batches not yet handed out."""
    facts: Mapping[str, tuple[float, float]]
    """Totals and counts, told at the block's first update."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "written": self.written.state_dict(),
            "batches": self.batches,
            "facts": {name: [*pair] for name, pair in self.facts.items()},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _Block:
        facts = {name: (total, count) for name, (total, count) in state["facts"].items()}
        written = PromptCompletions.from_state_dict(state["written"])
        return cls(written, [[*rows] for rows in state["batches"]], facts)


@dataclasses.dataclass(eq=False)
class NearPolicyBatches(SequenceSource):
    """A source of sequences that an earlier student wrote, by a process ahead of training.

    `micro_batches` is how many batches an update of this process has. With `keep_quantiles` a block
    loses the sequences whose gap of following difficulties (the student's less the teacher's) lies
    outside these two quantiles of the block's.

    Source: near-policy distillation, arXiv 2605.05940: stale rollouts, synchronised now and then, a
    Delta-IFD filter. That the gap is a difference and is cut at two quantiles, and how often
    weights are copied, no public text says: these are assumptions. In place of packing, sequences
    of like length share a batch: no attention crosses them, and little is padded.
    """

    examples: Sequence[EncodedExample]
    model: PreTrainedModel
    """The student, which training moves."""
    process: RolloutProcess
    collator: Collator
    places: EpochBatches
    """As `RolloutBatches` has them."""
    _: dataclasses.KW_ONLY
    sync_every: int
    micro_batches: int
    samples_per_prompt: int
    keep_quantiles: tuple[float, float] | None
    seed: int
    rank: int = 0
    world_size: int = 1
    on_completions: OnCompletions | None = None
    clock: PhaseClock = dataclasses.field(default_factory=PhaseClock)

    def __post_init__(self) -> None:
        self._update = 0
        self._block: _Block | None = None
        self._next: _Block | None = None
        self._asked: tuple[int, list[EncodedExample]] | None = None
        """The update whose weights write, and the prompts, one for each sequence."""
        self._handed_out: list[PromptCompletions] = []
        self._begun, self._restarts, self._waited, self._synced_at = False, 0, 0.0, 0
        weakref.finalize(self, self.process.close)

    def begin_update(self, update: int, updates: int) -> None:
        """Where a block begins, waits for it and has the one after it written."""
        self._update, self._handed_out, self._begun = update, [], False
        self._waited = 0.0
        if self._block is not None and self._block.batches:
            return
        if self._next is None and self._asked is None:  # the first block of all
            self._ask(update)
        self._block, self._next, self._begun = self._ready(), None, True
        if update + self.sync_every <= updates:
            self._ask(update)
        else:
            self.process.close()

    def _ask(self, update: int) -> None:
        if update != self._synced_at:
            with self.clock.phase("rollout"):
                self.process.sync(self.model)
            self._synced_at = update
        read = [self.places.next() for _ in range(self.sync_every * self.micro_batches)]
        prompts = [
            self.examples[i].answered(())
            for batch in read
            for i in batch
            for _ in range(self.samples_per_prompt)
        ]
        place = self.places.state_dict()
        name = f"near-policy/to-{place['epoch']}-{place['position']}/rank-{self.rank}"
        seed = derived_seed(self.seed, name)
        self.process.ask([prompt.prompt for prompt in prompts], seed=seed)
        self._asked = (update, prompts)

    def _ready(self) -> _Block:
        """The block that was asked for, awaited."""
        if self._next is not None:
            return self._next
        assert self._asked is not None
        (update, prompts), self._asked = self._asked, None
        started = time.perf_counter()
        with self.clock.phase("rollout"):
            found = self.process.answer()
        self._waited += time.perf_counter() - started
        return self._made(found, prompts, update)

    def _made(self, found: Written, prompts: list[EncodedExample], update: int) -> _Block:
        lengths = found.completions.lengths
        if not bool((lengths > 0).all()):
            prompt = prompts[int((lengths == 0).nonzero()[0])]
            raise DataError(
                f"Every prompt must be answered with a token at least, but that of {prompt.id!r} "
                "is not; take it out of the data, or set sequences.rollouts.engine=transformers"
            )
        kept = self._kept(found)
        count = self.sync_every * self.micro_batches
        if len(kept) < count:
            raise RecipeError(
                f"The {count} batches of {self.sync_every} updates must have a sequence each, but "
                f"{len(kept)} of {len(prompts)} are left within "
                "sequences.near_policy.keep_quantiles; widen them, or raise training.batch_tokens"
            )
        written = PromptCompletions(
            tuple(prompts),
            found.completions,
            (_STUDENT,) * len(prompts),
            (update,) * len(prompts),
        ).select(kept)
        num_sequences, num_tokens = len(prompts), int(lengths.sum())
        num_kept = int(written.completions.lengths.sum())
        facts = {
            "generation_tokens_per_second": (num_tokens, found.seconds),
            "filtered_fraction": (num_sequences - len(kept), num_sequences),
            "filtered_tokens": (num_tokens - num_kept, 1),
        }
        return _Block(written, self._grouped(written, update, count), facts)

    def _kept(self, found: Written) -> list[int]:
        """The rows between the quantiles."""
        if found.difficulty_gaps is None or self.keep_quantiles is None:
            return [*range(len(found.completions))]
        gaps = np.array(found.difficulty_gaps)
        least, most = np.quantile(gaps, self.keep_quantiles)
        return [int(row) for row in ((gaps >= least) & (gaps <= most)).nonzero()[0]]

    def _grouped(self, written: PromptCompletions, update: int, count: int) -> list[list[int]]:
        """Rows of like length in `count` batches of about as many tokens, in a seeded order."""
        lengths = written.completions.lengths.numpy()
        sources = np.array([prompt.num_source for prompt in written.prompts])
        widths = (
            lengths + sources if self.collator.kind == "causal" else np.maximum(lengths, sources)
        )
        order = np.lexsort((sources, widths))
        total = widths[order].cumsum()
        cuts = [0]
        for number in range(1, count):
            place = int(np.searchsorted(total, total[-1] * number / count, side="right"))
            cuts.append(min(max(place, cuts[-1] + 1), len(order) - (count - number)))
        cuts.append(len(order))
        groups = [order[cuts[i] : cuts[i + 1]].tolist() for i in range(count)]
        name = f"near-policy/batches-of-{update}/rank-{self.rank}"
        shuffled = torch.randperm(count, generator=named_generator(self.seed, name))
        return [groups[i] for i in shuffled.tolist()]

    def next_batch(self) -> SequenceBatch:
        """The next batch of the block."""
        assert self._block is not None
        found = self._block.written.select(self._block.batches.pop())
        self._handed_out.append(found)
        if self.on_completions is not None:
            self.on_completions(self._update, found)
        return found.collated(self.collator)

    def end_update(self) -> dict[str, TokenSum]:
        """Lengths in tokens, fractions of sequences, `staleness` in updates, `wait_seconds` for the
        process and how often it died. At the first update of a block also how fast it was written,
        and what the filter took."""
        ages = [
            self._update - sampled for one in self._handed_out for sampled in one.sampled_at_update
        ]
        lengths = [int(one.completions.lengths.sum()) for one in self._handed_out]
        finished = sum(int(one.completions.finished.sum()) for one in self._handed_out)
        assert self._block is not None
        restarts, self._restarts = self.process.restarts - self._restarts, self.process.restarts
        return {
            "rollouts": metric_sum(len(ages), 1),
            "completion_length": metric_sum(sum(lengths), len(ages)),
            "eos_rate": metric_sum(finished, len(ages)),
            "cut_fraction": metric_sum(len(ages) - finished, len(ages)),
            "staleness": metric_sum(sum(ages), len(ages)),
            "wait_seconds": metric_sum(self._waited, 1),
            "rollout_restarts": metric_sum(restarts, 1),
            **{
                name: metric_sum(total, count) if self._begun else metric_sum(0.0, 0.0)
                for name, (total, count) in self._block.facts.items()
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and the sequences that are not learned from yet.

        Waits for those that are being written: who resumes has the weights of today.
        """
        if self._asked is not None:
            self._next = self._ready()
        blocks = {"block": self._block, "next": self._next}
        return {
            "batches": self.places.state_dict(),
            "world_size": self.world_size,
            **{name: each and each.state_dict() for name, each in blocks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises RecipeError for another number of processes."""
        if state["world_size"] != self.world_size:
            raise RecipeError(
                "A run with sequences.origin: near_policy must be resumed by as many processes, "
                f"since sequences were written ahead for each, got {self.world_size} and a "
                f"checkpoint of {state['world_size']}; start as many"
            )
        self.places.load_state_dict(state["batches"])
        self._block, self._next = (
            None if state[name] is None else _Block.from_state_dict(state[name])
            for name in ("block", "next")
        )
