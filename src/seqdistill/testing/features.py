"""The property suite of feature matches: `check_feature_match`."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from seqdistill.core.families import FEATURES, FeatureMatch, Stack
from seqdistill.core.features import LayerFeatures
from seqdistill.core.registry import Chosen

_LENGTHS = (5, 1, 3)


def layer_features(
    member: FeatureMatch, *, stack: Stack, size: int, seed: int, padding: float = 0.0
) -> LayerFeatures:
    """Random ones of three sequences, in fp64, with `padding` added under the padding.

    `size` is the width of vectors; a third of it is how many heads attend.
    """
    num, time = len(_LENGTHS), max(_LENGTHS) + 1
    mask = torch.arange(time) < torch.tensor(_LENGTHS)[:, None]
    made = LayerFeatures({}, mask, is_causal=stack == "decoder")
    draw, found = torch.Generator().manual_seed(seed), {}
    for name in member.reads:
        is_map = name == "attention"
        shape = (num, size // 3, time, time) if is_map else (num, time, size)
        tensor = torch.randn(shape, generator=draw, dtype=torch.float64)
        if is_map:
            unseen = ~made.attended.unsqueeze(1)
            tensor = tensor.masked_fill(unseen, -1e9).softmax(dim=-1)
            tensor.transpose(1, 2)[~mask] += padding
        else:
            tensor[~mask] += padding
        found[name] = tensor.requires_grad_()
    return dataclasses.replace(made, tensors=found)


def check_feature_match(name: str, *, size: int = 12, **parameters: object) -> None:
    """Runs the suite of the family on the registered match with these parameters.

    The student's vectors have that size, a multiple of 6; the teacher's are twice as wide unless
    the match `projects`, and twice as many heads attend.

    Raises AssertionError for the first property that does not hold.
    """
    chosen = FEATURES.choose(name, **parameters)
    other = size if chosen.member.projects else 2 * size
    stacks: tuple[Stack, ...] = ("encoder", "decoder")
    for stack in stacks:
        student = layer_features(chosen.member, stack=stack, size=size, seed=0)
        teacher = layer_features(chosen.member, stack=stack, size=other, seed=1)
        mask, values = student.mask, _values(chosen, student, teacher)
        assert tuple(values.shape) == tuple(mask.shape), (
            f"it must give a value for every token, {tuple(mask.shape)}, not {tuple(values.shape)}"
        )
        assert values.isfinite().all(), "values must be finite, under padding too"
        assert (values[mask] >= 0.0).all(), "a distance is never below 0"
        own = tuple(student.tensors.values())
        gradients = torch.autograd.grad(values[mask].sum(), own, allow_unused=True)
        for read, gradient in zip(student.tensors, gradients, strict=True):
            assert gradient is not None, f"it must depend on the student's {read}, which it reads"
            assert gradient.isfinite().all(), f"the gradient in {read} must be finite"
        _check_gradient(chosen, student, teacher)
        padded = (
            layer_features(chosen.member, stack=stack, size=size, seed=0, padding=3.0),
            layer_features(chosen.member, stack=stack, size=other, seed=1, padding=-2.0),
        )
        torch.testing.assert_close(
            _values(chosen, *padded)[mask], values[mask], msg="what is under padding is not read"
        )
        for row, length in enumerate(_LENGTHS):
            alone = _values(chosen, _alone(student, row, length), _alone(teacher, row, length))
            torch.testing.assert_close(
                alone[0],
                values[row, :length],
                msg="a value does not depend on other sequences, nor on how wide the batch is",
            )


def _values(chosen: Chosen[FeatureMatch], student: LayerFeatures, teacher: LayerFeatures) -> Tensor:
    found: Tensor = chosen.member.call("feature match", student, teacher, **chosen.arguments())
    return found


def _check_gradient(
    chosen: Chosen[FeatureMatch], student: LayerFeatures, teacher: LayerFeatures
) -> None:
    """Along a random direction, against finite differences."""
    draw, step = torch.Generator().manual_seed(2), 1e-6
    tensors = {name: tensor.detach() for name, tensor in student.tensors.items()}
    moves = {
        name: torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
        for name, tensor in tensors.items()
    }

    def total(by: float) -> Tensor:
        moved = {name: (t + by * moves[name]).requires_grad_() for name, t in tensors.items()}
        there = dataclasses.replace(student, tensors=moved)
        value = _values(chosen, there, teacher)[student.mask].sum()
        if by:
            return value.detach()
        found = torch.autograd.grad(value, list(moved.values()))
        pairs = zip(found, moves.values(), strict=True)
        return torch.stack([(gradient * move).sum() for gradient, move in pairs]).sum()

    torch.testing.assert_close(
        total(0.0),
        (total(step) - total(-step)) / (2 * step),
        rtol=1e-5,
        atol=1e-7,
        msg="gradients must be those of finite differences",
    )


def _alone(given: LayerFeatures, row: int, length: int) -> LayerFeatures:
    tensors = {
        name: t[row : row + 1, :, :length, :length]
        if name == "attention"
        else t[row : row + 1, :length]
        for name, t in given.tensors.items()
    }
    return dataclasses.replace(given, tensors=tensors, mask=given.mask[row : row + 1, :length])
