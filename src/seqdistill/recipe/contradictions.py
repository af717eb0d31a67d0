"""The form in which the modules of checks report, and what they share. Checks nothing itself."""

from __future__ import annotations

from collections.abc import Iterator

from seqdistill.recipe.sections import Number, Section

Findings = Iterator[tuple[str, str]]
"""Keys, as users write them, each with a sentence that goes on from the key."""


def shown(value: object) -> str:
    """The value as users write it."""
    if isinstance(value, (tuple, list)):
        return str(list(value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def changed(section: Section, *, but: tuple[str, ...] = ()) -> list[str]:
    """The names of the settings in a section that are not at their defaults."""
    fields = type(section).model_fields
    return [
        name
        for name, field in fields.items()
        if name not in but and getattr(section, name) != field.default
    ]


def number_findings(key: str, number: Number, *, least: float, most: float) -> Findings:
    """A number with an end outside [least, most], or whose shape cannot join its ends."""
    for end in number.ends:
        if not least <= end <= most:
            bounds = f"at least {least:g}" if most == float("inf") else f"in [{least:g}, {most:g}]"
            yield key, f"must be {bounds}, got {number}; give a number in that range"
            return
    if number.shape == "adaptive" and not key.endswith("student_fraction"):
        yield (
            key,
            f"must change with the updates alone, got {number}; take the shape linear or "
            "exponential, adaptive is for sequences.mixture.student_fraction",
        )
    if number.shape == "exponential" and min(number.ends) <= 0.0:
        yield (
            key,
            f"must have positive ends to be exponential, got {number}; take shape: linear, or a "
            "small positive end",
        )
    if number.shape == "complement_exponential" and max(number.ends) >= 1.0:
        yield (
            key,
            f"must have ends below 1 to be complement_exponential, got {number}; take for "
            "example 0.995",
        )
