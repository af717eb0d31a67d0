"""Options that several commands share, and settings given as `key=value`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Annotated

import typer

from seqdistill.core.errors import UserError
from seqdistill.core.plugin_loading import trust_plugins

ANY_OPTION = {"ignore_unknown_options": True}
"""typer's settings for a command that refuses unknown options itself: see `read_words`."""

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that replace the recipe's, such as training.steps=200.",
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
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="CPU threads. Default: all cores."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what the libraries do.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The seed of the run.")]

_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")


@dataclasses.dataclass(frozen=True)
class Given:
    """What the words of a command line said."""

    positional: tuple[str, ...]
    """Words that are not `key=value`."""
    overrides: tuple[str, ...]
    """`key=value` texts in the order given."""


def read_words(words: Sequence[str]) -> Given:
    """The words of a command line, sorted. Raises UserError for an option that the command lacks.

    Commands let unknown options through to here, since users of Hugging Face scripts type settings
    so: the sentence says how they are written.
    """
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0].replace("-", "_")
            remedy = "--resume" if name == "resume_from_checkpoint" else f"{name}=VALUE"
            raise UserError(
                f"a setting must read key=value, got the option {word!r}; write {remedy}, or see "
                "--help for the options of this command"
            )
    overrides = tuple(word for word in words if _OVERRIDE.match(word))
    return Given(tuple(word for word in words if not _OVERRIDE.match(word)), overrides)


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
