"""Word problems from reasoning-gym's `gsm_symbolic`, their worked steps marked for a calculator.

`9 boxes * $10 = $90 on boxes` becomes `<<9*10=90>> on boxes`. Solutions that hold an equation of
another form (unknowns, chains, brackets) are left out, not repaired.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from random import Random
from typing import Any

from corpora.arithmetic.problems import Problem
from seqdistill.metrics.answers import MARK
from seqdistill.metrics.arithmetic import decimal_text

PACKAGE, VERSION = "reasoning-gym", "0.1.25"
Generator = Callable[[Random, float], dict[str, Any]]

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?"
_UNIT = r"(?:\s?(?!x\b)[A-Za-z][A-Za-z'/-]*){0,4}"
_OPERAND = rf"[$€£]?({_NUMBER})%?{_UNIT}"
_SIGN = r"\s*([-+*/×÷]|x(?=\s))\s*"
_EQUATION = re.compile(
    rf"(?<![\w.,$€£(]){_OPERAND}(?:{_SIGN}{_OPERAND})+\s*=\s*[$€£]?{_NUMBER}(?!\s?/\s?\d|[\d(])"
)
_TERM = re.compile(rf"({_NUMBER})%?{_UNIT}(?:{_SIGN})?")
# What a line says before its only step, where that repeats the question or tells the result.
_LEAD = re.compile(r"^[^<>]*(?:: ?|\bbecause )(?=<<[^<>]*>>[^<>]*$)")
_BULLET = re.compile(r"^\s*(?:[•*-]|\d+\.)\s+")
_WHOLE = re.compile(r"\b(\d+)\.0+\b(?![.\d])")


def load_generators() -> Mapping[int, Generator]:
    """The generators of all templates that the package holds right.

    Raises SystemExit, naming the remedy, without the package or with another version of it.
    """
    try:
        module = importlib.import_module("reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic")
        version = importlib.metadata.version(PACKAGE)
    except ImportError:
        sys.exit(f"This corpus needs the package {PACKAGE}; pip install 'seqdistill[experiments]'.")
    if version != VERSION:
        sys.exit(f"{PACKAGE} must be {VERSION}, so that problems compare, found {version}.")
    dataset = module.GSMSymbolicDataset(module.GSMSymbolicDatasetConfig(seed=0, size=1))
    return {number: dataset.generators[number] for number in module.tasks_ok}


def mark_steps(line: str) -> str | None:
    """The line with every equation as a marked step; None where an equation has another form."""
    marked = _EQUATION.sub(lambda match: _step(match.group()), line)
    return marked if "=" not in re.sub(r"<<[^<>]*>>", "", marked) else None


def _step(equation: str) -> str:
    left, right = equation.split("=")
    expression = ""
    for match in _TERM.finditer(left):
        number, sign = match.groups()
        sign = {"×": "*", "x": "*", "÷": "/"}.get(sign or "", sign or "")
        expression += _plain(number) + sign
    result = re.sub(r"[$€£%\s]", "", right)
    return f"<<{expression}={_plain(result)}>>"


def _plain(number: str) -> str:
    return _WHOLE.sub(r"\1", number.replace(",", ""))


def completion_of(solution: str) -> str | None:
    """A worked solution on one line, every step marked; None where one cannot be.

    Lines without a number say nothing that the steps do not, and go; so does what leads to a step
    with a colon or `because`.
    """
    lines = []
    for line in solution.split(MARK)[0].splitlines():
        marked = mark_steps(_WHOLE.sub(r"\1", _BULLET.sub("", line)).strip())
        if marked is None:
            return None
        if re.search(r"\d", marked):
            marked = _LEAD.sub("", marked)
            lines.append(marked if marked.endswith((".", ":", ";")) else marked + ".")
    return " ".join(" ".join(lines).split())


def word_problem(number: int, generator: Generator, seed: str) -> Problem | None:
    """One problem of a template, the same for the same seed; None where no steps can be marked."""
    made = generator(Random(seed), 1.0)
    steps = completion_of(made["metadata"]["answer_cot"])
    answer = decimal_text(Fraction(str(made["answer"]).replace(",", "")))
    if steps is None or answer is None:
        return None
    prompt = re.sub("[€£]", "$", _WHOLE.sub(r"\1", " ".join(made["question"].split())))
    steps = re.sub("[€£]", "$", steps)
    return Problem(f"words/{number}", prompt, f"{steps} {MARK} {answer}")
