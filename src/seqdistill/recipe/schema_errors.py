"""What pydantic found wrong with single values, as sentences for the person who typed them.

Each has the place, the key, what must hold, what was found and what to do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from seqdistill.core.errors import did_you_mean
from seqdistill.recipe.documents import KeyPath, Settings, dotted
from seqdistill.recipe.spelling import known_keys, unknown_key_advice
from seqdistill.recipe.unions import plain_errors

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a section of keys",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]"
_TOO_LARGE = 10**18
MOST_COMPLAINTS = 100
"""Advice on a misspelt key takes milliseconds, and nobody reads more wrong values than that."""


def schema_complaints(error: ValidationError, settings: Settings) -> list[str]:
    """One sentence for each wrong value, in the order of the schema."""
    found = plain_errors(error)[:MOST_COMPLAINTS]
    inner = [details["loc"] for details in found]
    sentences = [
        _complaint(details, settings)
        for details in found
        if details["type"] != "too_short"  # also raised when an item that is there is wrong
        or not any(path[:-1][: len(details["loc"])] == details["loc"] for path in inner)
    ]
    return list(dict.fromkeys(sentences))


def odd_values(found: object, used: object, *, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """One sentence for each value that no setting can have, whatever its type.

    True or false read as a number, numbers that are not finite or that no counter holds, characters
    that no file's name has. `found` are the values as given and `used` the recipe's, as nested
    mappings and lists.
    """
    if isinstance(found, dict) and isinstance(used, dict):
        for key in (key for key in found if key in used):
            yield from odd_values(found[key], used[key], path=(*path, key))
    elif isinstance(found, list) and isinstance(used, (list, tuple)):
        for position, (inner, inner_used) in enumerate(zip(found, used, strict=True)):
            yield from odd_values(inner, inner_used, path=(*path, position))
    elif isinstance(found, bool) and not isinstance(used, bool):
        yield path, f"must be a number, got {str(found).lower()}; write the number"
    elif isinstance(used, float) and not math.isfinite(used):
        yield path, f"must be a finite number, got {used}; write a number"
    elif isinstance(used, int) and abs(used) >= _TOO_LARGE:
        yield path, "must be a number of at most 18 digits, got a larger one; lower it"
    elif isinstance(used, str) and (bad := re.search(_CONTROL, used)) is not None:
        yield path, f"must be plain text, got one with {bad[0]!a} in it; remove the character"


def located(path: KeyPath, sentence: str, settings: Settings) -> str:
    """The sentence about the key at `path`, after the file and line of the key where known."""
    place = settings.place_of(path)
    return f"{dotted(path)} {sentence}" if place is None else f"{place}: {dotted(path)} {sentence}"


def _complaint(details: ErrorDetails, settings: Settings) -> str:
    path: KeyPath = details["loc"]
    if path[:2] == ("student", "architecture") and len(path) > 2:
        path = path[:3]  # one sentence instead of one for each kind of value that it is not
        needed = "must be text, a number, or true or false"
        return located(path, f"{needed}, got {_shown(details['input'])}; simplify it", settings)
    return located(path, _sentence(details, path), settings)


def _sentence(details: ErrorDetails, path: KeyPath) -> str:
    kind, found = details["type"], _shown(details["input"])
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        advice = context.get("advice") or unknown_key_advice(path)
        return f"is an unknown key; {advice}"
    if kind == "missing":
        return f"must be given, got {found} without it; add it"
    if kind == "literal_error":
        names = str(context["expected"])
        hint = did_you_mean(
            str(details["input"]), names.replace("'", "").replace(" or ", ", ").split(", ")
        )
        return f"must be {names}, got {found}; take one of them.{hint}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"must be {words} {context[bound]:g}, got {found}; give a number in that range"
    if kind == "too_short":
        return f"must have at least {context['min_length']} item, got {found}; give one"
    if kind == "int_from_float":
        return f"must be a whole number, got {found}; leave out the fraction"
    if kind == "number_or_schedule":
        return f"must be {details['msg']}, got {found}; write one of the two"
    family = kind.rsplit("_", 1)[0].removesuffix("_attributes")
    if family in _KINDS:
        advice = "quote it" if family == "string" else f"write {_KINDS[family]}"
        if family == "model" and known_keys(path):
            advice = f"write keys below it: {', '.join(known_keys(path))}"
        return f"must be {_KINDS[family]}, got {found}; {advice}"
    return f"is not valid ({details['msg']}), got {found}; change it"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
