"""The problem: a prompt, worked steps with marks, and what tells it from others. Generates none."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from seqdistill.metrics.answers import MARK, final_answer
from seqdistill.metrics.arithmetic import evaluate

STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
PIECE = re.compile(r"[A-Za-z']+|\d|<<|>>|####|[^\sA-Za-z\d]")
MAX_PIECES = 140
"""Of prompt and completion together: fits a small model of 192 positions in any vocabulary."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prompt, its completion, and the template that both were made from."""

    template: str
    """`words/17` or `chain/n+n*n`."""
    prompt: str
    completion: str
    """Ends with `#### answer`; every computation stands as `<<expression=result>>`."""

    @property
    def key(self) -> str:
        """The template and the numbers of the prompt: the same sum under other names."""
        return f"{self.template}:{' '.join(re.findall(r'[0-9./]+', self.prompt))}"


def count_pieces(problem: Problem) -> int:
    """Words, signs and single digits of both sides: near the tokens of a small vocabulary."""
    return len(PIECE.findall(f"{problem.prompt} {problem.completion}"))


def reason_to_drop(problem: Problem) -> str | None:
    """The name of the first rule that the problem breaks, None if it breaks none."""
    steps = STEP.findall(problem.completion)
    if not steps:
        return "no step"
    results = [Fraction(result) for _, result in steps]
    values = [evaluate(expression) for expression, _ in steps]
    if values != results:
        return "a step is wrong"
    if final_answer(problem.completion) != results[-1] or MARK not in problem.completion:
        return "the last step is not the answer"
    if results[-1] < 0:
        return "negative answer"
    if any(len(number) > 4 for number in re.findall(r"\.(\d+)", problem.completion)):
        return "long decimals"
    if count_pieces(problem) > MAX_PIECES:
        return "length"
    return None
