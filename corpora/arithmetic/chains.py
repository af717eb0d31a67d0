"""Sums of whole numbers, reduced a step at a time, in any of the orders that are right.

A shape such as `n+(n-n)*n` is a template; numbers are drawn for it. At each step one of the valid
reductions is drawn, so a prompt has many right completions. No intermediate result is negative.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from random import Random

from corpora.arithmetic.problems import Problem
from seqdistill.metrics.answers import MARK

PHRASES = ("Compute {}.", "What is {}?", "Evaluate {}.", "Work out {}.", "Find {}.")
NUM_OPERANDS = (3, 4, 5)
MAX_RESULT = 9999
MAX_TRIES = 200


@dataclasses.dataclass(frozen=True)
class Sum:
    """Signed products; a factor is a number or a sum in brackets."""

    terms: tuple[tuple[int, tuple[int | Sum, ...]], ...]

    def __str__(self) -> str:
        text = ""
        for place, (sign, factors) in enumerate(self.terms):
            written = " * ".join(f"({f})" if isinstance(f, Sum) else str(f) for f in factors)
            text += written if place == 0 else f" {'+' if sign > 0 else '-'} {written}"
        return text

    @property
    def number(self) -> int | None:
        """The number that it has come down to, if it has."""
        (_, factors), *others = self.terms
        first = factors[0]
        return first if not others and len(factors) == 1 and isinstance(first, int) else None


Reduction = tuple[str, Sum]
"""A step such as `<<3*4=12>>` and what is left after it."""


def reductions(whole: Sum) -> Iterator[Reduction]:
    """Every valid next step: within a product, within brackets, between neighbours in a sum."""
    for place, (sign, factors) in enumerate(whole.terms):
        for step, rest in _within_product(factors):
            yield step, _replaced(whole, place, 1, (sign, rest))
    for place in range(len(whole.terms) - 1):
        combined = _neighbours(whole, place)
        if combined is not None:
            step, term = combined
            yield step, _replaced(whole, place, 2, term)


def _replaced(whole: Sum, place: int, width: int, term: tuple[int, tuple[int | Sum, ...]]) -> Sum:
    return Sum((*whole.terms[:place], term, *whole.terms[place + width :]))


def _within_product(
    factors: tuple[int | Sum, ...],
) -> Iterator[tuple[str, tuple[int | Sum, ...]]]:
    for place, factor in enumerate(factors):
        if isinstance(factor, Sum):
            for step, left in reductions(factor):
                inner = left if left.number is None else left.number
                yield step, (*factors[:place], inner, *factors[place + 1 :])
    for place, (first, second) in enumerate(itertools.pairwise(factors)):
        if isinstance(first, int) and isinstance(second, int):
            product = first * second
            yield (
                f"<<{first}*{second}={product}>>",
                (*factors[:place], product, *factors[place + 2 :]),
            )


def _neighbours(whole: Sum, place: int) -> tuple[str, tuple[int, tuple[int]]] | None:
    """Two neighbouring numbers of a sum as one; None where they are not numbers yet.

    Also None where the sum would begin with a minus.
    """
    (sign, first_factors), (other_sign, second_factors) = whole.terms[place : place + 2]
    if len(first_factors) > 1 or len(second_factors) > 1:
        return None
    first, second = first_factors[0], second_factors[0]
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    if sign == other_sign:
        return f"<<{first}+{second}={first + second}>>", (sign, (first + second,))
    larger, smaller = max(first, second), min(first, second)
    new_sign = sign if first >= second else other_sign
    if place == 0 and new_sign < 0:
        return None
    return f"<<{larger}-{smaller}={larger - smaller}>>", (new_sign, (larger - smaller,))


def shapes() -> list[str]:
    """All shapes, in a fixed order: flat ones, and those with one pair of brackets in a product."""
    flat = [
        "n" + "".join(f"{sign}n" for sign in signs)
        for count in NUM_OPERANDS
        for signs in itertools.product("+-*", repeat=count - 1)
        if "**" not in "".join(signs)
    ]
    bracketed = [
        shape[:place] + f"(n{sign}n)" + shape[place + 1 :]
        for shape in flat
        if shape.count("n") < max(NUM_OPERANDS)
        for place, sign in itertools.product(range(0, len(shape), 2), "+-")
        if "*" in shape[max(place - 1, 0) : place + 2]
    ]
    return flat + bracketed


def draw_sum(shape: str, draw: Random) -> Sum:
    """The shape with numbers: up to 99, now and then 999, where added; smaller where multiplied."""
    terms: list[tuple[int, tuple[int | Sum, ...]]] = []
    sign = 1
    for part in _split_at_signs(shape):
        if part in ("+", "-"):
            sign = 1 if part == "+" else -1
            continue
        factors = part.replace("(n+n)", "A").replace("(n-n)", "S").split("*")
        small = draw.randrange(len(factors))
        terms.append(
            (sign, tuple(_factor(f, draw, len(factors), i == small) for i, f in enumerate(factors)))
        )
    return Sum(tuple(terms))


def _split_at_signs(shape: str) -> list[str]:
    """Products and the signs between them; brackets stay whole."""
    masked = shape.replace("(n+n)", "A").replace("(n-n)", "S")
    return masked.replace("+", " + ").replace("-", " - ").split()


def _factor(kind: str, draw: Random, num_factors: int, small: bool) -> int | Sum:
    if kind != "n":
        sign = 1 if kind == "A" else -1
        return Sum(((1, (draw.randint(12, 60),)), (sign, (draw.randint(2, 39),))))
    if num_factors > 1:
        return draw.randint(2, 12) if small else draw.randint(11, 79)
    return draw.randint(100, 999) if draw.random() < 0.3 else draw.randint(2, 99)


def chain_problem(shape: str, seed: str) -> Problem | None:
    """One problem of a shape, the same for the same seed; None where no numbers were found.

    Numbers are drawn again until some order of steps stays between 0 and MAX_RESULT.
    """
    draw = Random(seed)
    for _ in range(MAX_TRIES):
        whole = draw_sum(shape, draw)
        steps = _worked(whole, draw)
        if steps is not None:
            prompt = draw.choice(PHRASES).format(whole)
            return Problem(f"chain/{shape}", prompt, steps)
    return None


def _worked(whole: Sum, draw: Random) -> str | None:
    """Steps in a drawn order, down to the answer; None at a dead end."""
    written = []
    while whole.number is None:
        found = list(reductions(whole))
        if not found:
            return None
        step, whole = draw.choice(found)
        if int(step[2:-2].split("=")[1]) > MAX_RESULT:
            return None
        written.append(step if whole.number is not None else f"{step} {whole}")
    return f"{'; '.join(written)} {MARK} {whole.number}"
