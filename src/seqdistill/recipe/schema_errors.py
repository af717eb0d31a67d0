"""What is wrong with single keys and values, as sentences for the person who typed them.

Each has the place, the key, what must hold, what was found and what to do. Here are also the names
that users of HF Trainer and TRL know a setting by: they are translated, or refused where they could
mean two settings.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from seqdistill.core.errors import did_you_mean
from seqdistill.core.families import DIVERGENCES, FEATURES, TOKEN_WEIGHTS
from seqdistill.core.registry import Member, Registry
from seqdistill.recipe.documents import KeyPath, Settings, dotted
from seqdistill.recipe.objective_schema import Feature, Term, Weighing
from seqdistill.recipe.schema import Recipe, TeacherMember, TeacherSection
from seqdistill.recipe.sections import Section

ALIASES: dict[str, KeyPath] = {
    "model_name_or_path": ("student", "model"),
    "student_model_name_or_path": ("student", "model"),
    "teacher_model_name_or_path": ("teacher", "model"),
    "dataset_name": ("data", "train"),
    "train_file": ("data", "train"),
    "validation_file": ("data", "dev"),
    "test_file": ("data", "test"),
    "learning_rate": ("training", "learning_rate"),
    "lr_scheduler_type": ("training", "schedule"),
    "max_steps": ("training", "steps"),
    "warmup_steps": ("training", "warmup_steps"),
    "gradient_accumulation_steps": ("training", "gradient_accumulation_steps"),
    "weight_decay": ("training", "weight_decay"),
    "max_grad_norm": ("training", "max_grad_norm"),
    "adam_beta1": ("training", "adam_beta1"),
    "adam_beta2": ("training", "adam_beta2"),
    "eval_steps": ("training", "eval_every"),
    "save_steps": ("training", "checkpoint_every"),
    "logging_steps": ("training", "log_every"),
    "beta": ("objective", "terms", 0, "beta"),
    "lmbda": ("sequences", "mixture", "student_fraction"),
}
"""Top-level names and what they set; `beta` is that of the first term."""

AMBIGUOUS = {
    "temperature": "objective.loss_temperature (divides logits in the loss) or "
    "sequences.decoding.sampling_temperature (the teacher's sampler) or "
    "sequences.rollouts.sampling_temperature (the student's sampler)",
    "lr": "training.learning_rate",
    "trust_remote_code": "teacher.trust_remote_code or student.trust_remote_code",
    "num_beams": "sequences.decoding.beam_size (the teacher's) or evaluation.beam_size",
    "num_train_epochs": "training.steps (optimizer steps; there are no epochs)",
    "per_device_train_batch_size": "training.batch_tokens (batches are counted in tokens)",
    "max_new_tokens": "sequences.decoding.max_new_tokens (the teacher's), "
    "sequences.rollouts.max_new_tokens (the student's) or evaluation.max_new_tokens",
}
"""Names from elsewhere that have no single or no equal setting here, and what to write instead."""


def unknown_key_advice(path: KeyPath) -> str:
    """What to write instead of the unknown key at `path`: the closest name, or those there are."""
    name = str(path[-1])
    if len(path) == 1 and name in AMBIGUOUS:
        return f"write {AMBIGUOUS[name]}"
    siblings = known_keys(path[:-1])
    elsewhere = [known for known in all_keys() if known[-1] == name]
    if not difflib.get_close_matches(name, siblings, n=1, cutoff=0.8) and len(elsewhere) == 1:
        return f"did you mean {dotted(elsewhere[0])!r}?"
    if (advice := _closest(path, siblings)) is not None:
        return advice
    far = difflib.get_close_matches(name, [str(known[-1]) for known in all_keys()], n=1, cutoff=0.8)
    if far:
        return f"did you mean {' or '.join(dotted(k) for k in all_keys() if k[-1] == far[0])!r}?"
    return f"known here: {', '.join(siblings)}"


def known_keys(path: KeyPath) -> list[str]:
    """The names of the settings in the section at `path`; none where that is no section."""
    section: type[BaseModel] | None = Recipe
    for part in path:
        if isinstance(part, int) or section is None:
            continue  # a position in a list: the items' section was entered with the list's name
        field = section.model_fields.get(part)
        if section is TeacherSection and part == "model":
            section = TeacherMember  # where there are several
        else:
            section = None if field is None else section_of(field)
    return [] if section is None else list(section.model_fields)


@functools.cache
def all_keys() -> tuple[KeyPath, ...]:
    """The paths of all settings that are no sections, items of lists left out."""

    def below(section: type[BaseModel], path: KeyPath) -> list[KeyPath]:
        found: list[KeyPath] = []
        for name, field in section.model_fields.items():
            inner = section_of(field)
            if inner is None or is_list(field):
                found.append((*path, name))
            else:
                found.extend(below(inner, (*path, name)))
        return found

    return tuple(below(Recipe, ()))


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, alone or as the items of its tuple; None for values."""
    annotation = field.annotation
    for annotated in (annotation, *get_args(annotation)):
        candidate = getattr(annotated, "__origin__", annotated)  # of Annotated[Term, ...]
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def is_list(field: FieldInfo) -> bool:
    """Whether a field holds several values in order."""
    return getattr(field.annotation, "__origin__", None) is tuple


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
    if kind == "too_long":
        return f"must have at most {context['max_length']} items, got {found}; remove the rest"
    if kind == "rising":
        return f"must be two numbers, the lower one first, got {found}; write them so"
    if kind == "int_from_float":
        return f"must be a whole number, got {found}; leave out the fraction"
    if kind == "server_address":  # which may hold a password
        return f"must be {details['msg']}, got another; write one"
    if kind in ("number_or_schedule", "layer_map"):
        return f"must be {details['msg']}, got {found}; write one of them"
    family = kind.rsplit("_", 1)[0].removesuffix("_attributes")
    if family in _KINDS:
        advice = "quote it" if family == "string" else f"write {_KINDS[family]}"
        if family == "model" and known_keys(path):
            advice = f"write keys below it: {', '.join(known_keys(path))}"
        return f"must be {_KINDS[family]}, got {found}; {advice}"
    reason = details["msg"].removeprefix("Value error, ")  # pydantic's own words before a reason
    return f"is not valid ({reason}), got {found}; change it"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


