"""What the training step calls: a weighted sum of terms, and of features, over what counts.

It gathers those positions before any head is applied, so logits of padding and of prompts are
never computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.families import TokenWeight
from seqdistill.core.features import Wanted
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.core.registry import Chosen
from seqdistill.core.scores import NoScores, SparseScores, TeacherScores
from seqdistill.core.terms import (
    OF_STUDENT_ALONE,
    OTHERS_DIVERGENCE,
    OWN_DIVERGENCE,
    Monitor,
    Reduction,
    Term,
)
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.chunked import Part
from seqdistill.objectives.features import FeatureLoss, joined
from seqdistill.objectives.fused import fused_sum, target_part, teacher_part
from seqdistill.objectives.observation import Measured, Observation, Weights
from seqdistill.objectives.reduction import reduction_count, reduction_weights
from seqdistill.objectives.sparse import sparse_part

_Weights = tuple[Chosen[TokenWeight], ...]


@dataclasses.dataclass(frozen=True)
class _Positions:
    """Where terms are computed, what a position weighs there, and what the mean is over."""

    mask: Tensor
    weights: Tensor
    count: Tensor


class WeightedObjective:
    """sum_i factor_i D_i times its token weights, reduced by name, as a total and a count.

    `loss_temperature` T divides both models' logits in soft terms and never in likelihoods of one
    right symbol. When soft terms and likelihoods mix and T is not 1, soft terms are multiplied by
    T squared, which keeps the sizes of their gradients comparable (Hinton et al. 2015, sec. 2);
    without likelihoods there is nothing to balance and they are left alone.

    Policy gradients are of expectations over sequences: every token weighs 1, whatever the
    reduction, and the total is divided by sequences. `monitors` are measured at logged updates.
    `features`, whose matrices are trained, compare layers at the positions that count and are added
    to the terms.

    Terms must go together, as `core.terms.term_findings` says: recipes are checked for it.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        reduction: Reduction,
        loss_temperature: float = 1.0,
        monitors: tuple[Monitor, ...] = (),
        by_origin: bool = False,
        features: Sequence[FeatureLoss] = (),
    ) -> None:
        """With `by_origin` the first term that compares at every token is also told for own
        sequences and for others."""
        self.features = nn.ModuleList(features)
        names = _numbered([t.name for t in terms] + [each.term.name for each in features])
        self._terms = dict(zip(names, terms, strict=False))
        self._features = dict(zip(names[len(terms) :], features, strict=True))
        self._reduction = reduction
        self._temperature = loss_temperature
        self._monitors = monitors
        mixed = any(t.is_likelihood for t in terms) and any(t.takes_temperature for t in terms)
        self._soft_factor = loss_temperature**2 if mixed else 1.0
        told = (name for name, term in self._terms.items() if term.compares_all)
        self._told_by_origin = next(told, None) if by_origin else None
        self._states = {
            name: state
            for name, term in self._terms.items()
            if (state := term.divergence.member.new_state(term.divergence.parameters)) is not None
        }
        self._update, self._updates, self._logged = 1, 1, False

    @property
    def needs_teacher(self) -> bool:
        """Whether something compares with the teacher."""
        return bool(self._features) or any(term.asks_teacher for term in self._terms.values())

    @property
    def student_layers(self) -> Wanted:
        """The layers of the student that features look at."""
        return joined([feature.student_layers for feature in self._features.values()])

    @property
    def teacher_layers(self) -> Wanted:
        """Those of the teacher."""
        return joined([feature.teacher_layers for feature in self._features.values()])

    @property
    def needs_eval_states(self) -> bool:
        """Whether this update reads the student with its dropout off, as it samples.

        Token weights may compare it with what was drawn from, monitors measure it.
        """
        looking = (w.member for w in self._token_weights if w not in self.over_update)
        return any(member.needs_eval_states for member in looking) or bool(self._measured_now)

    @property
    def over_update(self) -> _Weights:
        """The token weights that depend on the whole update, which is measured for them first."""
        return tuple(w for w in self._token_weights if w.member.measure is not None)

    @property
    def _token_weights(self) -> _Weights:
        """Each once."""
        weights = (weight for term in self._terms.values() for weight in term.token_weights)
        return tuple(dict.fromkeys(weights))

    @property
    def measures_student(self) -> bool:
        """Whether the weights of `over_update` look at the student."""
        return any(weight.member.needs_eval_states for weight in self.over_update)

    def measured(
        self, eval_states: StudentStates | None, scores: TeacherScores, batch: SequenceBatch
    ) -> Measured:
        """What the weights of `over_update` look at; `weights_of_update` goes on from there."""
        seen = Observation(eval_states, scores, batch)
        seen.asked_by = ", ".join(weight.member.name for weight in self.over_update)
        return seen.measured(self.over_update)

    def begin_update(self, update: int, updates: int, *, logged: bool) -> None:
        """Sets what changes with the update's number, and whether monitors are measured.

        Before the first call schedules have their start.
        """
        self._update, self._updates, self._logged = update, updates, logged

    def learns_from(self, parts: Mapping[str, TokenSum]) -> bool:
        """Whether anything had a position with a weight in the whole update."""
        return any(float(parts[name].count) for name in (*self._terms, *self._features))

    def end_update(self, parts: Mapping[str, TokenSum]) -> None:
        """Tells the terms that learn their means over the update."""
        for name, state in self._states.items():
            state.learn(parts[name].mean, self._update, self._updates)

    def state_dict(self) -> dict[str, float]:
        """What terms have learned, by term; empty where none learns."""
        return {
            f"{name}.{key}": value
            for name, state in self._states.items()
            for key, value in state.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""
        for name, own in self._states.items():
            prefix = f"{name}."
            own.load_state_dict(
                {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
            )

    def __call__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates | None = None,
        weights: Weights | None = None,
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        """The weighted total, differentiable, and every term's own total, unweighted, for logs.

        All share the batch's count, but for the logged part of a term whose weights select, which
        has that of what they select; terms of one name are numbered from the second on. Soft terms
        compare the symbols that the teacher scores: rows that the student's head has beyond them
        are padding. Hard targets and advantages have the student's whole head. Terms of the same
        logits (one vocabulary, one temperature, the same positions) share one pass over the head.
        The part of a policy gradient is the loss whose gradient it is, no distance. Terms that
        learn add what they log, monitors add parts of their names; where weights leave the count,
        `selected_fraction` is how much of all counting positions is left. Features have the
        positions that the objective is divided by, whatever single terms select.

        `eval_states` are the student's states with its dropout off, None where `states` are those.
        `weights` are those of `over_update`; without them the batch is a whole update.

        Raises RecipeError when a term meets scores that it cannot read, or a batch that lacks what
        it reads: origins, advantages.
        """
        seen = Observation(eval_states or states, scores, batch, weights)
        places: dict[_Weights, _Positions] = {}
        passes: dict[tuple[int, float, _Weights], list[tuple[str, Part]]] = {}
        for name, term in self._terms.items():
            seen.asked_by = name
            if term.selecting not in places:
                places[term.selecting] = self._positions(term, seen)
            positions = places[term.selecting]
            part = self._part(name, term, seen, positions)
            vocab_size = part.vocab_size or states.head.vocab_size
            key = (vocab_size, part.temperature, term.selecting)
            passes.setdefault(key, []).append((name, part))
        total: Tensor = torch.zeros((), device=states.hidden.device)
        parts: dict[str, TokenSum] = {}
        by_origin: dict[str, TokenSum] = {}
        for (vocab_size, _, selecting), named in passes.items():
            positions = places[selecting]
            found = fused_sum(
                states.hidden[positions.mask],
                states.head.cut(vocab_size),
                [part for _, part in named],
                weights=positions.weights,
            )
            total = total + found.total
            for (name, part), values in zip(named, found.values, strict=True):
                own = positions.weights if part.weights is None else part.weights
                # No matrix product, which autocast would round.
                parts[name] = TokenSum((values * own).sum(), positions.count)
                if name == self._told_by_origin:
                    by_origin = _by_origin(values, seen)
        first = next(iter(self._terms.values()))
        counted = self._counted(first, seen)
        count = reduction_count(counted, self._reduction)
        in_order = {name: parts[name] for name in self._terms}
        exact = torch.promote_types(states.hidden.dtype, torch.float32)
        each_token = reduction_weights(counted, self._reduction, exact)
        for name, feature in self._features.items():
            seen.asked_by = name
            arguments = feature.term.match.arguments(self._update, self._updates)
            value = feature(states.features, seen.teacher.features, each_token, arguments)
            total = total + feature.term.weight_at(self._update, self._updates) * value
            in_order[name] = TokenSum(value.detach(), count)
        if first.counting:
            of_all = reduction_count(seen.target_mask, "token")
            in_order["selected_fraction"] = TokenSum(reduction_count(counted, "token"), of_all)
        return TokenSum(total, count), in_order | by_origin | self._for_logs(seen)

    def _counted(self, term: Term, seen: Observation) -> Tensor:
        """The positions that the objective is divided by."""
        mask = seen.target_mask
        for chosen in term.counting:
            mask = mask & (seen.weights(chosen) != 0.0)
        return mask

    def _positions(self, term: Term, seen: Observation) -> _Positions:
        counted = self._counted(term, seen)
        mask = counted
        for chosen in term.selecting:
            mask = mask & (seen.weights(chosen) != 0.0)
        weights = reduction_weights(counted, self._reduction)[mask]
        return _Positions(mask, weights, reduction_count(mask, self._reduction))

    def _part(self, name: str, term: Term, seen: Observation, positions: _Positions) -> Part:
        factor = term.weight_at(self._update, self._updates)
        mask, weights = positions.mask, None
        if term.token_weights:
            weights = torch.ones_like(positions.weights) if term.policy else positions.weights
            for chosen in term.token_weights:
                weights = weights * seen.weights(chosen)[mask]
        if term.divergence.member.takes_targets:
            vocab_size = seen.teacher.head.vocab_size if term.asks_teacher else None
            targets = seen.target_ids[mask]
            return target_part(targets, factor=factor, vocab_size=vocab_size, weights=weights)
        state = self._states.get(name)
        arguments = term.divergence.arguments(self._update, self._updates)
        settings: dict[str, Any] = {
            "factor": factor * (self._soft_factor if term.takes_temperature else 1.0),
            "temperature": self._temperature if term.takes_temperature else 1.0,
            "weights": weights,
            **(arguments if state is None else state.arguments()),
        }
        if isinstance(seen.scores, SparseScores):
            return sparse_part(term.divergence, seen.scores.at(mask), **settings)
        hidden, head = seen.teacher.hidden[mask], seen.teacher.head
        return teacher_part(term.divergence, hidden, head, **settings)

    def _for_logs(self, seen: Observation) -> dict[str, TokenSum]:
        """What metrics have beside the terms."""
        found: dict[str, TokenSum] = {}
        for name, state in self._states.items():
            number = name.removeprefix(self._terms[name].name)  # "_2" of a second one
            for key, value in state.logged().items():
                total = torch.tensor(value, dtype=torch.float64)
                found[key + number] = TokenSum(total, torch.ones(()))
        return found | self._monitored(seen)

    def _monitored(self, seen: Observation) -> dict[str, TokenSum]:
        """Each monitor over the student's own sequences, and their number of positions.

        `student_entropy` H(Q) and `teacher_entropy` H(P), in nats, say how sure both are of the
        next token; the student's falls toward 0 where it loses its diversity.
        `teacher_reverse_kl` KL(Q || P) estimates how far it is from its teacher, per token,
        whatever it is trained with. The overlaps are each model's `shared_top_mass`. What compares
        with the teacher is left out where none was asked. Own are the sequences that the student
        sampled, those of a mixture with the teacher too; all where the batch does not say.
        """
        if not self._measured_now:
            return {}
        mask = seen.target_mask
        if seen.batch.origins is not None:
            mask = mask & seen.of_origins(STUDENT_ORIGINS)
        asked = not isinstance(seen.scores, NoScores)
        names = [n for n in self._measured_now if asked or n == OF_STUDENT_ALONE]
        beside = [name for name in names if name != OF_STUDENT_ALONE]
        values: dict[str, Tensor] = {}
        if len(beside) < len(names):
            values[OF_STUDENT_ALONE] = seen.student_entropy
        if beside:
            seen.asked_by = beside[0]
            observed = [name.replace("teacher_reverse_kl", "reverse_kl") for name in beside]
            values |= zip(beside, seen.in_one_pass(*observed), strict=True)
        count = reduction_count(mask, "token")
        return {name: TokenSum(values[name][mask].sum(), count) for name in names}

    @property
    def _measured_now(self) -> tuple[Monitor, ...]:
        return self._monitors if self._logged else ()


def _by_origin(values: Tensor, seen: Observation) -> dict[str, TokenSum]:
    """Values at all positions that count: of the student's own sequences, and of all others."""
    own = seen.of_origins(STUDENT_ORIGINS).expand_as(seen.target_mask)[seen.target_mask]
    return {
        name: TokenSum(values[of].sum(), of.sum().to(torch.float32))
        for name, of in ((OWN_DIVERGENCE, own), (OTHERS_DIVERGENCE, ~own))
    }


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, those that come again numbered from the second on."""
    return [
        name if (before := list(names[:position]).count(name)) == 0 else f"{name}_{before + 1}"
        for position, name in enumerate(names)
    ]
