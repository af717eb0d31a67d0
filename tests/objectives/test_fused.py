"""The fused forms against the plain ones: value, gradient, dtypes, memory's shape."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES, Divergence
from seqdistill.core.head import Head
from seqdistill.objectives.chunked_loss import FusedLoss
from seqdistill.objectives.fused import (
    fused_divergence,
    fused_sum,
    row_function,
    target_part,
    teacher_part,
)

POSITIONS, VOCAB, DIM, TEACHER_DIM = 11, 37, 8, 5
SETTINGS: dict[str, dict[str, Any]] = {
    "jensen_shannon": {"beta": 0.3},
    "skew_forward_kl": {"alpha": 0.1},
    "skew_reverse_kl": {"alpha": 0.2},
    "interpolated_forward_kl": {"start_fraction": 0.4},
    "adaptive_kl": {"head_mass": 0.6},
}
HEADS = {
    "plain": (False, 1.0, None),
    "bias": (True, 1.0, None),
    "scale": (False, 0.3, None),
    "cap": (False, 1.0, 2.0),
    "all": (True, 0.3, 2.0),
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def arguments(name: str) -> dict[str, Any]:
    """What the plain function is called with."""
    chosen = DIVERGENCES.choose(name, **SETTINGS.get(name, {}))
    state = chosen.member.new_state(chosen.parameters)
    return chosen.arguments() if state is None else dict(state.arguments())


every_name = pytest.mark.parametrize("name", DIVERGENCES)
few_names = pytest.mark.parametrize(
    "name", ["negative_log_likelihood", "reverse_kl", "interpolated_forward_kl"]
)
"""A part of targets, a gradient by hand, one by autograd."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Random states, heads, targets and weights, with the plain answer."""

    name: str
    hidden: Tensor
    head: Head
    teacher_hidden: Tensor
    teacher_head: Head
    target_ids: Tensor
    weights: Tensor

    @property
    def is_hard(self) -> bool:
        return DIVERGENCES[self.name].takes_targets

    @property
    def leaves(self) -> list[Tensor]:
        bias = self.head.bias
        return [self.hidden, self.head.weight] + ([] if bias is None else [bias])

    def fused(self, temperature: float = 1.0, chunk: int | None = None) -> FusedLoss:
        if self.is_hard:
            found = fused_sum(
                self.hidden,
                self.head,
                [target_part(self.target_ids)],
                weights=self.weights,
                chunk_positions=chunk,
            )
            return FusedLoss(found.total, found.values[0])
        return fused_divergence(
            self.name,
            self.hidden,
            self.head,
            self.teacher_hidden,
            self.teacher_head,
            weights=self.weights,
            temperature=temperature,
            chunk_positions=chunk,
            **SETTINGS.get(self.name, {}),
        )

    def plain(self, temperature: float = 1.0) -> Tensor:
        if self.is_hard:
            log_probs = self.head.logits(self.hidden).log_softmax(-1)
            hard: Tensor = DIVERGENCES[self.name].function(log_probs, self.target_ids)
            return hard
        student = (self.head.logits(self.hidden) / temperature).log_softmax(-1)
        teacher_logits = self.teacher_head.logits(self.teacher_hidden)
        teacher = (teacher_logits / temperature).log_softmax(-1)
        soft: Tensor = DIVERGENCES[self.name].function(student, teacher, **arguments(self.name))
        return soft

    def gradients(self, total: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(3.0 * total, self.leaves))


