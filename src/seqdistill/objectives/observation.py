"""One micro-batch as token weights look at it, and what both models say of its tokens.

What several of them read is computed once, in chunks of positions. Nothing here has a gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.families import TokenWeight
from seqdistill.core.head import TeacherHead
from seqdistill.core.origins import Origin
from seqdistill.core.registry import Chosen, resolved
from seqdistill.core.scores import ChunkScores, DenseScores, MixedScores, TeacherScores
from seqdistill.objectives.chunked import Part
from seqdistill.objectives.fused import (
    entropy_part,
    nats_of,
    observed_part,
    shape_of,
    target_part,
    teacher_part,
)
from seqdistill.objectives.overlap import shared_top_mass

Weights = Mapping[Chosen[TokenWeight], Float[Tensor, "batch time"]]
_OBSERVED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "teacher_entropy": lambda _student, teacher: torch.special.entr(teacher.exp()).sum(dim=-1),
    "student_topk_overlap": shared_top_mass,
    "teacher_topk_overlap": lambda student, teacher: shared_top_mass(teacher, student),
}
"""What is made of the log-probabilities of student and teacher, and is no divergence."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What weights that depend on the whole update look at, of one micro-batch, in their order."""

    target_mask: Bool[Tensor, "batch time"]
    measures: tuple[Float[Tensor, "_ batch time"], ...]

    def cpu(self) -> Measured:
        """The same for other processes."""
        return Measured(self.target_mask.cpu(), tuple(each.cpu() for each in self.measures))

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum over the positions that count: finite where all of them are."""
        return torch.stack([each[:, self.target_mask].sum() for each in self.measures]).sum()


def weights_of_update(
    chosen: Sequence[Chosen[TokenWeight]], measured: Sequence[Measured]
) -> list[Weights]:
    """The weights of every micro-batch: those that its sequences have in a batch of them all."""
    time = max(each.target_mask.shape[1] for each in measured)
    sizes = [len(each.target_mask) for each in measured]

    def joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
        return torch.cat([pad(each, (0, time - each.shape[-1])) for each in tensors], dim=dim)

    mask = joined([each.target_mask for each in measured], 0)
    found: list[dict[Chosen[TokenWeight], Tensor]] = [{} for _ in measured]
    for number, one in enumerate(chosen):
        measures = joined([each.measures[number] for each in measured], 1)
        weights = one.member.call("token weight", measures, mask, **one.arguments())
        for own, rows, each in zip(found, weights.split(sizes), measured, strict=True):
            own[one] = rows[:, : each.target_mask.shape[1]]
    return list(found)


class Observation:
    """A batch with what the student and the teacher say about it.

    Values at positions that do not count are 0. `asked_by` is the term that looks, for messages.
    """

    def __init__(
        self,
        eval_states: StudentStates | None,
        scores: TeacherScores,
        batch: SequenceBatch,
        weights: Weights | None = None,
    ) -> None:
        """`eval_states` are the student's states with its dropout off, None where nothing reads
        them. `weights` are those that are known: of the whole update, which is this batch without.
        """
        self.scores = scores
        self.batch = batch
        self._eval_states = eval_states
        self.asked_by = "the objective"
        self._weights: dict[Chosen[TokenWeight], Tensor] = dict(weights or {})

    @property
    def eval_states(self) -> StudentStates:
        """The student's states with its dropout off."""
        assert self._eval_states is not None, "what looks at the student says so in `reads`"
        return self._eval_states

    @property
    def target_mask(self) -> Bool[Tensor, "batch time"]:
        """The positions that count."""
        return self.batch.target_mask

    @property
    def target_ids(self) -> Int[Tensor, "batch time"]:
        """The token at each position."""
        return self.batch.target_ids

    def of_origins(self, origins: Collection[Origin]) -> Bool[Tensor, "batch 1"]:
        """The sequences that come from there. Raises RecipeError when the batch does not say."""
        if self.batch.origins is None:
            raise RecipeError(
                f"{self.asked_by} counts only sequences of the origins {', '.join(origins)}, so "
                "the source must give the origin of each, got a batch without; remove the weight, "
                "or choose sequences that are sampled in training"
            )
        rows = [origin in origins for origin in self.batch.origins]
        return torch.tensor(rows, device=self.target_mask.device).unsqueeze(1)

    @property
    def advantages(self) -> Float[Tensor, "batch 1"]:
        """Each sequence's reward less its baseline. Raises RecipeError when the batch has none."""
        if self.batch.advantages is None:
            raise RecipeError(
                f"{self.asked_by} needs the advantage of every sequence, got a batch without "
                "advantages: no reward was computed for it; set objective.reward, or remove the "
                "term"
            )
        return self.batch.advantages.unsqueeze(1)

    @property
    def sampled_log_probs(self) -> Float[Tensor, "batch time"] | None:
        """The log-probability of each token where it was drawn; None where nothing says."""
        return self.batch.sampled_log_probs

    def extra(self, name: str) -> Float[Tensor, "batch 1"]:
        """A numeric column of the data. Raises RecipeError when the batch does not have it."""
        extras = self.batch.extras
        if name not in extras:
            raise RecipeError(
                f"{self.asked_by} needs the numeric column {name!r} of the data, got a batch with "
                f"{', '.join(extras) or 'none'}; name it in data.extra_columns"
            )
        return extras[name].unsqueeze(1)

    @functools.cached_property
    def student_log_probs(self) -> Float[Tensor, "batch time"]:
        """log q of the targets among the symbols that the teacher scores, as the student samples
        (dropout off)."""
        head = self.eval_states.head.cut(self.teacher.head.vocab_size)
        return self._of_targets(self.eval_states.hidden, head)

    @functools.cached_property
    def teacher_log_probs(self) -> Float[Tensor, "batch time"]:
        """log p of the targets."""
        return self._of_targets(self.teacher.hidden, self.teacher.head)

    @functools.cached_property
    def student_entropy(self) -> Float[Tensor, "batch time"]:
        """H(Q) in nats of the student with its dropout off."""
        states = self.eval_states
        return self._measured(states.hidden, states.head, entropy_part())[0]

    def in_one_pass(self, *names: str) -> Float[Tensor, "names batch time"]:
        """`student_entropy`, what else monitors observe and divergences from the teacher, for the
        price of one: of the student with its dropout off, among the symbols that the teacher
        scores."""
        hidden, head = self.teacher.hidden[self.target_mask], self.teacher.head

        def part(name: str) -> Part:
            if name == "student_entropy":
                return entropy_part()
            observed = _OBSERVED.get(name)
            if observed is None:
                return teacher_part(name, hidden, head)
            return observed_part(observed, hidden, head)

        parts = [part(name) for name in names]
        own = self.eval_states.head.cut(head.vocab_size)
        return self._measured(self.eval_states.hidden, own, *parts)

    def measured(self, chosen: Sequence[Chosen[TokenWeight]]) -> Measured:
        """What these weights, which depend on the whole update, look at."""
        found = (
            resolved(one.member.measure)(self, **one.arguments())
            for one in chosen
            if one.member.measure is not None
        )
        return Measured(self.target_mask, tuple(found))

    @property
    def in_chunks(self) -> bool:
        """Whether the teacher has other tokens, and compares in chunks of text alone."""
        return isinstance(self.scores, ChunkScores)

    @property
    def chunks(self) -> ChunkScores:
        """What such a teacher says."""
        assert isinstance(self.scores, ChunkScores), "asked for `in_chunks` first"
        return self.scores

    @property
    def teacher(self) -> DenseScores | MixedScores:
        """The teacher's whole distribution. Raises RecipeError when the scores are less."""
        if isinstance(self.scores, DenseScores | MixedScores):
            return self.scores
        if self.in_chunks:
            raise RecipeError(
                f"{self.asked_by} needs a teacher whose tokens are the student's, got one with "
                "others; use chunk_likelihood, uld or negative_log_likelihood"
            )
        raise RecipeError(
            f"{self.asked_by} needs the teacher's whole distribution at every position, got "
            f"{type(self.scores).__name__}; set teacher.scores to dense, or use "
            "negative_log_likelihood"
        )

    def weights(self, chosen: Chosen[TokenWeight]) -> Float[Tensor, "batch time"]:
        """What a token weight gives each position."""
        if chosen not in self._weights:
            with torch.no_grad():
                if chosen.member.measure is None:
                    found = chosen.member.call("token weight", self, **chosen.arguments())
                else:
                    found = weights_of_update([chosen], [self.measured([chosen])])[0][chosen]
            mask, got = self.target_mask, shape_of(found)
            fits = len(got) == 2 and got[0] in (1, len(mask)) and got[1] in (1, mask.shape[1])
            if not fits:
                raise RecipeError(
                    f"the token weight {chosen.member.name} must give a factor for every position, "
                    f"(batch, time) = {tuple(mask.shape)}, got {got or type(found).__name__}; a "
                    "number a sequence is (batch, 1)"
                )
            self._weights[chosen] = found.expand(mask.shape)
        return self._weights[chosen]

    def _of_targets(self, hidden: Tensor, head: TeacherHead) -> Tensor:
        targets = self.target_ids[self.target_mask]
        if targets.numel() and int(targets.max()) >= head.vocab_size:
            raise RecipeError(
                f"{self.asked_by} needs targets that the teacher scores, ids below "
                f"{head.vocab_size}, got {int(targets.max())}; sample from the teacher's "
                "vocabulary only"
            )
        return -self._measured(hidden, head, target_part(targets))[0]

    def _measured(self, hidden: Tensor, head: TeacherHead, *parts: Part) -> Tensor:
        mask = self.target_mask
        nats = nats_of(parts, hidden[mask], head)
        return nats.new_zeros(len(parts), *mask.shape).masked_scatter(mask, nats)
