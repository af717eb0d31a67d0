"""Contradictions in the objective: parameters without their term, terms without what they need.

Called by `checks` alone.
"""

from __future__ import annotations

import math

from seqdistill.core.errors import did_you_mean
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.recipe.contradictions import Findings, changed, number_findings, shown
from seqdistill.recipe.objective_schema import NAMED_REWARDS, Term
from seqdistill.recipe.schema import Recipe

SKEWED = ("skew_forward_kl", "skew_reverse_kl")
POLICY_GRADIENTS = ("sequence_reverse_kl", "reward")
_BELONGS_TO: dict[str, tuple[str, ...]] = {
    "beta": ("jensen_shannon",),
    "scale": ("jensen_shannon",),
    "alpha": SKEWED,
    "head_mass": ("adaptive_kl",),
    "start_fraction": ("interpolated_forward_kl",),
    "importance_weighted": ("reverse_kl",),
    "length_normalized": ("sequence_reverse_kl",),
    "estimator": ("sequence_reverse_kl",),
    "discount": ("sequence_reverse_kl",),
    "clip": ("sequence_reverse_kl",),
}


def is_soft(term: Term) -> bool:
    """Whether the term needs the teacher's distribution."""
    return term.divergence not in ("negative_log_likelihood", "reward")


def objective_findings(recipe: Recipe) -> Findings:
    """Terms that lack a number or a source, or were given one that they do not have."""
    objective = recipe.objective
    for position, term in enumerate(objective.terms):
        key = f"objective.terms.{position}"
        yield from _parameters(key, term)
        yield from _writers(key, term, recipe)
        if term.divergence in POLICY_GRADIENTS:
            yield from _policy_gradient(key, term, recipe)
    if objective.loss_temperature != 1.0 and not any(map(is_soft, objective.terms)):
        yield (
            "objective.loss_temperature",
            "must be 1 when no term compares with the teacher, got "
            f"{objective.loss_temperature:g}; remove it, or add a term such as forward_kl",
        )
    gradients = [t.divergence for t in objective.terms if t.divergence in POLICY_GRADIENTS]
    if gradients and objective.reduction == "token":
        remedy = "sum" if "sequence_reverse_kl" in gradients else "sequence or sum"
        yield (
            "objective.reduction",
            f"must be {remedy} with {gradients[0]}, which is a sum over each whole "
            f"sequence, got token; set objective.reduction={remedy.split()[0]}",
        )
    yield from _reward(recipe)


def _parameters(key: str, term: Term) -> Findings:
    for name, owners in _BELONGS_TO.items():
        value, default = getattr(term, name), Term.model_fields[name].default
        if value != default and term.divergence not in owners:
            hint = " (a term's share is its weight)" if name == "alpha" else ""
            one_of = "one of " if len(owners) > 1 else ""
            yield (
                f"{key}.{name}",
                f"must be left out unless the divergence is {one_of}{', '.join(owners)}, got "
                f"{shown(value)} with {term.divergence}; remove it, or set it to null{hint}",
            )
    if term.divergence == "jensen_shannon" and term.beta is None:
        yield (
            f"{key}.beta",
            "must be given with jensen_shannon, got none; add beta between 0 (forward KL) and "
            "1 (reverse KL), for example 0.5",
        )
    if term.divergence in SKEWED:
        yield from _skew(key, term)
    yield from number_findings(f"{key}.weight", term.weight, least=0.0, most=math.inf)
    if max(term.weight.ends) == 0.0:
        yield (
            f"{key}.weight",
            f"must be greater than 0, got {term.weight}; leave the term out instead",
        )


def _skew(key: str, term: Term) -> Findings:
    if term.alpha is None:
        yield (
            f"{key}.alpha",
            f"must be given with {term.divergence}, got none; add alpha strictly between 0 and 1, "
            "for example 0.1",
        )
    elif not all(0.0 < end < 1.0 for end in term.alpha.ends):
        plain = term.divergence.removeprefix("skew_")
        yield (
            f"{key}.alpha",
            f"must lie strictly between 0 and 1, got {term.alpha}; alpha 0 is {plain}, and at 1 "
            "nothing is left to learn",
        )


