"""Contradictions between the objective and the rest of a recipe.

What goes together inside the objective is `core.terms`' to say; ranges and ownership of parameters
are the schema's.
"""

from __future__ import annotations

from seqdistill.core.errors import RecipeError, did_you_mean
from seqdistill.core.families import OF_ROLLOUTS, REWARDS, ByOrigin
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.core.terms import Term, feature_findings, term_findings
from seqdistill.recipe import objective_schema
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Findings, shown
from seqdistill.recipe.sequences_schema import MeasuredSection


def is_soft(term: objective_schema.Term) -> bool:
    """Whether the term needs the teacher's distribution."""
    return term.built().asks_teacher


def objective_findings(recipe: Recipe) -> Findings:
    """Terms that do not go together, or with the sequences, and a reward with no use or source."""
    objective = recipe.objective
    terms = objective.built_terms()
    for key, sentence in term_findings(terms, objective.reduction, objective.loss_temperature):
        yield f"objective.{key}", sentence
    for key, sentence in feature_findings(objective.built_features()):
        yield f"objective.{key}", sentence
    for position, term in enumerate(terms):
        key = f"objective.terms.{position}"
        yield from _origins(key, term, recipe)
        yield from _columns(term, recipe)
        if term.policy is not None:
            yield from _policy_gradient(key, term, terms, recipe)
        elif any("sampled_log_probs" in w.member.reads for w in term.token_weights):
            yield from _importance(key, term, recipe)
    measured = isinstance(recipe.sequences.mixture.student_fraction, MeasuredSection)
    if measured and not any(term.compares_all for term in terms):
        yield (
            "objective.terms",
            "must have one without token weights that compares with the teacher, by which a "
            "measured sequences.mixture.student_fraction goes, got "
            f"{', '.join(term.name for term in terms)}; add one, such as forward_kl, or give the "
            "fraction as a number",
        )
    yield from _reward(recipe, terms)
    if any(term.rates_rollouts for term in terms):
        yield from _rated_rollouts(recipe)


def _given_origins(term: Term) -> tuple[str, ...] | None:
    """The origins that a token weight of the term names; None where all count."""
    named = [w.parameters for w in term.token_weights if isinstance(w.parameters, ByOrigin)]
    return named[0].origins if named else None


def _counted(term: Term, recipe: Recipe) -> tuple[str, ...]:
    """The origins of the sequences that the term counts."""
    return _given_origins(term) or recipe.sequences.writers


def _origins(key: str, term: Term, recipe: Recipe) -> Findings:
    sequences, possible = recipe.sequences, recipe.sequences.writers
    given, counted = _given_origins(term), _counted(term, recipe)
    for name in (name for name in counted if name not in possible):
        yield (
            f"{key}.token_weights",
            f"must name origins that there are here ({', '.join(possible)}), got {name}; take one "
            "of them, or change sequences.origin",
        )
    if given is not None and not sequences.rolls_out:
        yield (
            f"{key}.token_weights",
            f"must leave origin out where all sequences are of one, {possible[0]}, got "
            f"{shown(given)}; remove it",
        )
    sampled = [name for name in counted if name in STUDENT_ORIGINS]
    is_likelihood_of_targets = term.divergence.member.takes_targets and term.policy is None
    if is_likelihood_of_targets and sampled:
        remedy = (
            "add token_weights: [{kind: origin, origins: "
            f"[{sequences.mixture.others}]}}] to the term"
            if sequences.has_two_origins
            else "take a divergence from the teacher, such as reverse_kl"
        )
        yield (
            f"{key}.divergence",
            f"must be another than {term.divergence.member.name} for the student's own samples, "
            f"which it would only repeat, got {', '.join(sampled)}; {remedy}",
        )


def _columns(term: Term, recipe: Recipe) -> Findings:
    """Columns that token weights read."""
    named = recipe.data.extra_columns
    for weight in term.token_weights:
        for column in weight.member.columns(weight.parameters):
            if column not in named and column != OF_ROLLOUTS:
                yield (
                    "data.extra_columns",
                    f"must name {column}, which the token weight {weight.member.name} reads, got "
                    f"{', '.join(named) or 'none'}; add it",
                )


