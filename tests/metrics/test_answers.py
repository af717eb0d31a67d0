"""Exact arithmetic on what models write, and final answers: held against Python's own fractions."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from seqdistill.core.errors import DataError
from seqdistill.metrics.answers import answer_accuracy, same_answer
from seqdistill.metrics.arithmetic import decimal_text, evaluate, numbers_in, rounded_text


def test_expressions_have_the_value_that_python_gives_fractions() -> None:
    draw = random.Random(1)
    undefined = 0

    def expression(depth: int) -> str:
        if depth == 0 or draw.random() < 0.2:
            return draw.choice(["7", "12", "0", "3.5", "0.25", "-4"])
        text = f"{expression(depth - 1)} {draw.choice('+-*/')} {expression(depth - 1)}"
        return f"({text})" if draw.random() < 0.4 else text

    for _ in range(1000):
        text = expression(draw.randint(1, 4))[:200]
        try:
            value = eval(re.sub(r"[\d.]+", r"Fraction('\g<0>')", text))
        except (ZeroDivisionError, SyntaxError):
            value = None
            undefined += 1
        assert evaluate(text) == value, text
    assert undefined > 0
    assert evaluate("3 × 4 ÷ 2 − 1") == 5
    assert evaluate("1,000 + 0.5") == Fraction("1000.5")


@pytest.mark.parametrize(
    "text",
    ["", " ", "3 +", "* 3", "(3", "3)", "()", "3 4", "2**3", "2//3", "2^3", "1e9", "x + 1", "1,2",
     "__import__('os')", "n0", "1/0", "5/(3-3)", "9" * 41, "1+" * 150 + "1", "1.2.3", "1 . 2"],
)  # fmt: skip
def test_what_is_no_bounded_expression_has_no_value(text: str) -> None:
    assert evaluate(text) is None


def test_deep_brackets_cannot_exhaust_the_stack() -> None:
    for text in ("(" * 99 + "1" + ")" * 99, "-" * 198 + "1"):
        assert evaluate(text) == 1
    for signs in ("(", "-", "(-"):
        assert evaluate(signs * 5000) is evaluate(signs * (200 // len(signs))) is None


def test_decimals_are_written_exactly_or_not_at_all() -> None:
    draw = random.Random(2)
    for _ in range(300):
        value = Fraction(draw.randint(-(10**9), 10**9), draw.choice([1, 2, 5, 8, 1000, 10**6]))
        text = decimal_text(value)
        assert text is not None
        assert evaluate(text) == value
    assert decimal_text(Fraction(1, 3)) is None
    assert decimal_text(Fraction(1, 10**7)) is None
    assert decimal_text(Fraction(-0)) == "0"


@pytest.mark.parametrize("decimals", [0, 1, 2, 3])
def test_rounding_is_that_of_pythons_fractions(decimals: int) -> None:
    draw = random.Random(decimals)
    for _ in range(200):
        value = Fraction(draw.randint(-9999, 9999), draw.randint(1, 50))
        text = rounded_text(value, decimals=decimals)
        assert Fraction(text) == Fraction(round(value * 10**decimals), 10**decimals)
        assert len(text.partition(".")[2]) == decimals


def test_numbers_are_found_as_people_write_them() -> None:
    text = "He paid $1,250.50 for 3/4 of 12 boxes, 5-3 left, -7 owed, .5 over, v2, 1/0 and 18."
    expected = ["1250.5", "3/4", "12", "5", "3", "-7", "1/2", "18"]
    assert numbers_in(text) == [Fraction(number) for number in expected]
    assert numbers_in("5 - 3 = 2, (4)-1, 3 -4") == [5, 3, 2, 4, 1, 3, 4]
    assert numbers_in("x = -3") == [-3]
    assert numbers_in("9" * 5000) == []


@pytest.mark.parametrize(
    ("output", "reference", "same"),
    [
        ("so 66.0", "#### 66", True),
        ("#### 1,000", "#### 1000", True),
        ("#### 2/4", "it is 0.5", True),
        ("#### $18.", "#### 18", True),
        ("#### 18 dollars of 20", "#### 18", True),
        ("#### 1\n#### 2", "#### 2", True),
        ("#### 5\nI mean 6", "#### 5", True),
        ("3 + 4 = 7", "#### 7", True),
        ("#### Yes.", "#### yes", True),
        ("#### no", "#### yes", False),
        ("#### 1/3", "#### 0.333333", False),
        ("#### 7 8", "#### 8", False),
        ("####", "#### 8", False),
        ("", "#### 0", False),
        ("0.0", "#### 0", True),
        ("#### -4", "#### 4", False),
        ("no number at all", "#### 4", False),
        ("first 3, then #### 4 and later 5", "4", True),
    ],
)
def test_answers_compare_as_numbers_and_words_as_words(
    output: str, reference: str, same: bool
) -> None:
    assert same_answer(output, reference) == same


def test_accuracy_is_the_share_of_right_answers_and_its_rows_add_up() -> None:
    found = answer_accuracy(["#### 1", "2", "x", "4"], ["#### 1", "#### 2", "#### 3", "#### 5"])
    assert found.score().value == 50.0
    assert found.rows[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert "####" in found.signature
    with pytest.raises(DataError, match="'no answer here' has none"):
        answer_accuracy(["#### 1"], ["no answer here"])
