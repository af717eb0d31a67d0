"""Magnitude pruning: which weights are least, by three ways of sharing the zeros over classes.

A class is one parameter matrix. The three schemes are pure functions from weights to masks;
`prune` applies one to a model. Keeping zeros at zero while the model trains is `pruning_mask`'s.

Source: See, Luong and Manning 2016, whose classes are groups of matrices where ours are single
ones; Kim and Rush 2016, sec. 4.4, who prune distilled students by class-blind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdistill.compression.pruning_mask import PruningMask, prunable_weights
from seqdistill.core.errors import ModelError, did_you_mean

_LOG = logging.getLogger(__name__)

Scheme = Literal["class_blind", "class_uniform", "class_distribution"]
Weights = Mapping[str, Float[Tensor, "*_shape"]]
Kept = dict[str, Bool[Tensor, "*_shape"]]
"""True where a weight is kept, by the name of its class."""


def prune(
    model: nn.Module, *, pruned_share: float, scheme: Scheme, exclude: Sequence[str] = ()
) -> PruningMask:
    """The mask of the weights that were just set to zero in `model`: the least, by `scheme`.

    `pruned_share` is of the prunable weights, in [0, 1): see `prunable_weights` for which they are
    and for `exclude`. What is zero already counts as pruned and stays pruned, so a model may be
    pruned step by step; where more is zero than was asked for, all of it is pruned and a warning
    says so. Equal models give equal masks.

    Raises ModelError for a share outside its range or so high that no weight is left, an unknown
    scheme, weights that are not finite, and what `prunable_weights` raises; the model is then as
    it was.
    """
    if not 0.0 <= pruned_share < 1.0:
        raise ModelError(
            f"pruned_share must be at least 0 and below 1, got {pruned_share}; 0.8 prunes four "
            "weights of five."
        )
    if scheme not in SCHEMES:
        raise ModelError(
            f"The pruning scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}."
            f"{did_you_mean(scheme, SCHEMES)}"
        )
    parameters = prunable_weights(model, exclude=exclude)
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ModelError(
                f"Weights to prune must be finite, but {name!r} holds NaN or infinity; use a model "
                "from before its training failed."
            )
    mask = PruningMask(parameters, SCHEMES[scheme](weights, pruned_share))
    if mask.num_kept == 0:
        raise ModelError(
            f"Pruning must leave some weights, but a share of {pruned_share} of "
            f"{mask.num_weights} leaves none; lower pruning.sparsity."
        )
    mask.zero_weights()
    surplus = mask.num_weights - mask.num_kept - round(pruned_share * mask.num_weights)
    if surplus > len(parameters):  # rounding in each class is less
        _LOG.warning(
            "%d weights more than the share of %g are pruned, because they were zero already",
            surplus,
            pruned_share,
        )
    _LOG.info("%s pruning keeps %d of %d weights", scheme, mask.num_kept, mask.num_weights)
    return mask


def class_blind(weights: Weights, pruned_share: float) -> Kept:
    """Masks by one threshold over the weights of all classes together.

    Exactly round(pruned_share * number of weights) are pruned, or all zeros if those are more. Of
    equal magnitudes, the earlier class and place is pruned first.
    """
    flat = torch.cat([weight.flatten() for weight in weights.values()]).abs()
    kept = ~_least(flat, max(round(pruned_share * flat.numel()), int((flat == 0.0).sum())))
    parts = torch.split(kept, [weight.numel() for weight in weights.values()])
    return {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def class_uniform(weights: Weights, pruned_share: float) -> Kept:
    """Masks that prune the same share of every class, each by its own threshold.

    Exactly round(pruned_share * number of weights) of the class, or all its zeros if those are
    more; ties as in `class_blind`.
    """
    return {
        name: class_blind({name: weight}, pruned_share)[name] for name, weight in weights.items()
    }


def class_distribution(weights: Weights, pruned_share: float) -> Kept:
    """Masks by a threshold of lambda * s for each class, s the standard deviation of its weights.

    |w| < lambda * s is |w| / s < lambda: class-blind pruning of the quotients. So the lambda that
    prunes the share asked for is found without a search, and the count is as exact as in
    `class_blind`. s is of all weights of the class, zeros too, over their number, in fp64. A class
    whose weights are all equal has s = 0, and only its zeros are below any threshold: it is pruned
    last.
    """
    return class_blind({name: _quotients(weight) for name, weight in weights.items()}, pruned_share)


SCHEMES: dict[Scheme, Callable[[Weights, float], Kept]] = {
    "class_blind": class_blind,
    "class_uniform": class_uniform,
    "class_distribution": class_distribution,
}


def _quotients(weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    exact = weight.double()
    return torch.where(exact == 0.0, 0.0, exact / exact.std(correction=0))  # zero before 0 / 0


def _least(magnitudes: Float[Tensor, " weights"], count: int) -> Bool[Tensor, " weights"]:
    """True at the `count` least magnitudes; of equal ones, at the earliest."""
    if count == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    threshold = magnitudes.kthvalue(count).values
    least = magnitudes < threshold
    ties = (magnitudes == threshold).nonzero().flatten()
    least[ties[: count - int(least.sum())]] = True
    return least
