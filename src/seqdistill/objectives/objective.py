"""What the training step calls: a weighted sum of terms over the positions that count.

It gathers those positions before any head is applied, so logits of padding and of prompts are
never computed. It does not know how the sequences were written, nor what becomes of the totals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.origins import Origin
from seqdistill.core.scores import NoScores, TeacherScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.chunked_loss import Part
from seqdistill.objectives.fused import fused_sum, target_part, teacher_part
from seqdistill.objectives.interpolation import InterpolationShare
from seqdistill.objectives.monitors import Monitor, student_entropy, teacher_reverse_kl
from seqdistill.objectives.observation import Observation, dense
from seqdistill.objectives.policy_gradient import (
    importance_weights,
    reward_weights,
    sequence_reverse_kl_weights,
)
from seqdistill.objectives.reduction import Reduction, reduction_count, reduction_weights
from seqdistill.objectives.term import Term, check_term

__all__ = ["Term", "WeightedObjective"]

_Pass = tuple[int, float, tuple[Origin, ...] | None]
"""Terms share a pass over the head if vocabulary, temperature and sequences are the same."""


class WeightedObjective:
    """sum_i weight_i * D_i, reduced by name, as a total and a count.

    `loss_temperature` T divides both models' logits in soft terms and never in likelihoods of one
    right symbol. When soft terms and likelihoods mix and T is not 1, soft terms are multiplied by
    T squared, which keeps the sizes of their gradients comparable (Hinton et al. 2015, sec. 2);
    without likelihoods there is nothing to balance and they are left alone.

    Policy gradients are of expectations over sequences: every token weighs 1, whatever the
    reduction, and the total is divided by sequences. `monitors` are measured at logged updates.

    Raises RecipeError for no terms, an unknown one, a parameter missing or out of range, and
    policy gradients with what contradicts them: the reduction `token`, or sequence_reverse_kl,
    which is of the models themselves, at another temperature than 1.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        reduction: Reduction,
        loss_temperature: float = 1.0,
        monitors: tuple[Monitor, ...] = (),
    ) -> None:
        if not terms:
            raise RecipeError("objective.terms must name at least one divergence, got none")
        if not loss_temperature > 0.0:
            raise RecipeError(f"loss_temperature must be positive, got {loss_temperature}")
        for term in terms:
            check_term(term)
            _check_policy_gradient(term, reduction, loss_temperature)
        self._terms = dict(zip(_numbered([t.divergence for t in terms]), terms, strict=True))
        self._reduction = reduction
        self._temperature = loss_temperature
        self._monitors = monitors
        mixed = any(t.is_likelihood for t in terms) and any(t.knows_temperature for t in terms)
        self._soft_factor = loss_temperature**2 if mixed else 1.0
        self._shares = {
            name: InterpolationShare(term.start_fraction, term.step, term.momentum)
            for name, term in self._terms.items()
            if term.divergence == "interpolated_forward_kl"
        }
        self._update, self._updates, self._logged = 1, 1, False

    @property
    def needs_teacher(self) -> bool:
        """Whether some term needs the teacher's whole distribution."""
        return any(term.needs_teacher for term in self._terms.values())

    @property
    def needs_eval_states(self) -> bool:
        """Whether this update reads what the student says as it writes, with its dropout off.

        Importance weights and returns compare it with what was drawn from, monitors tell of it.
        """
        weighed = (
            term.importance_weighted or term.divergence == "sequence_reverse_kl"
            for term in self._terms.values()
        )
        return any(weighed) or bool(self._measured_now)

    def begin_update(self, update: int, updates: int, *, logged: bool) -> None:
        """Sets what changes with the update's number, and whether monitors are measured.

        Before the first call schedules have their start.
        """
        self._update, self._updates, self._logged = update, updates, logged

    def end_update(self, parts: Mapping[str, TokenSum]) -> None:
        """Moves the targets of interpolated_forward_kl by their terms' means over the update."""
        for name, share in self._shares.items():
            share.learn(parts[name].mean, self._update, self._updates)

    def state_dict(self) -> dict[str, float]:
        """Where the moving targets are, by term; empty without such terms."""
        return {
            f"{name}.{key}": value
            for name, share in self._shares.items()
            for key, value in share.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""
        for name, share in self._shares.items():
            prefix = f"{name}."
            share.load_state_dict(
                {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
            )

    def __call__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates | None = None,
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        """The weighted total, differentiable, and every term's own total, unweighted, for logs.

        All share the batch's count, but for the logged part of a term with `origin`, which has
        that of its sequences; terms of one name are numbered from the second on. Soft terms compare
        the symbols that the teacher scores: rows that the student's head has beyond them are
        padding. Hard targets and rewards know the student's whole head. Terms of the same logits
        (one vocabulary, one temperature, the same sequences) share one pass over the head. The
        part of a policy gradient is the loss whose gradient it is, no distance. A moving target
        adds its share as `interpolation_share`, monitors add parts of their names.

        `eval_states` are the student's states with its dropout off, None where `states` are those:
        monitors, importance weights and returns are of the student that wrote.

        Raises RecipeError when a term meets scores that are not dense, or a batch that lacks what
        the term reads: who wrote it, its advantages.
        """
        seen = Observation(states, scores, batch, eval_states or states)
        passes: dict[_Pass, list[tuple[str, Part]]] = {}
        for name, term in self._terms.items():
            part = self._part(name, term, seen)
            vocab_size = part.vocab_size or states.head.vocab_size
            key = (vocab_size, part.temperature, term.origin)
            passes.setdefault(key, []).append((name, part))
        total: Tensor = torch.zeros((), device=states.hidden.device)
        parts: dict[str, TokenSum] = {}
        for (vocab_size, temperature, _), named in passes.items():
            mask = seen.counted(self._terms[named[0][0]])
            weights = reduction_weights(mask, self._reduction)[mask]
            found = fused_sum(
                states.hidden[mask],
                states.head.cut(vocab_size),
                [part for _, part in named],
                weights=weights,
                temperature=temperature,
            )
            total = total + found.total
            count = reduction_count(mask, self._reduction)
            for (name, part), values in zip(named, found.values, strict=True):
                own = weights if part.weights is None else part.weights
                parts[name] = TokenSum(values @ own.to(values.dtype), count)
        count = reduction_count(batch.target_mask, self._reduction)
        in_order = {name: parts[name] for name in self._terms}
        return TokenSum(total, count), in_order | self._measured(seen)

    def _part(self, name: str, term: Term, seen: Observation) -> Part:
        factor = term.weight_at(self._update, self._updates)
        mask = seen.counted(term)
        if term.is_hard:
            return target_part(seen.batch.target_ids[mask], factor=factor)
        if term.is_policy_gradient:
            return self._policy_gradient(term, seen, factor)
        teacher = dense(seen.scores, term.divergence)
        weights = None
        if term.importance_weighted:
            importance = importance_weights(
                seen.student_log_probs(term.divergence), seen.batch.sampled_log_probs
            )
            weights = (reduction_weights(mask, self._reduction) * importance)[mask]
        return teacher_part(
            term.resolved,
            teacher.hidden[mask],
            teacher.head,
            factor=factor * (self._soft_factor if term.knows_temperature else 1.0),
            beta=term.beta,
            alpha=term.alpha_at(self._update, self._updates),
            scale=term.scale,
            share=self._shares[name].share if name in self._shares else None,
            head_mass=term.head_mass,
            temperature=self._temperature if term.knows_temperature else 1.0,
            weights=weights,
        )

    def _policy_gradient(self, term: Term, seen: Observation, factor: float) -> Part:
        mask, targets = seen.counted(term), seen.batch.target_ids
        if term.divergence == "reward":
            weights = reward_weights(seen.advantages, mask)
            return target_part(targets[mask], factor=factor, weights=weights[mask])
        student = seen.student_log_probs(term.divergence)
        weights = sequence_reverse_kl_weights(
            student,
            seen.teacher_log_probs(term.divergence),
            mask,
            importance_weights(student, seen.batch.sampled_log_probs),
            estimator=term.estimator,
            discount=term.discount,
            length_normalized=term.length_normalized,
            clip=term.clip,
        )
        vocab_size = dense(seen.scores, term.divergence).head.vocab_size
        return target_part(
            targets[mask], factor=factor, vocab_size=vocab_size, weights=weights[mask]
        )

    def _measured(self, seen: Observation) -> dict[str, TokenSum]:
        """What the log has beside the terms."""
        found: dict[str, TokenSum] = {}
        for name, share in self._shares.items():
            logged_as = name.replace("interpolated_forward_kl", "interpolation_share")
            found[logged_as] = TokenSum(
                torch.tensor(share.share, dtype=torch.float64), torch.ones(())
            )
        own, wanted = seen.students_own, self._measured_now
        if "student_entropy" in wanted:
            found["student_entropy"] = student_entropy(seen.eval_states, own)
        if "teacher_reverse_kl" in wanted and not isinstance(seen.scores, NoScores):
            found["teacher_reverse_kl"] = teacher_reverse_kl(
                seen.eval_states, dense(seen.scores, "teacher_reverse_kl"), own
            )
        return found

    @property
    def _measured_now(self) -> tuple[Monitor, ...]:
        return self._monitors if self._logged else ()


def _check_policy_gradient(term: Term, reduction: Reduction, loss_temperature: float) -> None:
    if term.is_policy_gradient and reduction == "token":
        raise RecipeError(
            f"reduction must be sum or sequence with {term.divergence}, the gradient of an "
            "expectation over whole sequences, got token; choose sum, which weighs the tokens of "
            "all other terms alike, or sequence, which weighs their sequences alike"
        )
    if term.divergence == "sequence_reverse_kl" and loss_temperature != 1.0:
        raise RecipeError(
            "loss_temperature must be 1 with sequence_reverse_kl, which compares what the models "
            f"themselves say of whole sequences, got {loss_temperature}; remove it"
        )


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, those that come again numbered from the second on."""
    return [
        name if (before := list(names[:position]).count(name)) == 0 else f"{name}_{before + 1}"
        for position, name in enumerate(names)
    ]
