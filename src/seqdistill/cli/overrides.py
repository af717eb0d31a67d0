"""Settings given on the command line: `key=value`, `--key value` and `--key=value`.

The last two are what users of Hugging Face scripts type. Every one becomes a `key=value` text; the
recipe package knows which keys exist and what their values mean.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from seqdistill.core.errors import UserError
from seqdistill.core.plugin_loading import trust_plugins

ANY_OPTION = {"ignore_unknown_options": True}
"""typer's settings for a command that takes the recipe's keys as options of its own."""

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that replace the recipe's, such as training.steps=200 or "
        "--learning_rate 3e-4.",
        show_default=False,
    ),
]
OutputDir = Annotated[
    str | None,
    typer.Option(
        "--output_dir",
        metavar="DIR",
        help="The run directory; {method} and {seed} are filled in.",
    ),
]


def _trust(given: bool) -> bool:
    if given:
        trust_plugins()
    return given


TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        callback=_trust,
        help="Run Python code that comes with the models or a run's recipe: it can do anything.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The seed of the run.")]

_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")
_RESUME = "resume_from_checkpoint"


@dataclasses.dataclass(frozen=True)
class Given:
    """What the words of a command line said."""

    positional: tuple[str, ...]
    """Words that are neither an option nor `key=value`."""
    overrides: tuple[str, ...]
    """`key=value` texts in the order given."""
    resume: bool
    """Whether `--resume_from_checkpoint` asked to go on."""


def read_words(words: Sequence[str]) -> Given:
    """The words of a command line, sorted.

    An option takes the next word as its value unless that is an option or `key=value` itself; with
    no value it means true. Raises UserError for a checkpoint that is named: a run resumes from its
    newest one.
    """
    positional, overrides, resume = [], [], False
    for key, value in _pairs(words):
        if key is None:
            positional.append(value)
        elif key == _RESUME:
            resume = _resumes(value)
        else:
            overrides.append(f"{key}={value}")
    return Given(tuple(positional), tuple(overrides), resume)


def named_settings(
    output_dir: str | None, seed: int | None, trust_remote_code: bool = False
) -> list[str]:
    """The overrides of the options that every trainer has."""
    overrides = []
    if trust_remote_code:
        overrides += ["teacher.trust_remote_code=true", "student.trust_remote_code=true"]
    if output_dir is not None:
        overrides.append(f"output_dir={json.dumps(output_dir, ensure_ascii=False)}")
    if seed is not None:
        overrides.append(f"seed={seed}")
    return overrides


def _pairs(words: Sequence[str]) -> Iterator[tuple[str | None, str]]:
    """(key, value) for each setting, (None, word) for each other word."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--"):
            key, equals, value = word.partition("=")
            yield (key, value) if equals and _OVERRIDE.match(word) else (None, word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = "true"
            if position < len(words) and _is_value(words[position]):
                value = words[position]
                position += 1
        yield key.replace("-", "_"), value


def _is_value(word: str) -> bool:
    return not word.startswith("--") and not _OVERRIDE.match(word)


def _resumes(value: str) -> bool:
    if value.lower() in ("true", "1", "yes"):
        return True
    if value.lower() in ("false", "0", "no", "none"):
        return False
    raise UserError(
        f"resume_from_checkpoint must be true or false, got {value!r}: a run resumes from the "
        "newest checkpoint of its output_dir; give --output_dir of that run and --resume"
    )
