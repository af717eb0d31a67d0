"""What every divergence must satisfy: members are read from the registry, so none can skip it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import entr, log_softmax, rel_entr
from tests.objectives.worlds import OF_POSITIONS
from torch import Tensor

from seqdistill.core.families import DIVERGENCES
from seqdistill.objectives.divergences import (
    forward_kl,
    jensen_shannon,
    neg_log_acceptance,
    reverse_kl,
    total_variation,
)

Array = NDArray[np.float64]
VOCAB = 23
CHOICES: dict[str, tuple[Any, ...]] = {
    "beta": (0.1, 0.5, 0.9),
    "alpha": (0.1, 0.6),
    "scale": ("raw", "gradient"),
    "head_mass": (0.5, 0.9),
    "share": (0.0, 0.4, 1.0),
}
INFINITE_WHERE_ONLY_THE_STUDENT_HAS_MASS = {"reverse_kl", "adaptive_kl"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A divergence with its parameters filled in."""

    name: str
    parameters: dict[str, Any]

    @property
    def is_covering(self) -> bool:
        """Whether the student must have mass wherever the teacher has."""
        names = {"cross_entropy", "forward_kl", "adaptive_kl", "teacher_mode_likelihood"}
        return self.name in names or self.parameters.get("share") == 1.0

    def __call__(self, student: Tensor, other: Tensor) -> Tensor:
        values: Tensor = DIVERGENCES[self.name].function(student, other, **self.parameters)
        return values

    @property
    def bound(self) -> float:
        """The largest value theory allows."""
        if self.name == "total_variation":
            return 1.0
        if self.name == "uld":
            return 2.0
        if self.name.startswith("skew"):
            return -math.log(self.parameters["alpha"])
        if self.name in ("jensen_shannon", "adaptive_jensen_shannon"):
            beta = self.parameters["beta"]
            entropy = float(entr(beta) + entr(1 - beta))
            return entropy / (beta * (1 - beta) if self.parameters["scale"] == "gradient" else 1)
        return math.inf


