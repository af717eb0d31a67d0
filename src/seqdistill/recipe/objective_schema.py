"""What a recipe may say of the objective: terms, weights, reduction, temperature."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from seqdistill.core.families import DIVERGENCES, FEATURES, TOKEN_WEIGHTS, TokenWeight
from seqdistill.core.registry import Chosen
from seqdistill.core.schedules import Schedule, Scheduled
from seqdistill.core.terms import FeatureTerm, LayerMap, Monitor, Reduction
from seqdistill.core.terms import Term as BuiltTerm
from seqdistill.recipe.sections import OneOf, PositiveFloat, Section, UserPath, as_list


class Weighing(Section):
    """What each token of a term counts: the name of a token weight, and its parameters."""

    kind: str
    """A token weight: uniform, origin, importance, advantages, sequence_reverse_kl, top_tokens,
    pass_rate, or your own."""

    def built(self) -> Chosen[TokenWeight]:
        """The token weight with its parameters."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}
        return TOKEN_WEIGHTS.choose(self.kind, **given)


class Term(Section):
    """One weighted part of the objective: divergence x token weights x weight."""

    divergence: str
    """A divergence of `seqdistill.objectives`, or your own; its parameters stand beside it."""
    weight: Scheduled = Schedule.constant(1.0)
    """Multiplies the term. Kim and Rush's alpha is the weight of the teacher's term."""
    token_weights: Annotated[
        tuple[Annotated[Weighing, OneOf(TOKEN_WEIGHTS, "kind")], ...], BeforeValidator(as_list)
    ] = ()
    """What multiplies each token's value: [importance, {kind: origin, origins: [student]}]. With
    `advantages` or `sequence_reverse_kl` the likelihood becomes a policy gradient."""

    def built(self) -> BuiltTerm:
        """The term as objectives know it."""
        given = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in Term.model_fields
        }
        weights = tuple(weight.built() for weight in self.token_weights)
        return BuiltTerm(DIVERGENCES.choose(self.divergence, **given), self.weight, weights)


AnyTerm = Annotated[Term, OneOf(DIVERGENCES, "divergence")]


def read_term(values: object) -> Term:
    """A term from the keys of a recipe."""
    return TypeAdapter[Term](AnyTerm).validate_python(values)


def _read_layers(given: object) -> object:
    """The layer map as a name or as pairs. Raises one error for all that it is not."""
    if given in ("uniform", "last"):
        return given
    pairs = given if isinstance(given, list | tuple) else ()
    whole = [
        tuple(pair)
        for pair in pairs
        if isinstance(pair, list | tuple) and [type(n) for n in pair] == [int, int]
    ]
    if not pairs or len(whole) < len(pairs) or min(map(min, whole)) < 1:
        raise PydanticCustomError(
            "layer_map",
            "uniform, last, or pairs of layers counted from 1, such as [[1, 2], [2, 4]]",
        )
    return tuple(whole)


_NUMBER = {"type": "integer", "minimum": 1}
_PAIR = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}
_MAPS = {"anyOf": [{"enum": ["uniform", "last"]}, {"type": "array", "items": _PAIR, "minItems": 1}]}


class Feature(Section):
    """Layers of the student that are pulled to layers of the teacher."""

    match: str
    """hidden_mse, hidden_cosine, attention_transfer, attention_relations (MiniLM), or your own; its
    parameters stand beside it."""
    weight: Scheduled = Schedule.constant(1.0)
    """Multiplies the mean over the pairs of layers."""
    stack: Literal["all", "encoder", "decoder"] = "all"
    """Which layers: `all`, those of the decoder and of the encoder where there is one. In a decoder
    the positions that count are those with a loss; in an encoder every real source token, and a
    sequence counts there as much as its targets do."""
    layers: Annotated[LayerMap, BeforeValidator(_read_layers), WithJsonSchema(_MAPS)] = "uniform"
    """`uniform`: the student's layer i of S and the teacher's i T / S of T, rounded (TinyBERT).
    `last`: the last of both. Or [student's, teacher's] pairs, counted from 1: [[1, 2], [2, 4]]."""
    project: bool = False
    """A matrix is trained that maps the student's hidden states to the teacher's, one a pair of
    layers, also where both have the same width; where the widths differ there always is one. It is
    no part of the saved student."""

    def built(self) -> FeatureTerm:
        """The term as objectives know it."""
        own = {
            n: getattr(self, n) for n in type(self).model_fields if n not in Feature.model_fields
        }
        chosen = FEATURES.choose(self.match, **own)
        return FeatureTerm(chosen, self.weight, self.stack, self.layers, self.project)


class RewardSection(Section):
    """What the student's own sequences are worth, for the token weight `advantages`, or which of
    them pass, for `pass_rate` and the command `score`."""

    function: str | None = None
    """exact_answer, rouge_l, rouge_2, bleu, entailment, one of your `plugins`, or a Python function
    of yours as `module:name`: called with lists of prompts, completions and references, it returns
    a number for each. The prompt of a conversation is all of it up to the answer, as the chat
    template renders it."""
    parameters: dict[str, object] = Field(default={})
    """Of a reward that has some, by name."""
    classifier: UserPath | None = None
    """With `entailment`: the folder of a sequence classifier with a label of that name."""
    baseline: Literal["leave_one_out", "moving_average", "none"] = "leave_one_out"
    """Subtracted from the reward, which lessens the noise of the gradient and keeps its mean:
    `leave_one_out`, the mean reward of the prompt's other samples; `moving_average`, that of the
    updates before."""
    pass_threshold: float = 1.0
    """A rollout passes with a reward of at least this: 1 for rewards that are 0 or 1."""


class ObjectiveSection(Section):
    """The loss (objective): how the student is pulled to teacher and targets."""

    terms: Annotated[tuple[AnyTerm, ...], Field(min_length=1)] = (
        read_term({"divergence": "negative_log_likelihood"}),
    )
    """The weighted sum."""
    features: Annotated[
        tuple[Annotated[Feature, OneOf(FEATURES, "match")], ...], BeforeValidator(as_list)
    ] = ()
    """Added to the terms: how far layers of the student are from the teacher's (FitNets, TinyBERT,
    MiniLM). They need `teacher.scores: dense`, a teacher that runs at every update."""
    reduction: Reduction = "token"
    """`token`: sum over tokens / number of tokens. `sequence`: mean over sequences of per-token
    means (GKD). `sum`: sum over tokens / number of sequences (Kim and Rush's code)."""
    loss_temperature: PositiveFloat = 1.0
    """Divides both models' logits in soft terms (never in the likelihood of hard targets). At
    T != 1 soft terms are multiplied by T squared when hard terms are present (Hinton 2015)."""
    reward: RewardSection = RewardSection()
    """What the token weight `advantages` comes from."""
    monitors: tuple[Monitor, ...] = ()
    """Measured whenever metrics are written, and part of no gradient: the entropy of student and
    teacher, KL(student || teacher), all in nats per token, and the probability that each gives to
    the tokens among the 8 likeliest of both. `training.alarms` add those that they watch."""

    def built_terms(self) -> list[BuiltTerm]:
        """The terms as objectives know them."""
        return [term.built() for term in self.terms]

    def built_features(self) -> list[FeatureTerm]:
        """The features as objectives know them."""
        return [feature.built() for feature in self.features]

    @property
    def asks_teacher(self) -> bool:
        """Whether the loss compares with the teacher."""
        return bool(self.features) or any(term.asks_teacher for term in self.built_terms())
