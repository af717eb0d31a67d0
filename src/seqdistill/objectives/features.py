"""How far a student's layers are from a teacher's, and the terms that are made of it.

A member sees one pair of layers, whole batches with their padding, and gives a value for every
token. In a decoder the tokens that count are those with a loss; in an encoder all real ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear, normalize

from seqdistill.core.errors import RecipeError
from seqdistill.core.features import Features, Layer, LayerFeatures, Wanted
from seqdistill.core.generators import derived_seed
from seqdistill.core.terms import FeatureTerm
from seqdistill.objectives.fused import shape_of
from seqdistill.objectives.reduction import source_weights, weighted_total


def hidden_mse(student: LayerFeatures, teacher: LayerFeatures) -> Float[Tensor, "batch time"]:
    """The squared difference of the hidden states, a mean over the teacher's width.

    Source: Romero et al. 2015 (FitNets), eq. 3; Jiao et al. 2020 (TinyBERT), eq. 8.
    """
    return (student.hidden - teacher.hidden).square().mean(dim=-1)


def hidden_cosine(student: LayerFeatures, teacher: LayerFeatures) -> Float[Tensor, "batch time"]:
    """1 - cos of the hidden states, between 0 and 2.

    Source: Sanh et al. 2019 (DistilBERT), sec. 3.
    """
    return 1.0 - cosine_similarity(student.hidden, teacher.hidden, dim=-1)


def attention_transfer(
    student: LayerFeatures, teacher: LayerFeatures
) -> Float[Tensor, "batch time"]:
    """The squared distance of the attention maps, each divided by its norm: from 0 to 2.

    A token's map is what it attends to, a mean over the heads.

    Source: Zagoruyko and Komodakis 2017, eq. 2, whose maps are of whole images.
    """
    maps = [normalize(each.attention.mean(dim=1), dim=-1) for each in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(dim=-1)


def attention_relations(
    student: LayerFeatures, teacher: LayerFeatures, relation_heads: int
) -> Float[Tensor, "batch time"]:
    """KL(teacher || student) in nats of relations: of queries, of keys and of values, added up.

    A token's relation is softmax(x . x' / sqrt(d)) over the tokens x' that it may see, d the width
    of a relation head; KL is a mean over relation heads. Raises RecipeError for widths that are no
    multiples of their number.

    Source: Wang et al. 2021 (MiniLMv2), eq. 5 to 8.
    """
    # Under padding a token sees itself alone, so that nothing is NaN.
    itself = torch.eye(student.mask.shape[1], dtype=torch.bool, device=student.mask.device)
    seen = (student.attended | itself).unsqueeze(1)
    total = torch.zeros(student.mask.shape, device=student.mask.device)
    for name in ("queries", "keys", "values"):
        own, other = (
            _relations(getattr(each, name), seen, relation_heads, name)
            for each in (student, teacher)
        )
        total = total + (other.exp() * (other - own)).sum(dim=-1).mean(dim=1)
    return total


def _relations(vectors: Tensor, seen: Tensor, heads: int, name: str) -> Tensor:
    """Log-probabilities, (batch, heads, time, time)."""
    if vectors.shape[-1] % heads:
        raise RecipeError(
            f"relation_heads of attention_relations must divide the width of queries, keys and "
            f"values of both models, got {heads} and {name} of {vectors.shape[-1]}; lower it"
        )
    split = vectors.reshape(*vectors.shape[:-1], heads, -1).transpose(1, 2)
    alike: Tensor = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    return alike.masked_fill(~seen, torch.finfo(alike.dtype).min).log_softmax(dim=-1)


class FeatureLoss(nn.Module):
    """One term over pairs of layers: the mean of their distances, before the term's factor.

    Its parameters are the matrices that map the student's hidden states to the teacher's width, one
    a pair, trained with the student and not part of it.
    """

    def __init__(
        self,
        term: FeatureTerm,
        pairs: Sequence[tuple[Layer, Layer]],
        student: Features,
        teacher: Features,
        *,
        seed: int,
    ) -> None:
        """`pairs` are of the student's and the teacher's layers; the features, of any batch, say
        how wide they are. Equal seeds give equal matrices."""
        super().__init__()
        self.term, self.pairs = term, tuple(pairs)
        self.projections = nn.ModuleDict()
        if not term.match.member.projects:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, f"projections/{term.name}"))
            for number, (own, other) in enumerate(self.pairs):
                hidden = student[own].hidden
                widths = hidden.shape[-1], teacher[other].hidden.shape[-1]
                if term.project or widths[0] != widths[1]:
                    matrix = nn.Linear(*widths, bias=False, dtype=hidden.dtype)
                    self.projections[str(number)] = matrix

    @property
    def student_layers(self) -> Wanted:
        """What is read of the student."""
        return {own: frozenset(self.term.match.member.reads) for own, _ in self.pairs}

    @property
    def teacher_layers(self) -> Wanted:
        """What is read of the teacher."""
        return {other: frozenset(self.term.match.member.reads) for _, other in self.pairs}

    def forward(
        self,
        student: Features,
        teacher: Features,
        weights: Float[Tensor, "batch time"],
        arguments: Mapping[str, object],
    ) -> Float[Tensor, ""]:
        """The weighted sum over tokens, `weights` being those of the targets.

        In fp32 (fp64 for fp64), whatever autocast says. Raises RecipeError for features that do not
        compare.
        """
        total = weights.new_zeros(())
        with torch.autocast(weights.device.type, enabled=False):
            for number, (own, other) in enumerate(self.pairs):
                if other not in teacher:
                    raise RecipeError(
                        f"{self.term.name} needs what layer {other[1]} of the teacher's {other[0]} "
                        "computes, got scores without; set teacher.cache_hidden_states=none"
                    )
                values = self._values(number, student[own], teacher[other], arguments)
                mask = student[own].mask
                weighs = weights if own[0] == "decoder" else source_weights(mask, weights)
                total = total + weighted_total(values, weighs.to(values.dtype))
        return total / len(self.pairs)

    def _values(
        self,
        number: int,
        student: LayerFeatures,
        teacher: LayerFeatures,
        arguments: Mapping[str, object],
    ) -> Tensor:
        mask, name = student.mask, self.term.name
        if teacher.mask.shape != mask.shape:
            raise RecipeError(
                f"{name} compares token by token, so both models must have as many, got "
                f"{tuple(mask.shape)} of the student and {tuple(teacher.mask.shape)} of the "
                "teacher; take a teacher that reads its sources as the student does"
            )
        student, teacher = _exact(student), _exact(teacher)
        if str(number) in self.projections:
            matrix = self.projections[str(number)].get_parameter("weight")
            projected = linear(student.hidden, matrix.to(student.hidden.dtype))
            tensors = {**student.tensors, "hidden": projected}
            student = dataclasses.replace(student, tensors=tensors)
        member = self.term.match.member
        values: Tensor = member.call("feature match", student, teacher, **arguments)
        if shape_of(values) != tuple(mask.shape):
            raise RecipeError(
                f"the feature match {name} must give a value for every token, (batch, time) = "
                f"{tuple(mask.shape)}, got {shape_of(values) or type(values).__name__}"
            )
        return values


def _exact(features: LayerFeatures) -> LayerFeatures:
    tensors = {
        name: tensor if tensor.dtype == torch.float64 else tensor.float()
        for name, tensor in features.tensors.items()
    }
    return dataclasses.replace(features, tensors=tensors)


def joined(wanted: Sequence[Wanted]) -> Wanted:
    """All that is asked for."""
    found: dict[Layer, frozenset[str]] = {}
    for each in wanted:
        for layer, names in each.items():
            found[layer] = found.get(layer, frozenset()) | names
    return found