def log_probs(generator: torch.Generator, *shape: int, spread: float = 3.0) -> Tensor:
    logits = spread * torch.randn(*shape, VOCAB, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=-1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only_on(ids: slice) -> Tensor:
    """A distribution with mass on some symbols and exact zeros, -inf, elsewhere."""
    logits = torch.full((VOCAB,), -math.inf, dtype=torch.float64)
    logits[ids] = torch.randn(logits[ids].shape, generator=seeded(3), dtype=torch.float64)
    return logits.log_softmax(dim=-1)


def oracle_adaptive_kl(q: Array, p: Array, head_mass: float) -> Array:
    """Position by position, symbol by symbol, as the paper tells it."""
    values = []
    for student, teacher in zip(
        q.reshape(-1, q.shape[-1]), p.reshape(-1, p.shape[-1]), strict=True
    ):
        gaps, mass = {"head": 0.0, "tail": 0.0}, 0.0
        for symbol in np.argsort(-teacher, kind="stable"):
            part = "head" if mass < head_mass else "tail"
            gaps[part] += abs(student[symbol] - teacher[symbol])
            mass += teacher[symbol]
        kls = {"head": rel_entr(teacher, student).sum(), "tail": rel_entr(student, teacher).sum()}
        whole = sum(gaps.values())
        values.append(sum(gaps[part] / whole * kls[part] for part in gaps) if whole else 0.0)
    return np.asarray(values).reshape(q.shape[:-1])


def oracle_interpolated(q: Array, p: Array, share: float) -> Array:
    target = q ** (1 - share) * p**share
    return rel_entr(target / target.sum(-1, keepdims=True), q).sum(-1)  # type: ignore[no-any-return]


def oracle_mixture_kl(first: Array, second: Array, share: float) -> Array:
    return rel_entr(first, share * first + (1 - share) * second).sum(-1)  # type: ignore[no-any-return]


def oracle_jensen_shannon(q: Array, p: Array, beta: float, scale: str) -> Array:
    mixture = beta * p + (1 - beta) * q
    raw = beta * rel_entr(p, mixture).sum(-1) + (1 - beta) * rel_entr(q, mixture).sum(-1)
    return raw / (beta * (1 - beta)) if scale == "gradient" else raw  # type: ignore[no-any-return]


ORACLES: dict[str, Callable[..., Array]] = {
    "cross_entropy": lambda q, p: (entr(p) + rel_entr(p, q)).sum(-1),
    "forward_kl": lambda q, p: rel_entr(p, q).sum(-1),
    "reverse_kl": lambda q, p: rel_entr(q, p).sum(-1),
    "jensen_shannon": oracle_jensen_shannon,
    "adaptive_jensen_shannon": oracle_jensen_shannon,
    "skew_forward_kl": lambda q, p, alpha: oracle_mixture_kl(p, q, alpha),
    "skew_reverse_kl": lambda q, p, alpha: oracle_mixture_kl(q, p, alpha),
    "total_variation": lambda q, p: 0.5 * np.abs(p - q).sum(-1),
    "uld": lambda q, p: np.abs(np.sort(q) - np.sort(p)).sum(-1),
    "neg_log_acceptance": lambda q, p: -np.log(np.minimum(p, q).sum(-1)),
    "adaptive_kl": oracle_adaptive_kl,
    "interpolated_forward_kl": oracle_interpolated,
    "teacher_mode_likelihood": lambda q, p: (
        -np.log(np.take_along_axis(q, p.argmax(-1)[..., None], -1))[..., 0]
    ),
}


def cases() -> Iterator[Any]:
    for name in ORACLES:
        function = DIVERGENCES[name].function
        known = [key for key in CHOICES if key in inspect.signature(function).parameters]
        for values in itertools.product(*(CHOICES[parameter] for parameter in known)):
            identity = "-".join([name, *map(str, values)])
            yield pytest.param(Case(name, dict(zip(known, values, strict=True))), id=identity)


every_divergence = pytest.mark.parametrize("case", list(cases()))


def with_held_parts(case: Case, student: Tensor, teacher: Tensor) -> Callable[..., Tensor]:
    """The divergence as its gradient sees it: what it holds constant is that of this point."""
    q, p = (x.log_softmax(-1).detach().exp() for x in (student, teacher))
    if case.name == "adaptive_kl":
        in_head = torch.zeros_like(p, dtype=torch.bool)
        for row in range(p.shape[0]):
            ranked = p[row].argsort(descending=True)
            num_head = int((p[row][ranked].cumsum(0) < case.parameters["head_mass"]).sum()) + 1
            in_head[row, ranked[:num_head]] = True
        gap = (p - q).abs()
        weight = (gap * in_head).sum(-1) / gap.sum(-1)
        return lambda z, t: weight * forward_kl(z, t) + (1 - weight) * reverse_kl(z, t)
    if case.name == "interpolated_forward_kl":
        share = case.parameters["share"]
        target = (q.log() * (1 - share) + p.log() * share).log_softmax(-1)
        return lambda z, _: forward_kl(z, target)
    return case


def oracle(case: Case, student: Tensor, teacher: Tensor) -> Tensor:
    q, p = (np.exp(log_softmax(side.double().numpy(), axis=-1)) for side in (student, teacher))
    return torch.from_numpy(np.asarray(ORACLES[case.name](q, p, **case.parameters)))


@every_divergence
def test_value_equals_the_oracle(case: Case) -> None:
    student, teacher = log_probs(seeded(1), 4, 5), log_probs(seeded(11), 4, 5)
    expected = oracle(case, student, teacher)
    torch.testing.assert_close(case(student, teacher), expected, rtol=1e-11, atol=1e-13)
    in_fp32 = case(student.float(), teacher.float())
    assert in_fp32.dtype == torch.float32
    torch.testing.assert_close(in_fp32.double(), expected, rtol=1e-5, atol=1e-6)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    exact = case(student.float(), teacher.float())
    assert torch.equal(case(student, teacher), exact), "bf16 is computed in fp32"


def test_the_likelihood_of_a_target_is_that_of_a_teacher_sure_of_it() -> None:
    likelihood, mode = (
        DIVERGENCES[name].function
        for name in ("negative_log_likelihood", "teacher_mode_likelihood")
    )
    student, teacher = log_probs(seeded(1), 4, 5), log_probs(seeded(11), 4, 5)
    assert torch.equal(likelihood(student, teacher.argmax(-1)), mode(student, teacher))
    assert set(ORACLES) == set(OF_POSITIONS) - {"negative_log_likelihood"}


@every_divergence
def test_equal_distributions_have_no_distance(case: Case) -> None:
    p = log_probs(seeded(2), 6).requires_grad_()
    values = case(p, p.detach())
    floors = {
        "cross_entropy": torch.from_numpy(entr(p.detach().exp().numpy()).sum(-1)),
        "teacher_mode_likelihood": -p.detach().amax(-1),
    }
    expected = floors.get(case.name, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(values, expected, rtol=0.0, atol=1e-12)
    (gradient,) = torch.autograd.grad(values.sum(), p)
    assert gradient.isfinite().all()


@every_divergence
def test_rounding_never_makes_it_negative_or_too_large(case: Case) -> None:
    generator = seeded(3)
    for dtype, noise in itertools.product(
        (torch.float64, torch.float32, torch.bfloat16), (0.0, 1e-4, 1e-2, 1.0, 30.0)
    ):
        student = log_probs(generator, 50)
        near = (student + noise * torch.randn(student.shape, generator=generator)).log_softmax(-1)
        values = case(student.to(dtype), near.to(dtype))
        assert (values >= 0.0).all(), f"negative at noise {noise}: {values.min()}"
        assert (values <= case.bound * (1 + 1e-6)).all(), f"beyond its bound at noise {noise}"


@pytest.mark.parametrize(
    "case", [case for case in cases() if "adaptive_kl" in case.id or "interpolated" in case.id]
)
def test_what_a_divergence_holds_constant_has_no_gradient(case: Case) -> None:
    """The gradient of all others is that of finite differences: see the suite of the family."""
    generator = seeded(6)
    logits, teacher = (
        torch.randn(3, VOCAB, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    held = with_held_parts(case, logits, teacher)
    expected, got = (
        torch.autograd.grad(
            function(logits.log_softmax(-1), teacher.log_softmax(-1)).sum(),
            (logits, teacher),
            materialize_grads=True,
        )
        for function in (held, case)
    )
    torch.testing.assert_close(got, expected)


@every_divergence
def test_zeros_are_infinite_only_where_theory_says_so_and_give_no_nan(case: Case) -> None:
    student, teacher = log_probs(seeded(8)).requires_grad_(), only_on(slice(0, 5)).requires_grad_()
    value = case(student, teacher)
    gradients = torch.autograd.grad(value, (student, teacher), materialize_grads=True)
    if case.name in INFINITE_WHERE_ONLY_THE_STUDENT_HAS_MASS:
        assert value == math.inf
    else:
        assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    student = only_on(slice(0, 5)).requires_grad_()
    value = case(student, log_probs(seeded(9)))
    if case.is_covering:
        assert value == math.inf
    else:
        assert 0.0 <= value <= case.bound * (1 + 1e-12)
    assert not torch.autograd.grad(value, student)[0].isnan().any()
    # exp(-800) is zero even in fp64: a zero that is not -inf.
    logits = torch.zeros(2, VOCAB)
    logits[0, :5], logits[1, 3:9] = 800.0, 800.0
    student = logits.log_softmax(-1).requires_grad_()
    values = case(student, logits.flip(0).log_softmax(-1))
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert not values.isnan().any() and not gradient.isnan().any()


@every_divergence
def test_disjoint_distributions_reach_the_bound(case: Case) -> None:
    student, teacher = only_on(slice(0, 5)).requires_grad_(), only_on(slice(5, 12))
    value = case(student, teacher)
    if case.parameters.get("share") == 0.0:
        assert value == 0.0, "the target is the student itself"
        return
    if case.name == "uld":
        assert 0.0 < value < case.bound, "it does not know that the symbols are others"
        return
    torch.testing.assert_close(value.item(), case.bound, rtol=1e-12, atol=0.0)
    if math.isfinite(case.bound):
        (gradient,) = torch.autograd.grad(value, student)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("beta", "end"), [(1e-7, forward_kl), (1 - 1e-7, reverse_kl)], ids=["to_0", "to_1"]
)
def test_jensen_shannon_tends_to_both_kls(
    beta: float, end: Callable[[Tensor, Tensor], Tensor]
) -> None:
    generator = seeded(12)
    teacher = log_probs(generator, 4)
    logits = log_probs(generator, 4).requires_grad_()
    limit = end(logits.log_softmax(-1), teacher)
    scaled = jensen_shannon(logits.log_softmax(-1), teacher, beta, scale="gradient")
    raw = jensen_shannon(logits.log_softmax(-1), teacher, beta) / min(beta, 1 - beta)
    (expected,) = torch.autograd.grad(limit.sum(), logits)
    for near in (scaled, raw):
        torch.testing.assert_close(near, limit, rtol=1e-3, atol=0.0)
        (slope,) = torch.autograd.grad(near.sum(), logits)
        torch.testing.assert_close(slope, expected, rtol=1e-2, atol=1e-4)


def test_the_logarithm_of_acceptance_has_the_gradient_of_total_variation_over_acceptance() -> None:
    logits, teacher = log_probs(seeded(43), 50).requires_grad_(), log_probs(seeded(44), 50)
    student = logits.log_softmax(-1)
    distance = total_variation(student, teacher)
    (lost,) = torch.autograd.grad(distance.sum(), logits, retain_graph=True)
    (kept,) = torch.autograd.grad(neg_log_acceptance(student, teacher).sum(), logits)
    torch.testing.assert_close(kept * (1.0 - distance)[:, None], lost)
    too_little = torch.where(student < teacher, student.exp(), 0.0).sum(-1)
    torch.testing.assert_close(lost.abs().sum(-1), 2.0 * too_little * (1.0 - too_little))


@pytest.mark.parametrize("nats", [1.0, 10.0, 60.0, 500.0])
def test_it_keeps_its_gradient_where_that_of_total_variation_goes_with_the_overlap(
    nats: float,
) -> None:
    """In fp32, where the smaller of two probabilities may be exactly 0."""
    teacher = torch.tensor([0.0, -nats]).log_softmax(-1)
    logits = torch.tensor([-nats, 0.0], requires_grad=True)
    student = logits.log_softmax(-1)
    value = neg_log_acceptance(student, teacher)
    (kept,) = torch.autograd.grad(value, logits, retain_graph=True)
    (lost,) = torch.autograd.grad(total_variation(student, teacher), logits)
    assert value.item() == pytest.approx(nats + math.log1p(math.exp(-nats)) - math.log(2.0))
    size = 0.5 / (1.0 + math.exp(-nats))
    torch.testing.assert_close(kept, torch.tensor([-size, size]))
    assert lost.abs().max().item() < 1.01 * math.exp(-nats)


def test_from_a_cold_start_the_logarithm_learns_and_total_variation_stalls() -> None:
    """Of a thousand symbols the teacher likes a few, and the student knows none yet."""
    teacher = (10.0 * torch.randn(16, 1000, generator=seeded(41))).log_softmax(-1)
    start = 0.1 * torch.randn(16, 1000, generator=seeded(42))

    def accepted(divergence: Callable[[Tensor, Tensor], Tensor]) -> float:
        logits = start.clone().requires_grad_()
        for _ in range(100):
            values = divergence(logits.log_softmax(-1), teacher)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
            logits = (logits - 2.0 * gradient).detach().requires_grad_()
        return 1.0 - total_variation(logits.log_softmax(-1), teacher).mean().item()

    assert accepted(total_variation) < 0.02
    assert accepted(neg_log_acceptance) > 0.8


def test_without_any_overlap_acceptance_is_infinitely_far_and_pulls_nowhere() -> None:
    student = only_on(slice(0, 5)).requires_grad_()
    value = neg_log_acceptance(student, only_on(slice(5, 12)))
    (gradient,) = torch.autograd.grad(value, student)
    assert value == math.inf and not gradient.any()


def test_clamped_values_keep_their_gradient() -> None:
    """bf16 rounding makes the sum negative here; the clamp must not stop the student's pull."""
    teacher = torch.tensor([0.5, 0.5]).log()
    student = torch.tensor([0.55, 0.55], dtype=torch.bfloat16).log().requires_grad_()  # mass 1.1
    value = forward_kl(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0.0
    torch.testing.assert_close(gradient, torch.tensor([-0.5, -0.5], dtype=torch.bfloat16))


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_logits_are_refused_whose_ever_they_are(case: Case, dtype: torch.dtype) -> None:
    """KL of logits is a number that looks like a loss, and is none."""
    logits = torch.randn(3, 4, VOCAB, generator=seeded(31), dtype=dtype)
    right, other = (log_probs(seeded(seed), 3, 4).to(dtype) for seed in (32, 33))
    assert case(right, other).shape == (3, 4)
    with pytest.raises(ValueError, match=r"student_log_probs must be .* but 12 of 12 rows"):
        case(logits, other)
    for wrong in (logits, right.exp()):  # ProDA #20 and #43: probabilities, not logarithms
        with pytest.raises(ValueError, match=r"teacher_log_probs .* give log_softmax"):
            case(right, wrong)
    for padding in (0.0, -math.inf):
        right[1, 1] = padding
        with pytest.raises(ValueError, match="1 of 12 rows"):
            case(right, other)
    right[1, 1] = math.nan
    assert case(right, other).isnan().nonzero().tolist() == [[1, 1]], "a NaN shows"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [2, 300_000])
def test_log_probabilities_rounded_to_any_precision_are_none_the_less(
    dtype: torch.dtype, vocab: int
) -> None:
    for spread in (0.0, 1.0, 30.0):
        logits = spread * torch.randn(2, vocab, generator=seeded(36))
        rounded = logits.log_softmax(dim=-1).to(dtype)
        for student in (rounded, rounded.float(), logits.bfloat16().log_softmax(dim=-1)):
            assert (forward_kl(student, rounded) < 0.2).all()


def test_nothing_that_depends_on_numbers_is_asked_where_a_graph_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would break the graph. (Under the type checks of these tests none can be compiled.)"""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    logits = torch.randn(3, VOCAB, generator=seeded(37))
    assert forward_kl(logits, logits).shape == (3,)


@pytest.mark.parametrize("head_mass", [0.05, 0.5, 0.97])
def test_long_heads_are_found_whole(head_mass: float) -> None:
    """A flat teacher's head is longer than the likeliest symbols that are ranked at first."""
    logits = 0.01 * torch.randn(2, 3, 700, generator=seeded(5), dtype=torch.float64)
    logits[0] *= 100.0  # so that forward and reverse KL differ
    logits[1, 0] *= 2000.0
    student, teacher = logits.log_softmax(-1)
    expected = oracle_adaptive_kl(student.exp().numpy(), teacher.exp().numpy(), head_mass)
    found = DIVERGENCES["adaptive_kl"].function(student, teacher, head_mass)
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_a_parameter_out_of_its_range_is_refused_by_the_function() -> None:
    log_probs = torch.zeros(1, VOCAB).log_softmax(-1)
    for name in ("adaptive_kl", "jensen_shannon", "skew_forward_kl", "skew_reverse_kl"):
        with pytest.raises(ValueError):
            DIVERGENCES[name].function(log_probs, log_probs, 1.5)