def _rated_rollouts(recipe: Recipe) -> Findings:
    """Pass rates of own rollouts need several of each prompt, and no other sequences."""
    sequences = recipe.sequences
    if sequences.origin != "student":
        yield (
            "sequences.origin",
            f"must be student with the column {OF_ROLLOUTS}, which is of the update's own "
            f"rollouts, got {sequences.origin}; set sequences.origin=student, or name a column of "
            "the data",
        )
    elif (samples := sequences.rollouts.samples_per_prompt) < 2:
        yield (
            "sequences.rollouts.samples_per_prompt",
            f"must be at least 2 with the column {OF_ROLLOUTS}, the fraction of them that pass, "
            f"got {samples}; set it to 8, or name a column of the data",
        )
    if OF_ROLLOUTS in recipe.data.extra_columns:
        yield (
            "data.extra_columns",
            f"must leave {OF_ROLLOUTS} out, which is made of rollouts; rename the column",
        )


def _importance(key: str, term: Term, recipe: Recipe) -> Findings:
    """Importance weights are of tokens whose chance of being drawn is known."""
    sequences, rollouts = recipe.sequences, recipe.sequences.rollouts
    drawn = [name for name in sequences.writers if name in STUDENT_ORIGINS]
    others = [name for name in _counted(term, recipe) if name not in drawn]
    if others:
        remedy = f"add {{kind: origin, origins: [{drawn[0]}]}}" if drawn else "remove it"
        yield (
            f"{key}.token_weights",
            "must leave importance out for sequences that were not sampled while the student "
            f"trains, got it for those of {', '.join(others)}; {remedy}",
        )
    elif rollouts.mode != "sample" or rollouts.engine != "transformers":
        found = "mode: greedy" if rollouts.mode != "sample" else f"engine: {rollouts.engine}"
        yield (
            f"{key}.token_weights",
            "must leave importance out unless sequences.rollouts tells how likely each token was "
            f"to be drawn, got it with {found}; remove it, or set sequences.rollouts={{mode: "
            "sample, engine: transformers}",
        )


def _policy_gradient(key: str, term: Term, terms: list[Term], recipe: Recipe) -> Findings:
    """What would make the estimator's mean another gradient than the one that the term is.

    It is a mean over whole sequences that the student of this very update drew from its own
    distribution. Only weights that read how likely each token was to be drawn know another sampler,
    MiniLLM's mixture with the teacher, and they are token by token: they cannot stand in for tokens
    that are never drawn.
    """
    sequences, rollouts, name = recipe.sequences, recipe.sequences.rollouts, term.name
    counted = _counted(term, recipe)
    if not {*counted} <= {*sequences.writers}:
        return  # `_origins` says so
    if not any(origin in STUDENT_ORIGINS for origin in counted):
        yield (
            f"{key}.token_weights",
            f"must leave {name} out where no sequence that the term counts is the student's, got "
            f"sequences of {', '.join(counted)}; set sequences.origin=student",
        )
        return
    if sequences.origin in ("replay", "near_policy"):
        yield (
            "sequences.origin",
            f"must be student or mixture with the token weight {name}, whose gradient is that of "
            f"the student that sampled the sequences, got {sequences.origin}; set "
            "sequences.origin=student",
        )
    if rollouts.mode != "sample":
        yield (
            "sequences.rollouts.mode",
            f"must be sample with {name}, which is the mean over samples, got {rollouts.mode}; "
            "remove it",
        )
    for setting in ("sampling_temperature", "top_k", "top_p"):
        if setting in rollouts.changed() and rollouts.mode == "sample":
            yield (
                f"sequences.rollouts.{setting}",
                f"must be left out with {name}, which is the mean over samples of the student's "
                f"whole distribution, got {shown(getattr(rollouts, setting))}; remove it",
            )
    if any("sampled_log_probs" in w.member.reads for w in term.token_weights):
        yield from _teacher_mixed(key, term, terms, recipe)
    elif rollouts.teacher_fraction > 0.0:
        yield (
            "sequences.rollouts.teacher_fraction",
            f"must be 0 with {name}, which has no importance weights for what the teacher had a "
            f"part in, got {rollouts.teacher_fraction:g}; remove it",
        )