def _chosen(term: Term, recipe: Recipe) -> tuple[str, ...]:
    """The writers whose sequences the term counts."""
    return recipe.sequences.writers if term.origin is None else term.origin


def _writers(key: str, term: Term, recipe: Recipe) -> Findings:
    sequences, possible = recipe.sequences, recipe.sequences.writers
    chosen = _chosen(term, recipe)
    for name in (name for name in chosen if name not in possible):
        yield (
            f"{key}.origin",
            f"must be among those who write here ({', '.join(possible)}), got {name}; take one of "
            "them, or change sequences.origin",
        )
    if term.origin is not None and not sequences.rolls_out:
        yield (
            f"{key}.origin",
            f"must be left out where {possible[0]} is the only writer, as sequences are not told "
            f"apart then, got {shown(term.origin)}; remove it",
        )
    rolls_out = [name for name in chosen if name in STUDENT_ORIGINS]
    if term.divergence == "negative_log_likelihood" and rolls_out:
        remedy = (
            f"add origin: [{sequences.mixture.others}] to the term"
            if sequences.has_two_origins
            else "take a divergence from the teacher, such as reverse_kl"
        )
        yield (
            f"{key}.origin",
            "must leave the student out with negative_log_likelihood, which would teach the "
            f"student its own samples, got {', '.join(rolls_out)}; {remedy}",
        )
    if term.importance_weighted and term.divergence == "reverse_kl":
        yield from _importance(key, term, recipe)


def _importance(key: str, term: Term, recipe: Recipe) -> Findings:
    """Importance weights are of tokens whose chance of being drawn is known."""
    sequences, rollouts = recipe.sequences, recipe.sequences.rollouts
    drawn = [name for name in sequences.writers if name in STUDENT_ORIGINS]
    others = [name for name in _chosen(term, recipe) if name not in drawn]
    if others:
        remedy = f"add origin: [{drawn[0]}] to the term" if drawn else "remove it"
        yield (
            f"{key}.importance_weighted",
            "must be false for sequences that were not sampled while the student trains, got true "
            f"for those of {', '.join(others)}; {remedy}",
        )
    elif rollouts.mode != "sample" or rollouts.engine != "transformers":
        found = "mode: greedy" if rollouts.mode != "sample" else f"engine: {rollouts.engine}"
        yield (
            f"{key}.importance_weighted",
            "must be false unless sequences.rollouts tells how likely each token was to be drawn, "
            f"got true with {found}; remove it, or set sequences.rollouts={{mode: sample, engine: "
            "transformers}",
        )


def _policy_gradient(key: str, term: Term, recipe: Recipe) -> Findings:
    """What would make the estimator's mean another gradient than the one that the term is.

    Both are means over whole sequences that the student of this very update drew from its own
    distribution. Only sequence_reverse_kl has weights for another sampler, MiniLLM's mixture with
    the teacher, and they are token by token: they cannot stand in for tokens that are never drawn.
    """
    sequences, rollouts, name = recipe.sequences, recipe.sequences.rollouts, term.divergence
    chosen = _chosen(term, recipe)
    if not any(writer in STUDENT_ORIGINS for writer in chosen):
        yield (
            f"{key}.divergence",
            f"must be another than {name} where the student writes nothing that it counts, got "
            f"sequences of {', '.join(chosen)}; set sequences.origin=student",
        )
        return
    if sequences.origin == "replay":
        yield (
            "sequences.origin",
            f"must be student or mixture with the term {name}, whose gradient is that of the "
            "student who wrote the sequences, got replay; set sequences.origin=student",
        )
    if rollouts.mode != "sample":
        yield (
            "sequences.rollouts.mode",
            f"must be sample with {name}, which is the mean over samples, got {rollouts.mode}; "
            "remove it",
        )
    for setting in ("sampling_temperature", "top_k", "top_p"):
        if setting in changed(rollouts) and rollouts.mode == "sample":
            yield (
                f"sequences.rollouts.{setting}",
                f"must be left out with {name}, which is the mean over samples of the student's "
                f"whole distribution, got {shown(getattr(rollouts, setting))}; remove it",
            )
    if name == "reward" and rollouts.teacher_fraction > 0.0:
        yield (
            "sequences.rollouts.teacher_fraction",
            "must be 0 with the term reward, which has no importance weights for what the teacher "
            f"had a part in, got {rollouts.teacher_fraction:g}; remove it",
        )
    if name == "sequence_reverse_kl":
        yield from _sequence_reverse_kl(key, term, recipe)


