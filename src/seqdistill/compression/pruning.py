"""Magnitude pruning: which weights of a model are least, and how they stay at exactly zero.

A class is one parameter matrix; three schemes share the zeros over classes. A mask works on the
live parameters in place, so tied weights stay tied, parameters keep their names, and a pruned model
is an ordinary one: `torch.nn.utils.prune` replaces each parameter by a product of two tensors.

Source: See, Luong and Manning 2016, whose classes are groups of matrices where ours are single
ones; Kim and Rush 2016, sec. 4.4, who prune distilled students by class-blind.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from seqdistill.core.errors import ModelError, did_you_mean

_LOG = logging.getLogger(__name__)
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

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

    Raises ModelError for a share so high that no weight is left, weights that are not finite, and
    what `prunable_weights` raises; the model is then as it was.
    """
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
    """Masks that prune the same share of every class, each as `class_blind` prunes all together."""
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


def bit_patterns(tensor: Shaped[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The tensor's own memory, read as signed integers of the same width: writes go to the tensor.

    Only +0.0 has the pattern 0. The pattern of -0.0 is another, and NaN is equal to itself.
    """
    return tensor.detach().view(_SIGNED[tensor.element_size()])


def prunable_weights(model: nn.Module, *, exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The trained matrices of the model by name: each is one class of weights.

    Embeddings are matrices like any other, and so is T5's table of position biases; biases and
    norms have one dimension and are left out. So are parameters that are not trained, such as
    Marian's table of sinusoids. A tied weight comes once, under its first name. `exclude` holds
    patterns with * and ?, compared with every name that a weight has: "lm_head.*" also excludes
    the embedding that is tied to the output layer.

    Raises ModelError for a pattern that no matrix matches, and when nothing is left to prune.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.ndim >= 2 and parameter.requires_grad:
            names.setdefault(parameter, []).append(name)
    every_name = [name for aliases in names.values() for name in aliases]
    for pattern in exclude:
        if not fnmatch.filter(every_name, pattern):
            raise ModelError(
                "A pattern of weights to leave unpruned must match the name of a matrix, but "
                f"{pattern!r} matches none; change pruning.exclude."
                f"{did_you_mean(pattern, every_name)}"
            )
    kept = {
        aliases[0]: parameter
        for parameter, aliases in names.items()
        if not any(fnmatch.fnmatchcase(name, p) for name in aliases for p in exclude)
    }
    if not kept:
        found = "every one is excluded; exclude fewer" if names else "it has none; unfreeze them"
        raise ModelError(f"A model to prune must have matrices that train, but {found}.")
    return kept


def nonzero_count(model: nn.Module) -> int:
    """How many of the model's parameters are not zero, biases and norms included, shared once."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


@final
class PruningMask:
    """Which weights of one model are pruned. `enforce` after each update keeps them at zero.

    It survives a checkpoint by `state_dict`, one bit a weight. The zeros of the weights would not
    tell: an update may take a weight that is not pruned to exactly zero, and a resumed run would
    then freeze it where an uninterrupted one does not.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], kept: Mapping[str, Bool[Tensor, "*_shape"]]
    ) -> None:
        self._weights = dict(weights)
        self._bits = {
            name: _as_bits(kept[name].to(parameter.device), parameter)
            for name, parameter in weights.items()
        }

    @classmethod
    def of_nothing(cls) -> PruningMask:
        """The mask of a model that is not pruned."""
        return cls({}, {})

    @property
    def num_weights(self) -> int:
        """How many weights the mask speaks of, pruned or not."""
        return sum(weight.numel() for weight in self._weights.values())

    @property
    def num_kept(self) -> int:
        """How many of them are not pruned."""
        return sum(int(bits.count_nonzero()) for bits in self._bits.values())

    @property
    def density(self) -> float:
        """The share of weights that are kept, in [0, 1]; 1 when it speaks of none."""
        return self.num_kept / self.num_weights if self.num_weights else 1.0

    def densities(self) -> dict[str, float]:
        """The share that is kept in each class, by the name of its parameter."""
        return {name: int(b.count_nonzero()) / b.numel() for name, b in self._bits.items()}

    def kept(self) -> dict[str, Bool[Tensor, "*_shape"]]:
        """True where a weight is kept, by the name of its parameter: copies."""
        return {name: bits != 0 for name, bits in self._bits.items()}

    def zero_weights(self) -> None:
        """Sets the pruned weights to exactly +0.0, in place, whatever they are."""
        for name, weight in self._weights.items():
            self._zero(name, weight)

    def zero_gradients(self) -> None:
        """Sets the gradients of pruned weights to zero, in place.

        To be called before the norm of the gradient is taken: clipping should see only what trains.
        """
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self._zero(name, weight.grad)

    def enforce(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets pruned weights and all that the optimizer remembers of them to zero, in place.

        To be called after each update, and once after pruning a model whose optimizer has memory.
        What it remembers is any state of the weight's own shape: AdamW's two moments, SGD's
        momentum. With only the gradients masked, momentum from before the pruning would move
        pruned weights.
        """
        self.zero_weights()
        for name, weight in self._weights.items():
            for slot in optimizer.state.get(weight, {}).values():
                if isinstance(slot, Tensor) and slot.shape == weight.shape:
                    self._zero(name, slot)

    def state_dict(self) -> dict[str, UInt8[Tensor, " bytes"]]:
        """One bit a weight in row-major order, set where it is kept, by the parameter's name."""
        return {
            name: torch.from_numpy(np.packbits(kept.cpu().numpy()))
            for name, kept in self.kept().items()
        }

    def load_state_dict(self, state: Mapping[str, UInt8[Tensor, " bytes"]]) -> None:
        """Takes over a stored mask; weights change at the next `enforce`.

        Raises ModelError when it is a mask of other parameters.
        """
        differing = sorted(state.keys() ^ self._bits.keys()) or [
            name for name, bits in self._bits.items() if len(state[name]) != -(-bits.numel() // 8)
        ]
        if differing:
            raise ModelError(
                "A stored pruning mask must be of this model's own weights, but it differs in "
                f"{differing[0]!r}; resume with the recipe that wrote it."
            )
        for name, weight in self._weights.items():
            unpacked = np.unpackbits(state[name].cpu().numpy(), count=weight.numel())
            kept = torch.from_numpy(unpacked).bool().view(weight.shape)
            self._bits[name] = _as_bits(kept.to(weight.device), weight)

    def _zero(self, name: str, tensor: Shaped[Tensor, "*shape"]) -> None:
        # An AND of bit patterns, because it gives +0.0 from anything, NaN included, and on a CPU
        # takes 3 ms for ten million weights where masked_fill_ takes 75.
        patterns = bit_patterns(tensor)
        bits = self._bits[name]
        if bits.device != tensor.device:  # the model was moved since
            bits = self._bits[name] = bits.to(tensor.device)
        patterns.bitwise_and_(bits.to(patterns.dtype))


def _as_bits(kept: Bool[Tensor, "*_shape"], weight: Tensor) -> Tensor:
    """All bits set where `kept`, none elsewhere, in integers of the weight's width."""
    return kept.to(bit_patterns(weight).dtype).neg_()
