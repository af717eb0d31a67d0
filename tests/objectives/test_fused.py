"""The fused forms beside the plain ones, to which the suite of the family holds them in fp64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.objectives.worlds import OF_POSITIONS, term
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqdistill.core.errors import UserError
from seqdistill.core.families import DIVERGENCES, Divergence
from seqdistill.core.head import Head
from seqdistill.core.registry import Chosen
from seqdistill.objectives import chunked
from seqdistill.objectives.chunked import Blocking, FusedSum, Part
from seqdistill.objectives.fused import (
    _row_function,
    fused_divergence,
    fused_sum,
    target_part,
    teacher_part,
)

POSITIONS, VOCAB, DIM, TEACHER_DIM = 11, 37, 8, 5
every_name = pytest.mark.parametrize("name", OF_POSITIONS)
few_names = pytest.mark.parametrize(
    "name", ["negative_log_likelihood", "reverse_kl", "interpolated_forward_kl"]
)
"""A part of targets, a gradient by hand, one by autograd."""


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a slice: what runs in one elementwise pass is less than a chunk here, too."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(chunked, "SLICE_ELEMENTS", 3 * VOCAB)


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
    def chosen(self) -> Chosen[Divergence]:
        return term(self.name).divergence

    @property
    def arguments(self) -> dict[str, Any]:
        """What the plain function is called with."""
        state = self.chosen.member.new_state(self.chosen.parameters)
        return self.chosen.arguments() if state is None else dict(state.arguments())

    @property
    def leaves(self) -> list[Tensor]:
        assert self.head.bias is not None
        return [self.hidden, self.head.weight, self.head.bias]

    def part(self, factor: float = 1.0, temperature: float = 1.0) -> Part:
        if self.chosen.member.takes_targets:
            return target_part(self.target_ids, factor=factor)
        return teacher_part(
            self.chosen,
            self.teacher_hidden,
            self.teacher_head,
            factor=factor,
            temperature=temperature,
            **self.arguments,
        )

    def fused(self, chunk: int | None = None) -> FusedSum:
        return fused_sum(
            self.hidden, self.head, [self.part()], weights=self.weights, chunk_positions=chunk
        )

    def plain(self) -> Tensor:
        teacher = self.teacher_head.logits(self.teacher_hidden).log_softmax(-1)
        other = self.target_ids if self.chosen.member.takes_targets else teacher
        student = self.head.logits(self.hidden).log_softmax(-1)
        values: Tensor = self.chosen.member.function(student, other, **self.arguments)
        return values

    def gradients(self, total: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(3.0 * total, self.leaves))


def problem(
    name: str,
    *,
    scale: float = 1.0,
    cap: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    generator = torch.Generator().manual_seed(len(name))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Problem(
        name,
        normal(POSITIONS, DIM).requires_grad_(),
        Head(normal(VOCAB, DIM).requires_grad_(), normal(VOCAB).requires_grad_(), scale, cap),
        normal(POSITIONS, TEACHER_DIM),
        Head(normal(VOCAB, TEACHER_DIM), normal(VOCAB)),
        torch.randint(VOCAB, (POSITIONS,), generator=generator),
        torch.rand(POSITIONS, generator=generator) + 0.1,
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@every_name
def test_fp32_and_bf16_states_come_close_and_keep_each_dtype(name: str) -> None:
    """Live fp32 weights under bf16 hidden states: products in bf16, the rest in fp32."""
    exact = problem(name, scale=0.7)
    values = exact.plain()
    expected = exact.gradients((exact.weights * values).sum())
    for dtype, near, allowed in ((torch.float32, 1e-5, 1e-5), (torch.bfloat16, 0.03, 0.05)):
        if name in ("total_variation", "neg_log_acceptance") and dtype == torch.bfloat16:
            allowed = 0.4  # the sign in its gradient flips where rounding swaps p and q
        weight, bias = (t.detach().float().requires_grad_() for t in exact.leaves[1:])
        rounded = dataclasses.replace(
            exact,
            hidden=exact.hidden.detach().to(dtype).requires_grad_(),
            head=Head(weight, bias, 0.7),
            teacher_hidden=exact.teacher_hidden.to(dtype),
        )
        got = rounded.fused(chunk=4)
        assert (got.values >= 0.0).all(), "not even by rounding"
        assert relative_error(got.values[0].double(), values.detach()) < near
        gradients = rounded.gradients(got.total)
        assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in rounded.leaves]
        for mine, gradient in zip(gradients, expected, strict=True):
            assert relative_error(mine.double(), gradient) < allowed


@few_names
def test_autocast_gives_what_bf16_states_give(name: str) -> None:
    case = problem(name, dtype=torch.float32)
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
def test_impossible_symbols_cost_nothing_where_both_exclude_them(name: str) -> None:
    """A -inf bias on both heads equals cutting those symbols off; on one, it is the plain form."""
    case, kept = problem(name), VOCAB - 6
    for head in (case.head, case.teacher_head):
        assert head.bias is not None
        head.bias.data[kept:] = -math.inf
    case.target_ids.clamp_(max=kept - 1)
    cut = dataclasses.replace(
        case, head=case.head.cut(kept), teacher_head=case.teacher_head.cut(kept)
    )
    got, expected = case.fused(chunk=3), cut.fused()
    torch.testing.assert_close(got.values, expected.values)
    torch.testing.assert_close(case.gradients(got.total), case.gradients(expected.total))
    for excluded_by in ("teacher_head", "head"):
        case = problem(name)
        getattr(case, excluded_by).bias.data[:3] = -math.inf
        got, plain = case.fused(chunk=4), case.plain()
        torch.testing.assert_close(got.values[0], plain)
        if plain.isfinite().all():
            assert all(gradient.isfinite().all() for gradient in case.gradients(got.total))


@every_name
def test_a_nan_is_not_hidden(name: str) -> None:
    hard = DIVERGENCES[name].takes_targets
    for broken in ("hidden",) if hard else ("hidden", "teacher_hidden"):
        case = problem(name, cap=2.0)
        getattr(case, broken).data[4, 0] = math.nan
        assert case.fused().values[0].isnan().nonzero().tolist() == [[4]]


@few_names
def test_a_second_backward_gives_the_same_and_only_to_what_wants_a_gradient(name: str) -> None:
    case = problem(name, scale=0.3, cap=2.0)
    total = case.fused().total
    first = torch.autograd.grad(total, case.leaves, retain_graph=True)
    second = torch.autograd.grad(2.0 * total, case.leaves)
    torch.testing.assert_close([2.0 * once for once in first], list(second))
    for frozen in case.leaves:
        frozen.requires_grad_(False)
        loss = case.fused()
        assert not loss.values.requires_grad
        wanted = [leaf for leaf in case.leaves if leaf.requires_grad]
        found = torch.autograd.grad(loss.total, wanted)
        expected = [g for leaf, g in zip(case.leaves, first, strict=True) if leaf is not frozen]
        torch.testing.assert_close(list(found), expected)
        frozen.requires_grad_()
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
    case = problem(name, cap=2.0)
    with LargestTensor() as seen:
        torch.autograd.backward(case.fused(chunk=2).total)
    assert seen.num_elements <= max(2 * VOCAB, VOCAB * DIM)
    with LargestTensor() as seen:
        torch.autograd.backward(case.plain().sum())
    assert seen.num_elements >= POSITIONS * VOCAB, "the probe must see the plain form's logits"


def test_chunks_are_as_few_and_as_equal_as_the_limit_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 100)
    monkeypatch.setattr(chunked, "SLICE_ELEMENTS", 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked = (
        (25, 10, None),
        (20, 10, None),
        (25, 200, None),
        (0, 10, None),
        (25, 10, 4),
        (9, 10, 99),
    )
    found = [Blocking.of(torch.zeros(rows, 1), vocab, given) for rows, vocab, given in asked]
    sizes = ((9, 6), (10, 6), (1, 1), (1, 1), (4, 4), (9, 6))
    assert found == [Blocking(chunk, of_slice) for chunk, of_slice in sizes]


@few_names
def test_no_positions_give_zero_with_a_zero_gradient(name: str) -> None:
    case, none = problem(name), slice(0, 0)
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


def divided(q: Tensor, p: Tensor) -> Tensor:
    return (q - p).sum(-1) / (1 // 0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda q, p: (q - p).sum(), r"one value for every position, the shape \(4,\), got"),
        (lambda q, p: None, r"one value for every position, the shape \(4,\), got NoneType"),
        (divided, r"divided raised ZeroDivisionError: .* at \S+test_fused\.py:\d+; fix"),
        (lambda q: q, r"raised TypeError: .* at \S+test_fused\.py:\d+; fix"),
    ],
)
def test_a_users_divergence_that_goes_wrong_is_told_in_a_sentence(
    function: Callable[..., Any], words: str
) -> None:
    loss = _row_function(Divergence("own", function), {}, manual=True)
    with pytest.raises(UserError, match=rf"^the divergence '?own'? must give .*{words}"):
        loss(torch.zeros(4, 3), torch.zeros(4, 3), ())


@pytest.mark.parametrize("chunk", [None, 4], ids=lambda chunk: f"chunk{chunk}")
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.3, None), (0.3, 2.0)])
def test_parts_of_one_pass_equal_the_sum_of_single_losses(
    scale: float, cap: float | None, chunk: int | None
) -> None:
    case = problem("forward_kl", scale=scale, cap=cap)
    factors = {"negative_log_likelihood": 0.3, "forward_kl": 0.7, "reverse_kl": 2.0}
    single = [dataclasses.replace(case, name=name) for name in factors]
    parts = [one.part(factor) for one, factor in zip(single, factors.values(), strict=True)]
    own = 2.0 - case.weights
    parts[0] = dataclasses.replace(parts[0], weights=own)
    single[0] = dataclasses.replace(single[0], weights=own)
    together = fused_sum(case.hidden, case.head, parts, weights=case.weights, chunk_positions=chunk)
    apart = [one.fused() for one in single]
    torch.testing.assert_close(together.values, torch.cat([loss.values for loss in apart]))
    sums = [factor * loss.total for factor, loss in zip(factors.values(), apart, strict=True)]
    total = torch.stack(sums).sum()
    torch.testing.assert_close(together.total, total)
    torch.testing.assert_close(case.gradients(together.total), case.gradients(total))


def test_impossible_arguments_are_refused() -> None:
    case = problem("forward_kl")
    parts = [target_part(case.target_ids), case.part(temperature=2.0)]
    for wrong, sentence in (
        (parts, r"at one temperature, got 1\.0, 2\.0"),
        ([], "at least one"),
        ([case.part(temperature=0.0)], "temperature must be positive"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fused_sum(case.hidden, case.head, wrong, weights=case.weights)
    with pytest.raises(ValueError, match="chunk_positions must be at least 1"):
        case.fused(chunk=0)
    cut = case.teacher_head.cut(30)
    with pytest.raises(ValueError, match=r"37 .*30 .*Head\.cut"):
        fused_divergence(
            "forward_kl", case.hidden, case.head, case.teacher_hidden, cut, weights=case.weights
        )
