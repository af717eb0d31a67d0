"""The same setting under the name that users of HF Trainer and TRL know it by, and typing errors.

Translates names only. A name that could mean two settings is refused with both in the message.
"""

from __future__ import annotations

import difflib
import functools
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from seqdistill.recipe.documents import KeyPath, dotted
from seqdistill.recipe.schema import Recipe
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
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    if close:
        return f"did you mean {dotted((*path[:-1], close[0]))!r}?"
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