_TAGGED: dict[str, tuple[str, Registry[Any]]] = {
    "terms": ("divergence", DIVERGENCES),
    "token_weights": ("kind", TOKEN_WEIGHTS),
    "features": ("match", FEATURES),
}
"""Lists of such sections: the key that names the member, and its family."""
_SHARED: dict[str, type[Section]] = {"divergence": Term, "kind": Weighing, "match": Feature}
"""What their sections have whatever the member."""


def plain_errors(error: ValidationError) -> list[ErrorDetails]:
    """Pydantic's errors with paths as users write them, and what a wrong or missing name means."""
    return [_plain(details) for details in error.errors()]


def _plain(details: ErrorDetails) -> ErrorDetails:
    if details["type"] == "schedule" and (inner := details["ctx"]["inner"])["loc"]:
        details = _inside(details["loc"], inner)
    path: list[int | str] = []
    family: tuple[str, Registry[Any]] | None = None
    tag: str | None = None
    for part in details["loc"]:
        if family is not None and tag is None and path and isinstance(path[-1], int):
            tag = str(part)  # pydantic's own: the member, which no recipe writes here
            continue
        if part in _TAGGED:
            family, tag = _TAGGED[str(part)], None
        path.append(part)
    if path[:2] == ["teacher", "model"] and path[2:3] in (["one"], ["several"]):
        del path[2]  # likewise: which of the two forms it has
    found: dict[str, Any] = {**details, "loc": tuple(path)}
    if family is None:
        return cast(ErrorDetails, found)
    key, registry = family
    if details["type"] == "union_tag_not_found":
        found |= {"type": "missing", "loc": (*path, key)}
    elif details["type"] == "union_tag_invalid":
        context = details["ctx"]
        found |= {
            "type": "literal_error",
            "loc": (*path, key),
            "input": context["tag"],
            "ctx": {"expected": ", ".join(registry)},
        }
    elif details["type"] == "extra_forbidden" and tag is not None and "ctx" not in details:
        found["ctx"] = {"advice": _advice(tuple(path), tag, key, registry)}
    return cast(ErrorDetails, found)


def _inside(path: KeyPath, inner: ErrorDetails) -> ErrorDetails:
    """What is wrong with one key of a mapping that is one value, such as a schedule."""
    found: dict[str, Any] = {**inner, "loc": (*path, *inner["loc"])}
    if inner["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        found |= {"type": "extra_forbidden", "ctx": {"advice": "remove it"}}
    return cast(ErrorDetails, found)


def _advice(path: KeyPath, tag: str, key: str, registry: Registry[Any]) -> str:
    """What to do about a key that the section of a member does not have."""
    name = str(path[-1])
    owners = [other for other, member in registry.items() if name in _parameters(member)]
    if owners:
        return f"it belongs to {', '.join(owners)}, got {tag}; remove it, or set it to null"
    known = [*_SHARED[key].model_fields, *_parameters(registry[tag])]
    return _closest(path, known) or f"{tag} has {', '.join(known)}"


def _closest(path: KeyPath, known: list[str]) -> str | None:
    close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
    return f"did you mean {dotted((*path[:-1], close[0]))!r}?" if close else None


def _parameters(member: Member) -> Mapping[str, object]:
    return cast(Mapping[str, object], member.parameters.__pydantic_fields__)