def problem(name: str, head: str = "all", dtype: torch.dtype = torch.float64) -> Problem:
    biased, scale, cap = HEADS[head]
    generator = torch.Generator().manual_seed(len(name))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    bias = normal(VOCAB).requires_grad_() if biased else None
    return Problem(
        name,
        normal(POSITIONS, DIM).requires_grad_(),
        Head(normal(VOCAB, DIM).requires_grad_(), bias, scale, cap),
        normal(POSITIONS, TEACHER_DIM),
        Head(normal(VOCAB, TEACHER_DIM), normal(VOCAB), 1.0, 30.0 if cap else None),
        torch.randint(VOCAB, (POSITIONS,), generator=generator),
        torch.rand(POSITIONS, generator=generator) + 0.1,
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@every_name
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp64", "fp32"])
@pytest.mark.parametrize("chunk", [None, 4], ids=lambda chunk: f"chunk{chunk}")
def test_fused_equals_plain(name: str, chunk: int | None, dtype: torch.dtype) -> None:
    """In the suite of the family it does in fp64 and for plain heads."""
    case = problem(name, "all", dtype)
    got, expected = case.fused(2.5, chunk), case.plain(2.5)
    assert got.total.dtype == dtype
    assert relative_error(got.values, expected.detach()) < TOLERANCE[dtype]
    total = (case.weights * expected).sum()
    assert relative_error(got.total.detach(), total.detach()) < TOLERANCE[dtype]
    pairs = zip(case.gradients(got.total), case.gradients(total), strict=True)
    for gradient, plain_gradient in pairs:
        assert gradient.dtype == dtype
        assert relative_error(gradient, plain_gradient) < TOLERANCE[dtype]


@every_name
def test_bf16_states_come_close_and_keep_each_dtype(name: str) -> None:
    """Live fp32 weights under bf16 hidden states: products in bf16, the rest in fp32."""
    exact = problem(name, "bias")
    hidden = exact.hidden.detach().bfloat16().requires_grad_()
    weight, bias = (t.detach().float().requires_grad_() for t in exact.leaves[1:])
    rounded = dataclasses.replace(
        exact,
        hidden=hidden,
        head=Head(weight, bias),
        teacher_hidden=exact.teacher_hidden.bfloat16(),
    )
    got, expected = rounded.fused(), exact.plain()
    assert (got.values >= 0.0).all(), "not even by rounding"
    assert relative_error(got.values.double(), expected.detach()) < 0.03
    gradients = rounded.gradients(got.total)
    assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in rounded.leaves]
    plain_gradients = exact.gradients((exact.weights * expected).sum())
    # The sign in total variation's gradient flips where rounding swaps p and q.
    allowed = 0.3 if name == "total_variation" else 0.05
    for got_gradient, gradient in zip(gradients, plain_gradients, strict=True):
        assert relative_error(got_gradient.double(), gradient) < allowed