def _teacher_mixed(key: str, term: Term, terms: list[Term], recipe: Recipe) -> Findings:
    rollouts, counted = recipe.sequences.rollouts, _counted(term, recipe)
    drawn = [name for name in recipe.sequences.writers if name in STUDENT_ORIGINS]
    if set(counted) - set(drawn):
        yield (
            f"{key}.token_weights",
            f"must name the student's sequences alone with {term.name}, which is the mean over its "
            f"samples, got {', '.join(counted)}; add {{kind: origin, origins: [{drawn[0]}]}}",
        )
    if rollouts.teacher_fraction == 1.0:
        yield (
            "sequences.rollouts.teacher_fraction",
            f"must be below 1 with {term.name}, which is the mean over samples that the student "
            "has a part in, got 1; MiniLLM uses 0.2",
        )
    assert term.policy is not None
    if term.name != "sequence_reverse_kl" or term.policy.parameters.estimator != "paper":
        return
    exact = [other for other in terms if _is_reverse_kl(other)]
    beside = [other for other in exact if set(drawn) & set(counted) <= set(_counted(other, recipe))]
    if not beside:
        yield (
            f"{key}.token_weights",
            "must have the estimator released unless a term reverse_kl counts the same sequences, "
            "since paper is what remains of the gradient beside that term, got paper without it; "
            "add the term {divergence: reverse_kl}",
        )
    elif rollouts.teacher_fraction > 0.0 and not any(map(_is_weighed, beside)):
        yield (
            f"objective.terms.{terms.index(beside[0])}.token_weights",
            "must have importance beside sequence_reverse_kl with the estimator paper and "
            "sequences.rollouts.teacher_fraction, since the samples are not the student's alone, "
            "got none; add importance",
        )


def _is_weighed(term: Term) -> bool:
    return any(weight.member.name == "importance" for weight in term.token_weights)


def _is_reverse_kl(term: Term) -> bool:
    name, parameters = term.divergence.member.name, term.divergence.parameters
    return name == "reverse_kl" or (name == "jensen_shannon" and parameters.beta == 1.0)


def _reward(recipe: Recipe, terms: list[Term]) -> Findings:
    reward = recipe.objective.reward
    name, wanted = reward.function, any(term.reads_reward for term in terms)
    rated = any(term.rates_rollouts for term in terms)
    if wanted and name is None:
        reader = f"column {OF_ROLLOUTS}" if rated else "token weight advantages"
        yield (
            "objective.reward.function",
            f"must be given with the {reader}, got none; name one, such as exact_answer, or your "
            "own",
        )
    if not wanted and name is not None:
        yield (
            "objective.reward.function",
            f"must be left out without the token weight advantages, got {name!r}; add a term "
            "{divergence: negative_log_likelihood, token_weights: advantages}, or remove it",
        )
    if not rated and reward.pass_threshold != 1.0:
        yield (
            "objective.reward.pass_threshold",
            f"must be left out unless a token weight pass_rate reads the column {OF_ROLLOUTS}, got "
            f"{reward.pass_threshold:g}; remove it",
        )
    yield from reward_findings(reward)
    samples = recipe.sequences.rollouts.samples_per_prompt
    if wanted and not rated and reward.baseline == "leave_one_out" and samples < 2:
        yield (
            "sequences.rollouts.samples_per_prompt",
            f"must be at least 2 for the baseline leave_one_out, got {samples}; set it to 4, or "
            "objective.reward.baseline=moving_average",
        )


def reward_findings(reward: objective_schema.RewardSection) -> Findings:
    """A reward that there is not, or with parameters that it does not take."""
    name = reward.function
    if name is not None and ":" not in name:
        if name not in REWARDS:
            yield (
                "objective.reward.function",
                f"must be one of {', '.join(REWARDS)}, or module:function of your own, got "
                f"{name!r}.{did_you_mean(name, REWARDS)}",
            )
        else:
            try:
                REWARDS.choose(name, **reward.parameters)
            except RecipeError as error:
                yield "objective.reward.parameters", f"must be those of {name}, but {error}"
    elif reward.parameters:
        yield (
            "objective.reward.parameters",
            f"must be left out with the reward {name!r}, got {shown(reward.parameters)}; remove it",
        )
    if (name == "entailment") != (reward.classifier is not None):
        yield (
            "objective.reward.classifier",
            "must be given with the reward entailment and with no other, got "
            f"{reward.classifier!r} with {name!r}; add it or remove it",
        )
