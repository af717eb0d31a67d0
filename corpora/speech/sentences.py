"""Short spoken commands, sums and numbers, from a grammar of some hundred and fifty words."""

from __future__ import annotations

import random
from collections.abc import Callable


def _words(text: str) -> list[str]:
    return text.split()


_ONES = _words("zero one two three four five six seven eight nine")
_TEENS = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_ROOMS = [
    "kitchen",
    "bedroom",
    "bathroom",
    "hallway",
    "garage",
    "garden",
    "office",
    "attic",
    "cellar",
    "balcony",
]
_SWITCHED = _words("light lamp fan heater radio oven kettle pump")
_OPENED = _words("window door gate blind curtain drawer")
_NAMES = _words("anna peter maria david laura simon clara thomas julia martin")
_THINGS = [
    "apples",
    "bottles",
    "letters",
    "chairs",
    "tickets",
    "candles",
    "flowers",
    "books",
    "stamps",
    "plates",
]
_COLOURS = _words("red green blue yellow white black purple orange")
_MUSIC = _words("jazz piano guitar dance choir")
_DAYS = _words("monday tuesday wednesday thursday friday saturday sunday")


def number(draw: random.Random) -> str:
    """From zero to ninety nine, in words."""
    value = draw.randrange(100)
    if value < 20:
        return (_ONES + _TEENS)[value]
    ten, one = divmod(value, 10)
    return _TENS[ten - 2] + (f" {_ONES[one]}" if one else "")


def _digits(draw: random.Random) -> str:
    return " ".join(draw.choices(_ONES, k=5))


_FORMS: tuple[Callable[[random.Random], str], ...] = (
    lambda d: f"turn {d.choice(['on', 'off'])} the {d.choice(_ROOMS)} {d.choice(_SWITCHED)}",
    lambda d: f"{d.choice(['open', 'close', 'lock'])} the {d.choice(_ROOMS)} {d.choice(_OPENED)}",
    lambda d: f"set the {d.choice(_ROOMS)} {d.choice(_SWITCHED)} to {number(d)}",
    lambda d: f"make the {d.choice(_ROOMS)} {d.choice(_SWITCHED)} {d.choice(_COLOURS)}",
    lambda d: f"what is {number(d)} {d.choice(['plus', 'minus', 'times'])} {number(d)}",
    lambda d: f"tell {d.choice(_NAMES)} to bring {number(d)} {d.choice(_THINGS)}",
    lambda d: f"call {d.choice(_NAMES)} on {d.choice(_DAYS)} at {number(d)}",
    lambda d: f"play {d.choice(_MUSIC)} music for {d.choice(_NAMES)} in the {d.choice(_ROOMS)}",
    lambda d: f"{d.choice(_NAMES)} has {number(d)} {d.choice(_COLOURS)} {d.choice(_THINGS)}",
    lambda d: f"my number is {_digits(d)}",
)


def sentence(draw: random.Random) -> str:
    """One of them."""
    return draw.choice(_FORMS)(draw)