def _sequence_reverse_kl(key: str, term: Term, recipe: Recipe) -> Findings:
    objective, rollouts, chosen = recipe.objective, recipe.sequences.rollouts, _chosen(term, recipe)
    drawn = [name for name in recipe.sequences.writers if name in STUDENT_ORIGINS]
    if set(chosen) - set(drawn):
        yield (
            f"{key}.origin",
            "must name the student's sequences alone with sequence_reverse_kl, which is the mean "
            f"over its samples, got {', '.join(chosen)}; set origin: [{drawn[0]}]",
        )
    if rollouts.teacher_fraction == 1.0:
        yield (
            "sequences.rollouts.teacher_fraction",
            "must be below 1 with sequence_reverse_kl, which is the mean over samples that the "
            "student has a part in, got 1; MiniLLM uses 0.2",
        )
    if objective.loss_temperature != 1.0:
        yield (
            "objective.loss_temperature",
            "must be 1 with sequence_reverse_kl, which compares what the models themselves say of "
            f"whole sequences, got {objective.loss_temperature:g}; remove it",
        )
    if objective.reduction == "sequence":
        yield (
            "objective.reduction",
            "must be sum with sequence_reverse_kl, which is a sum over each whole sequence beside "
            "which a mean over tokens would count for less, got sequence; set "
            "objective.reduction=sum",
        )
    if term.estimator != "paper":
        return
    exact = [t for t in objective.terms if _is_reverse_kl(t)]
    beside = [t for t in exact if set(drawn) & set(chosen) <= set(_chosen(t, recipe))]
    if not beside:
        yield (
            f"{key}.estimator",
            "must be released unless a term reverse_kl counts the same sequences, since paper is "
            "what remains of the gradient beside that term, got paper without it; add the term "
            "{divergence: reverse_kl}",
        )
    elif rollouts.teacher_fraction > 0.0 and not any(t.importance_weighted for t in beside):
        yield (
            f"objective.terms.{objective.terms.index(beside[0])}.importance_weighted",
            "must be true beside sequence_reverse_kl with the estimator paper and "
            "sequences.rollouts.teacher_fraction, since the samples are not the student's alone, "
            "got false; set it to true",
        )


def _is_reverse_kl(term: Term) -> bool:
    return term.divergence == "reverse_kl" or (
        term.divergence == "jensen_shannon" and term.beta == 1.0
    )


def _reward(recipe: Recipe) -> Findings:
    reward, terms = recipe.objective.reward, recipe.objective.terms
    wanted = any(term.divergence == "reward" for term in terms)
    if wanted and reward.function is None:
        yield (
            "objective.reward.function",
            "must be given with the term reward, got none; name one, such as exact_answer, or "
            "your own as module:function",
        )
    named = reward.function
    if named is not None and ":" not in named and named not in NAMED_REWARDS:
        yield (
            "objective.reward.function",
            f"must be one of {', '.join(NAMED_REWARDS)}, or module:function of your own, got "
            f"{named!r}.{did_you_mean(named, NAMED_REWARDS)}",
        )
    if not wanted and reward.function is not None:
        yield (
            "objective.reward.function",
            f"must be left out without a term reward, got {reward.function!r}; add the term, or "
            "remove it",
        )
    if (reward.function == "entailment") != (reward.classifier is not None):
        yield (
            "objective.reward.classifier",
            "must be given with the reward entailment and with no other, got "
            f"{reward.classifier!r} with {reward.function!r}; add it or remove it",
        )
    samples = recipe.sequences.rollouts.samples_per_prompt
    if wanted and reward.baseline == "leave_one_out" and samples < 2:
        yield (
            "sequences.rollouts.samples_per_prompt",
            f"must be at least 2 for the baseline leave_one_out, got {samples}; set it to 4, or "
            "objective.reward.baseline=moving_average",
        )
