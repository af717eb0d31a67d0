"""Numbers in text and sums of them, computed exactly: nothing is rounded and no text is executed.

Knows + - * / ( ) and decimals. No exponents and no names, and everything is bounded, so that what
a model wrote cannot cost more than a few microseconds.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_EXPRESSION_LENGTH = 200
"""Longer texts are no expressions."""
MAX_DEPTH = 20
"""Brackets and signs within each other; deeper ones could exhaust the stack."""
MAX_NUMBER_LENGTH = 40
"""Longer numbers, in characters, are no numbers."""
MAX_DECIMALS = 6
"""A value that needs more is not written out by `decimal_text`."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# A minus that follows a number or a closing bracket is a difference: "5-3" holds 5 and 3.
_NUMBER = re.compile(rf"(?<![\w.,])(?:(?<![)\]\d] )(?<![)\]\d])[-−])?[$€£]?(?:{_PLAIN})(?:/\d+)?")
_TOKEN = re.compile(rf"\s*(?:({_PLAIN})|([-+*/()−×÷]))")
_SIGNS = str.maketrans("−×÷", "-*/")


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
    plain = re.sub(r"[,$€£]", "", text.translate(_SIGNS))
    try:
        return Fraction(plain) if "/" not in plain else _quotient(*plain.split("/"))
    except ZeroDivisionError:
        return None


def _quotient(above: str, below: str) -> Fraction:
    return Fraction(above) / Fraction(below)


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression, None where there is none.

    None for anything but + - * / ( ) and decimals, for a division by zero, and for texts or
    numbers beyond the limits above. Products bind before sums, equals from the left.
    """
    tokens = _tokens(expression)
    if not tokens:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.sum()
    except (ZeroDivisionError, _NoExpressionError):
        return None
    return value if parser.is_at_end() else None


def decimal_text(value: Fraction) -> str | None:
    """The value as a plain decimal: `12`, `-0.75`; None where MAX_DECIMALS places cannot hold it.

    `evaluate` of the text is the value again.
    """
    scaled = value * 10**MAX_DECIMALS
    if scaled.denominator != 1:
        return None
    whole, rest = divmod(abs(scaled.numerator), 10**MAX_DECIMALS)
    decimals = f"{rest:0{MAX_DECIMALS}d}".rstrip("0")
    return ("-" if value < 0 else "") + str(whole) + ("." + decimals if decimals else "")


def rounded_text(value: Fraction, *, decimals: int) -> str:
    """The value rounded to so many decimals, ties to the even neighbour: `3.33`, `4`, `4.0`."""
    scaled = round(value * 10**decimals)
    digits = f"{abs(scaled):0{decimals + 1}d}"
    whole, rest = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    return ("-" if scaled < 0 else "") + whole + ("." + rest if rest else "")


class _NoExpressionError(Exception):
    """The tokens are in no order that has a value."""


def _tokens(expression: str) -> list[str]:
    """Numbers and signs; empty where something else stands among them."""
    if len(expression) > MAX_EXPRESSION_LENGTH:
        return []
    tokens, place, text = [], 0, expression.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(match.group()) > MAX_NUMBER_LENGTH:
            return []
        number, sign = match.groups()
        tokens.append(sign.translate(_SIGNS) if sign else number.replace(",", ""))
        place = match.end()
    return tokens


class _Parser:
    """A parser by descent: sum = product (+- product)*, product = factor (*/ factor)*."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    def is_at_end(self) -> bool:
        return self._place == len(self._tokens)

    def sum(self) -> Fraction:
        value = self._product()
        while (sign := self._taken("+-")) is not None:
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while (sign := self._taken("*/")) is not None:
            other = self._factor()
            value = value * other if sign == "*" else value / other
        return value

    def _factor(self) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _NoExpressionError
        value = self._number_or_group()
        self._depth -= 1
        return value

    def _number_or_group(self) -> Fraction:
        sign = self._taken("+-")
        if sign is not None:
            value = self._factor()
            return -value if sign == "-" else value
        if self._taken("(") is not None:
            value = self.sum()
            if self._taken(")") is None:
                raise _NoExpressionError
            return value
        if self.is_at_end() or self._tokens[self._place] in "+-*/()":
            raise _NoExpressionError
        self._place += 1
        return Fraction(self._tokens[self._place - 1])

    def _taken(self, signs: str) -> str | None:
        """The next token, passed over, if it is one of `signs`."""
        if not self.is_at_end() and self._tokens[self._place] in signs:
            self._place += 1
            return self._tokens[self._place - 1]
        return None
