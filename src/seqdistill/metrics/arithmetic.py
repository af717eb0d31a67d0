"""Numbers in text and sums of them, computed exactly: nothing is rounded and no text is executed.

Knows + - * / ( ) and decimals, all bounded: what a model wrote costs a few microseconds.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

MAX_EXPRESSION_LENGTH = 200
"""Longer texts are no expressions: what is shorter cannot exhaust the stack."""
MAX_NUMBER_LENGTH = 40
"""Longer numbers, in characters, are no numbers."""
MAX_DECIMALS = 6
"""A value that needs more is not written out by `decimal_text`."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# A minus that follows a number or a closing bracket is a difference: "5-3" holds 5 and 3.
_NUMBER = re.compile(rf"(?<![\w.,])(?:(?<![)\]\d] )(?<![)\]\d])[-−])?[$€£]?(?:{_PLAIN})(?:/\d+)?")
_SIGNS = str.maketrans("−×÷", "-*/")
_COMPUTE: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def numbers_in(text: str) -> list[Fraction]:
    """The numbers that stand in the text, in their order, exactly.

    `1,000` is one thousand, `3/4` three quarters, `$5` five, `5.` at the end of a sentence five.
    Whatever is longer than MAX_NUMBER_LENGTH or divided by zero is no number.
    """
    found = (_number(match.group()) for match in _NUMBER.finditer(text))
    return [number for number in found if number is not None]


def _number(text: str) -> Fraction | None:
    if len(text) > MAX_NUMBER_LENGTH:
        return None
    above, _, below = re.sub(r"[,$€£]", "", text.translate(_SIGNS)).partition("/")
    try:
        return Fraction(above) / Fraction(below or 1)
    except ZeroDivisionError:
        return None


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression, None where there is none.

    None for anything but + - * / ( ) and decimals, for a division by zero, and for texts or
    numbers beyond the limits above. Products bind before sums, equals from the left.
    """
    text = " ".join(expression.translate(_SIGNS).split())
    if len(expression) > MAX_EXPRESSION_LENGTH or not re.fullmatch(r"[-+*/() \d.,]+", text):
        return None
    numbers: list[str] = []

    def name(match: re.Match[str]) -> str:
        numbers.append(match.group().replace(",", ""))
        return f" n{len(numbers) - 1} "

    # Numbers become names, since Python would read 0.1 inexactly and 007 not at all.
    named = re.sub(_PLAIN, name, text)
    if max(map(len, numbers), default=0) > MAX_NUMBER_LENGTH:
        return None
    try:
        return _value(ast.parse(named.strip(), mode="eval").body, [Fraction(n) for n in numbers])
    except (SyntaxError, ZeroDivisionError):
        return None


def _value(node: ast.expr, numbers: list[Fraction]) -> Fraction:
    match node:
        case ast.Name(name):
            return numbers[int(name.removeprefix("n"))]
        case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
            value = _value(operand, numbers)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left, sign, right) if type(sign) in _COMPUTE:
            return _COMPUTE[type(sign)](_value(left, numbers), _value(right, numbers))
    raise SyntaxError("no expression")


def decimal_text(value: Fraction) -> str | None:
    """The value as a plain decimal: `12`, `-0.75`; None where MAX_DECIMALS places cannot hold it.

    `evaluate` of the text is the value again.
    """
    text = rounded_text(value, decimals=MAX_DECIMALS)
    return text.rstrip("0").rstrip(".") if Fraction(text) == value else None


def rounded_text(value: Fraction, *, decimals: int) -> str:
    """The value rounded to so many decimals, ties to the even neighbour: `3.33`, `4`, `4.0`."""
    scaled = round(value * 10**decimals)
    digits = f"{abs(scaled):0{decimals + 1}d}"
    point = len(digits) - decimals
    return ("-" if scaled < 0 else "") + digits[:point] + ("." + digits[point:] if decimals else "")
