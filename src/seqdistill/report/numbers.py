"""Numbers as people read them. The only place where a number becomes text.

A missing number is an en dash everywhere. Does not know what the numbers mean.
"""

from __future__ import annotations

import json
import math

from seqdistill.records.atomic import JsonValue
from seqdistill.records.results import Value

MISSING = "–"
MINUS = "−"
THIN = "\u202f"  # narrow no-break space, between a number and its unit
HARD = "\u00a0"  # no-break space


def fixed(value: float | None, places: int = 1) -> str:
    """With so many decimals and a real minus sign: `31.7`."""
    return MISSING if value is None else f"{value:,.{places}f}".replace("-", MINUS)


def significant(value: float | None, figures: int = 3) -> str:
    """With so many figures, of what may be of any size: `0.0123`, `4.57`, `1,235`."""
    if value is None:
        return MISSING
    if value == 0.0 or not math.isfinite(value):
        return fixed(value, 0)
    # Of the rounded value: 9.996 has one figure more before its point.
    rounded = float(f"{value:.{figures - 1}e}")
    places = figures - 1 - math.floor(math.log10(abs(rounded)))
    return fixed(rounded, min(max(places, 0), 6))


def plain(value: float) -> str:
    """As short as it is exact, of a setting such as a temperature: `0.5`, `1`."""
    return f"{value:g}"


def signed(value: float | None, places: int = 1) -> str:
    """With its sign, also when positive: `+2.5`; what rounds to zero is `±0.0`."""
    if value is None:
        return MISSING
    text = f"{abs(value):,.{places}f}"
    if float(text.replace(",", "")) == 0.0:
        return f"±{text}"
    return f"+{text}" if value > 0 else f"{MINUS}{text}"


def interval(low: float | None, high: float | None, places: int = 1) -> str:
    """`30.6 to 32.8`; empty when an end is missing."""
    if low is None or high is None:
        return ""
    return f"{fixed(low, places)} to {fixed(high, places)}"


def with_interval(value: Value) -> str:
    """`31.7 (30.6 to 32.8)`."""
    span = interval(value.low, value.high)
    return f"{fixed(value.value)} ({span})" if span else fixed(value.value)


def percent(fraction: float | None) -> str:
    """A fraction as percent: whole from 10 %, one decimal below, `< 0.1 %` for less."""
    if fraction is None:
        return MISSING
    value = 100.0 * fraction
    if 0.0 < value < 0.1:
        return f"<{THIN}0.1{THIN}%"
    places = 0 if round(value, 1) >= 10.0 or value == 0.0 else 1
    return f"{value:.{places}f}{THIN}%"


def times(ratio: float | None) -> str:
    """A factor with two figures: `5.1×`, `0.45×`, `12×`."""
    if ratio is None:
        return MISSING
    if ratio >= 9.95:
        return f"{ratio:,.0f}×"
    return f"{ratio:.1f}×" if ratio >= 0.995 else f"{ratio:.2f}×"


def count(value: float | int | None) -> str:
    """A whole number, shortened from a million on: `11.9 M`."""
    if value is None:
        return MISSING
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{_three_figures(value / size)}{THIN}{unit}"
    return f"{value:,.0f}"


def size(num_bytes: float | int | None) -> str:
    """Bytes in decimal units: `10.6 MB`."""
    if num_bytes is None:
        return MISSING
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= step:
            return f"{_three_figures(num_bytes / step)}{THIN}{unit}"
    return f"{num_bytes:.0f}{THIN}B"


def rate(value: float | None) -> str:
    """Words per second: whole, or with one decimal below ten."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 10.0 else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """`3.1 s`, `1 min 38 s`, `2 h 05 min`."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{THIN}h {minutes:02d}{THIN}min"


def p_value(value: float) -> str:
    """`p = 0.012`, `p < 0.001`, with no more figures than resampling gives."""
    if value < 0.0005:
        return f"p{HARD}<{HARD}0.001"
    return f"p{HARD}={HARD}{value:.3f}" if value < 0.0995 else f"p{HARD}={HARD}{value:.2f}"


def fact(name: str, value: JsonValue) -> str:
    """A value of the manifest: sizes in bytes as sizes, texts as they are, the rest as JSON."""
    if isinstance(value, str):
        return value
    if name.endswith("_bytes") and isinstance(value, (int, float)):
        return size(float(value))
    return json.dumps(value, ensure_ascii=False)


def _three_figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"
