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
from seqdistill.core.head import TeacherHead
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
from seqdistill.objectives.across_tokenizers import chunk_nats, chunk_sum
from seqdistill.objectives.chunked import FusedSum, Part
from seqdistill.objectives.features import FeatureLoss, joined
from seqdistill.objectives.fused import fused_sum, target_part, teacher_part
from seqdistill.objectives.observation import Measured, Observation, Weights
from seqdistill.objectives.reduction import reduction_count, reduction_weights
from seqdistill.objectives.sparse import sparse_part

_Weights = tuple[Chosen[TokenWeight], ...]
_Place = tuple[_Weights, bool]
"""Which positions: what selects them, and whether they are those where chunks begin."""


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

        Of a teacher with other tokens terms compare at the beginnings of chunks alone, and every
        other position adds nothing to their total; `aligned_fraction` is how much of all counting
        positions lies in chunks, `tokens_per_chunk` their mean length.

        Raises RecipeError when a term meets scores that it cannot read, or a batch that lacks what
        it reads: origins, advantages.
        """
        seen = Observation(eval_states or states, scores, batch, weights)
        places: dict[_Place, _Positions] = {}
        passes: dict[tuple[int, float, _Place], list[tuple[str, Part]]] = {}
        total: Tensor = torch.zeros((), device=states.hidden.device)
        parts: dict[str, TokenSum] = {}
        by_origin: dict[str, TokenSum] = {}

        def add(name: str, values: Tensor, own: Tensor, positions: _Positions) -> None:
            # No matrix product, which autocast would round.
            parts[name] = TokenSum((values * own).sum(), positions.count)
            if name == self._told_by_origin:
                by_origin.update(_by_origin(values, seen, positions.mask))

        for name, term in self._terms.items():
            seen.asked_by = name
            place = (term.selecting, not term.divergence.member.takes_targets and seen.in_chunks)
            if place not in places:
                places[place] = self._positions(term, seen, in_chunks=place[1])
            positions = places[place]
            if term.divergence.member.of_chunks:
                own = self._weights(term, seen, positions)
                found = self._chunks(name, term, states, seen, positions, own)
                total = total + found.total
                add(name, found.values[0], own, positions)
                continue
            part = self._part(name, term, seen, positions)
            vocab_size = part.vocab_size or states.head.vocab_size
            passes.setdefault((vocab_size, part.temperature, place), []).append((name, part))
        for (vocab_size, _, place), named in passes.items():
            positions = places[place]
            found = fused_sum(
                states.hidden[positions.mask],
                states.head.cut(vocab_size),
                [part for _, part in named],
                weights=positions.weights,
            )
            total = total + found.total
            for (name, part), values in zip(named, found.values, strict=True):
                own = positions.weights if part.weights is None else part.weights
                add(name, values, own, positions)
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

    def _positions(self, term: Term, seen: Observation, *, in_chunks: bool) -> _Positions:
        counted = self._counted(term, seen)
        mask = counted & seen.chunks.starts if in_chunks else counted
        for chosen in term.selecting:
            mask = mask & (seen.weights(chosen) != 0.0)
        weights = reduction_weights(counted, self._reduction)[mask]
        return _Positions(mask, weights, reduction_count(mask, self._reduction))

    def _weights(self, term: Term, seen: Observation, positions: _Positions) -> Tensor:
        """What each position weighs in the term."""
        weights = torch.ones_like(positions.weights) if term.policy else positions.weights
        for chosen in term.token_weights:
            weights = weights * seen.weights(chosen)[positions.mask]
        return weights

    def _arguments(self, name: str, term: Term) -> dict[str, Any]:
        """What the term's function is called with at this update."""
        state = self._states.get(name)
        if state is not None:
            return dict(state.arguments())
        return term.divergence.arguments(self._update, self._updates)

    def _part(self, name: str, term: Term, seen: Observation, positions: _Positions) -> Part:
        factor = term.weight_at(self._update, self._updates)
        mask = positions.mask
        weights = self._weights(term, seen, positions) if term.token_weights else None
        if term.divergence.member.takes_targets:
            vocab_size = seen.teacher.head.vocab_size if term.asks_teacher else None
            targets = seen.target_ids[mask]
            return target_part(targets, factor=factor, vocab_size=vocab_size, weights=weights)
        settings: dict[str, Any] = {
            "factor": factor * (self._soft_factor if term.takes_temperature else 1.0),
            "temperature": self._temperature if term.takes_temperature else 1.0,
            "weights": weights,
            **self._arguments(name, term),
        }
        if isinstance(seen.scores, SparseScores):
            return sparse_part(term.divergence, seen.scores.at(mask), **settings)
        if seen.in_chunks and term.divergence.member.any_vocabulary:
            chunks = seen.chunks
            hidden = chunks.hidden[chunks.teacher_starts][chunks.chunk_of[mask]]
            part = teacher_part(term.divergence, hidden, chunks.head, **settings)
            return dataclasses.replace(part, vocab_size=None)
        hidden, head = seen.teacher.hidden[mask], seen.teacher.head
        return teacher_part(term.divergence, hidden, head, **settings)

    def _chunks(
        self,
        name: str,
        term: Term,
        states: StudentStates,
        seen: Observation,
        positions: _Positions,
        weights: Tensor,
    ) -> FusedSum:
        """A term of chunks: those that begin at its positions."""
        temperature = self._temperature if term.takes_temperature else 1.0
        factor = term.weight_at(self._update, self._updates) * self._soft_factor
        mask, head, num_chunks = positions.mask, states.head, int(positions.mask.sum())
        chunk_of = torch.arange(num_chunks, device=mask.device)
        asked: tuple[Tensor, TeacherHead, Tensor]
        if seen.in_chunks:
            chunks = seen.chunks
            number = chunk_of.new_full((int(chunks.starts.sum()) + 1,), -1)
            number[chunks.chunk_of[mask]] = chunk_of  # of those that are chosen; the last is none's
            every, others = number[chunks.chunk_of], number[chunks.teacher_chunk_of]
            mask, kept = every >= 0, others >= 0
            chunk_of, teacher_of = every[mask], others[kept]
            asked = (chunks.hidden[kept], chunks.head, chunks.target_ids[kept])
        else:
            head, teacher_of = head.cut(seen.teacher.head.vocab_size), chunk_of
            asked = (seen.teacher.hidden[mask], seen.teacher.head, seen.target_ids[mask])
        nats = chunk_nats(*asked, teacher_of, num_chunks, temperature=temperature)
        return chunk_sum(
            term.divergence.member,
            self._arguments(name, term),
            states.hidden[mask],
            head,
            seen.target_ids[mask],
            chunk_of,
            -nats,
            weights=weights,
            factor=factor,
            temperature=temperature,
        )

    def _for_logs(self, seen: Observation) -> dict[str, TokenSum]:
        """What metrics have beside the terms."""
        found: dict[str, TokenSum] = {}
        for name, state in self._states.items():
            number = name.removeprefix(self._terms[name].name)  # "_2" of a second one
            for key, value in state.logged().items():
                total = torch.tensor(value, dtype=torch.float64)
                found[key + number] = TokenSum(total, torch.ones(()))
        if seen.in_chunks:
            chunk_of = seen.chunks.chunk_of[seen.target_mask]
            inside = (chunk_of >= 0).sum().to(torch.float32)
            count = seen.chunks.starts.sum().to(torch.float32)
            of_all = reduction_count(seen.target_mask, "token")
            found["aligned_fraction"] = TokenSum(inside, of_all)
            found["tokens_per_chunk"] = TokenSum(inside, count)
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


def _by_origin(values: Tensor, seen: Observation, mask: Tensor) -> dict[str, TokenSum]:
    """Values at the positions of a mask: of the student's own sequences, and of all others."""
    own = seen.of_origins(STUDENT_ORIGINS).expand_as(mask)[mask]
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