@few_names
def test_autocast_gives_what_bf16_states_give(name: str) -> None:
    case = problem(name, "bias", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = case.fused()
        gradients = case.gradients(inside.total)
    rounded = dataclasses.replace(
        case, hidden=case.hidden.bfloat16(), teacher_hidden=case.teacher_hidden.bfloat16()
    )
    assert torch.equal(inside.values, rounded.fused().values)
    assert not torch.equal(inside.values, case.fused().values)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 3


@every_name
@pytest.mark.parametrize("chunk", [None, 3])
def test_impossible_symbols_cost_nothing(name: str, chunk: int | None) -> None:
    """A -inf bias on both heads equals cutting those symbols off, and gives no NaN."""
    case = problem(name, "bias")
    assert case.head.bias is not None and case.teacher_head.bias is not None
    kept = VOCAB - 6
    for bias in (case.head.bias, case.teacher_head.bias):
        bias.data[kept:] = -math.inf
    case.target_ids.clamp_(max=kept - 1)
    got = case.fused(chunk=chunk)
    cut = dataclasses.replace(
        case, head=case.head.cut(kept), teacher_head=case.teacher_head.cut(kept)
    )
    torch.testing.assert_close(got.values, cut.fused().values)
    for gradient, expected in zip(
        case.gradients(got.total), case.gradients(cut.fused().total), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


@every_name
def test_one_sided_zeros_equal_the_plain_form(name: str) -> None:
    """A symbol that only the teacher excludes, then one that only the student excludes."""
    for excluded_by in ("teacher_head", "head"):
        case = problem(name, "bias")
        getattr(case, excluded_by).bias.data[:3] = -math.inf
        got, expected = case.fused(chunk=4), case.plain()
        torch.testing.assert_close(got.values, expected)
        if expected.isfinite().all():
            for gradient in case.gradients(got.total):
                assert gradient.isfinite().all()


@every_name
def test_a_nan_is_not_hidden(name: str) -> None:
    for broken in ("hidden", "teacher_hidden"):
        case = problem(name)
        if case.is_hard and broken == "teacher_hidden":
            continue
        getattr(case, broken).data[4, 0] = math.nan
        values = case.fused().values
        assert values[4].isnan()
        assert values.isnan().sum() == 1


@few_names
def test_a_second_backward_through_a_retained_graph_gives_the_same(name: str) -> None:
    case = problem(name)
    total = case.fused().total
    first = torch.autograd.grad(total, case.leaves, retain_graph=True)
    second = torch.autograd.grad(2.0 * total, case.leaves)
    for once, twice in zip(first, second, strict=True):
        torch.testing.assert_close(2.0 * once, twice)


@few_names
def test_only_what_wants_a_gradient_gets_one(name: str) -> None:
    case = problem(name)
    case.head.weight.requires_grad_(False)
    loss = case.fused()
    assert not loss.values.requires_grad
    torch.autograd.backward(loss.total)
    for tensor in case.leaves:
        assert (tensor.grad is None) == (not tensor.requires_grad)
    with torch.no_grad():
        assert not case.fused().total.requires_grad


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most elements that any operation's result has had."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.num_elements = max(self.num_elements, result.numel())
        return result


@every_name
def test_no_tensor_over_all_positions_and_symbols_is_ever_made(name: str) -> None:
    case = problem(name)
    with LargestTensor() as seen:
        torch.autograd.backward(case.fused(chunk=2).total)
    assert seen.num_elements <= max(2 * VOCAB, VOCAB * DIM)
    with LargestTensor() as seen:
        torch.autograd.backward(case.plain().sum())
    assert seen.num_elements >= POSITIONS * VOCAB, "the probe must see the plain form's logits"


@few_names
def test_no_positions_give_zero_with_a_zero_gradient(name: str) -> None:
    case = problem(name)
    none = slice(0, 0)
    empty = dataclasses.replace(
        case,
        hidden=case.hidden.detach()[none].requires_grad_(),
        teacher_hidden=case.teacher_hidden[none],
        target_ids=case.target_ids[none],
        weights=case.weights[none],
    )
    total = empty.fused().total
    assert total == 0.0
    assert all((gradient == 0.0).all() for gradient in empty.gradients(total))


def test_a_divergence_that_sums_over_positions_is_refused() -> None:
    loss = row_function(Divergence("summed", lambda q, p: (q - p).sum()), {})
    with pytest.raises(RecipeError, match=r"one value for every position, the shape \(4,\), got"):
        loss(torch.zeros(4, 3), torch.zeros(4, 3), ())


def test_unequal_vocabularies_are_refused_with_both_sizes() -> None:
    case = problem("forward_kl")
    cut = dataclasses.replace(case, teacher_head=case.teacher_head.cut(30))
    with pytest.raises(ValueError, match=r"37 .*30 .*Head\.cut"):
        cut.fused()


@pytest.mark.parametrize("chunk", [None, 4], ids=lambda chunk: f"chunk{chunk}")
@pytest.mark.parametrize("head", HEADS)
def test_parts_of_one_pass_equal_the_sum_of_single_losses(head: str, chunk: int | None) -> None:
    case = problem("forward_kl", head)
    factors = {"negative_log_likelihood": 0.3, "forward_kl": 0.7, "reverse_kl": 2.0}
    parts = [
        target_part(case.target_ids, factor=0.3),
        teacher_part("forward_kl", case.teacher_hidden, case.teacher_head, factor=0.7),
        teacher_part("reverse_kl", case.teacher_hidden, case.teacher_head, factor=2.0),
    ]
    together = fused_sum(case.hidden, case.head, parts, weights=case.weights, chunk_positions=chunk)
    single = [dataclasses.replace(case, name=name).fused() for name in factors]
    assert torch.allclose(together.values, torch.stack([loss.values for loss in single]))
    total = sum(f * loss.total for f, loss in zip(factors.values(), single, strict=True))
    assert isinstance(total, Tensor)
    assert relative_error(together.total.detach(), total.detach()) < 1e-12
    pairs = zip(case.gradients(together.total), case.gradients(total), strict=True)
    assert all(relative_error(one, other) < 1e-12 for one, other in pairs)


def test_impossible_arguments_are_refused() -> None:
    case = problem("forward_kl")
    warm = teacher_part("forward_kl", case.teacher_hidden, case.teacher_head, temperature=2.0)
    parts = [target_part(case.target_ids), warm]
    for wrong, sentence in ((parts, r"at one temperature, got 1\.0, 2\.0"), ([], "at least one")):
        with pytest.raises(ValueError, match=sentence):
            fused_sum(case.hidden, case.head, wrong, weights=case.weights)
    with pytest.raises(ValueError, match="temperature must be positive"):
        case.fused(temperature=0.0)
    with pytest.raises(ValueError, match="chunk_positions must be at least 1"):
        case.fused(chunk=0)
