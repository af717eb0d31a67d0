"""A loss of random states and heads in its forms: fused, and with the logits of both models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Literal

import torch
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.jobs.measuring import peak_over_held
from seqdistill.objectives import DIVERGENCES, fused_divergence

Form = Literal["fused", "materialized"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Positions, symbols and the widths of student and teacher."""

    positions: int
    vocab: int
    dim: int
    teacher_dim: int


class LossProblem:
    """Random fp32 states and heads, filled in place so that no freed memory helps either form.

    `materialized` takes both models' logits, `log_softmax`, this package's function of the
    divergence, and `backward`.
    """

    def __init__(self, shape: Shape, device: torch.device | str = "cpu") -> None:
        generator = torch.Generator(device).manual_seed(0)

        def normal(rows: int, dim: int, spread: float) -> Tensor:
            return torch.empty(rows, dim, device=device).normal_(0.0, spread, generator=generator)

        self.shape = shape
        self.hidden = normal(shape.positions, shape.dim, 1.0).requires_grad_()
        self.head = Head(normal(shape.vocab, shape.dim, 0.05).requires_grad_())
        self.teacher_hidden = normal(shape.positions, shape.teacher_dim, 1.0)
        self.teacher_head = Head(normal(shape.vocab, shape.teacher_dim, 0.05))
        self.weights = torch.ones(shape.positions, device=device)

    def run(self, form: Form, name: str, parameters: Mapping[str, float]) -> None:
        """The loss of that form, and its gradients."""
        if form == "materialized":
            self.backward_of(lambda q, p: DIVERGENCES[name].function(q, p, **parameters))
            return
        loss = fused_divergence(
            name,
            self.hidden,
            self.head,
            self.teacher_hidden,
            self.teacher_head,
            weights=self.weights,
            **parameters,  # type: ignore[arg-type]
        )
        torch.autograd.backward(loss.total)

    def backward_of(self, divergence: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Gradients of the sum of a function of the student's and the teacher's log-probs."""
        with torch.no_grad():
            teacher = self.teacher_head.logits(self.teacher_hidden).log_softmax(dim=-1)
        student = self.head.logits(self.hidden).log_softmax(dim=-1)
        torch.autograd.backward((divergence(student, teacher) * self.weights).sum())

    def clear(self) -> None:
        """Forgets the gradients of the last call."""
        self.hidden.grad = None
        self.head.weight.grad = None


def peak_bytes(
    shape: Shape, form: Form, name: str, parameters: Mapping[str, float], device: torch.device
) -> int:
    """Peak bytes of one call over what was held before it; on the CPU in a fresh process."""
    if device.type == "cuda":
        return _peak(shape, form, name, parameters, device)
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        return pool.submit(_peak, shape, form, name, dict(parameters), device).result()


def _peak(
    shape: Shape, form: Form, name: str, parameters: Mapping[str, float], device: torch.device
) -> int:
    # A tiny call first: thread pools and code pages are not the loss's memory.
    LossProblem(Shape(8, 64, 8, 8), device).run(form, name, parameters)
    problem = LossProblem(shape, device)
    return peak_over_held(lambda: problem.run(form, name, parameters), device)
