"""Contradictions in the objective: parameters without their term, terms without what they need.

Called by `checks` alone.
"""

from __future__ import annotations

import math

from seqdistill.recipe.findings import Findings, number_findings, shown
from seqdistill.recipe.objective_schema import Term
from seqdistill.recipe.schema import Recipe

SKEWED = ("skew_forward_kl", "skew_reverse_kl")
POLICY_GRADIENTS = ("sequence_reverse_kl", "reward")
_BELONGS_TO: dict[str, tuple[str, ...]] = {
    "beta": ("jensen_shannon",),
    "scale": ("jensen_shannon",),
    "alpha": SKEWED,
    "head_mass": ("adaptive_kl",),
    "start_share": ("interpolated_forward_kl",),
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
    if objective.loss_temperature != 1.0 and not any(map(is_soft, objective.terms)):
        yield (
            "objective.loss_temperature",
            "must be 1 when no term compares with the teacher, got "
            f"{objective.loss_temperature:g}; remove it, or add a term such as forward_kl",
        )
    gradients = [t.divergence for t in objective.terms if t.divergence in POLICY_GRADIENTS]
    if gradients and objective.reduction == "token":
        yield (
            "objective.reduction",
            f"must be sequence or sum with {gradients[0]}, which is a sum over each whole "
            "sequence, got token; set objective.reduction=sequence",
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
                f"{shown(value)} with {term.divergence}; remove it{hint}",
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


def _writers(key: str, term: Term, recipe: Recipe) -> Findings:
    sequences, possible = recipe.sequences, recipe.sequences.writers
    chosen = possible if term.written_by is None else term.written_by
    for name in (name for name in chosen if name not in possible):
        yield (
            f"{key}.written_by",
            f"must be among those who write here ({', '.join(possible)}), got {name}; take one of "
            "them, or change sequences.written_by",
        )
    by_student = [name for name in chosen if name in ("student", "teacher_mixed")]
    if term.divergence == "negative_log_likelihood" and by_student:
        remedy = (
            f"add written_by: [{sequences.mixture.others}] to the term"
            if sequences.mixed
            else "take a divergence from the teacher, such as reverse_kl"
        )
        yield (
            f"{key}.written_by",
            "must leave the student out with negative_log_likelihood, which would teach the "
            f"student its own samples, got {', '.join(by_student)}; {remedy}",
        )
    if term.divergence in POLICY_GRADIENTS and not by_student:
        yield (
            f"{key}.divergence",
            f"must be another than {term.divergence} where the student writes nothing, got "
            f"sequences.written_by {sequences.written_by}; set sequences.written_by=student",
        )
    elif term.divergence in POLICY_GRADIENTS and sequences.rollouts.mode != "sample":
        yield (
            "sequences.rollouts.mode",
            f"must be sample with {term.divergence}, which is the mean over samples, got "
            f"{sequences.rollouts.mode}; remove it",
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
    if wanted and recipe.sequences.written_by == "replay":
        yield (
            "sequences.written_by",
            "must be student or mixture with the term reward, whose gradient is that of the "
            "student who wrote the sequences, got replay; set sequences.written_by=student",
        )
