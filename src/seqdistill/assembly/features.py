"""From a recipe's features to their losses: which layers of these two models are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import Stack
from seqdistill.core.features import Layer
from seqdistill.core.terms import FeatureTerm, layer_pairs
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.features import layers_of
from seqdistill.models.loading import LoadedModel
from seqdistill.objectives.features import FeatureLoss, joined
from seqdistill.recipe.schema import Recipe


def build_features(
    recipe: Recipe, student: SequenceModel, teacher: LoadedModel | None
) -> list[FeatureLoss]:
    """The losses of the recipe's features, each tried on three tokens.

    Where attention weights are compared, both models compute them by eager attention from now on.
    Raises RecipeError for layers that there are not, and ModelError for architectures that do not
    tell what is compared.
    """
    terms = recipe.objective.built_features()
    if not terms or teacher is None:
        return []
    other = SequenceModel(teacher.model)
    if any("attention" in term.match.member.reads for term in terms):
        for model in (student, other):
            model.module.set_attn_implementation("eager")
    depths = {
        stack: (len(layers_of(student.module, stack)), len(layers_of(other.module, stack)))
        for stack in _stacks(student)
    }
    return [
        _loss(f"objective.features.{number}", term, depths, student, other, seed=recipe.seed)
        for number, term in enumerate(terms)
    ]


def _stacks(model: SequenceModel) -> tuple[Stack, ...]:
    return ("encoder", "decoder") if model.kind == "seq2seq" else ("decoder",)


def _loss(
    key: str,
    term: FeatureTerm,
    depths: Mapping[Stack, tuple[int, int]],
    student: SequenceModel,
    teacher: SequenceModel,
    *,
    seed: int,
) -> FeatureLoss:
    pairs = list(_pairs(key, term, depths))
    reads = frozenset(term.match.member.reads)
    own = student.try_features(joined([{layer: reads} for layer, _ in pairs]))
    others = teacher.try_features(joined([{layer: reads} for _, layer in pairs]))
    found = FeatureLoss(term, pairs, own, others, seed=seed)
    with torch.no_grad():
        found(own, others, torch.ones(1, 3), term.match.arguments())
    return found


def _pairs(
    key: str, term: FeatureTerm, depths: Mapping[Stack, tuple[int, int]]
) -> Iterator[tuple[Layer, Layer]]:
    if term.stack != "all" and term.stack not in depths:
        raise RecipeError(
            f"{key}.stack must be one that the models have ({', '.join(depths)}), got "
            f"{term.stack}; remove it"
        )
    for stack, (size, other) in depths.items():
        if term.stack not in ("all", stack):
            continue
        for pair in layer_pairs(term.layers, size, other):
            for role, number, count in zip(
                ("student", "teacher"), pair, (size, other), strict=True
            ):
                if number > count:
                    raise RecipeError(
                        f"{key}.layers must name layers that there are, got layer {number} of the "
                        f"{role}'s {stack}, which has {count}; name others"
                    )
            yield (stack, pair[0]), (stack, pair[1])
