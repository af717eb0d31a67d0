"""Options that several commands share, settings given as `key=value`, and files to be written."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from seqdistill.core.errors import UserError
from seqdistill.core.plugin_loading import trust_plugins
from seqdistill.records import atomic
from seqdistill.records.writable import check_writable

ANY_OPTION = {"ignore_unknown_options": True}
"""typer's settings for a command that refuses unknown options itself: see `read_words`."""


def argument(metavar: str, help: str, *, callback: Callable[..., Any] | None = None) -> Any:
    """A word of the command line by its place."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, callback=callback)


def option(
    names: str, metavar: str, help: str, *, min: int | None = None, callback: Any = None
) -> Any:
    """An option with a value; its names have spaces between them."""
    return typer.Option(*names.split(), metavar=metavar, help=help, min=min, callback=callback)


def expanded(path: Path | str | None) -> Path | str | None:
    """The path with `~` at its front written out, as a shell does for some words only."""
    return None if path is None else type(path)(os.path.expanduser(path))


def check_new_file(path: Path, name: str) -> None:
    """Raises UserError when `path` cannot become a file; an existing file may be replaced.

    Pipes and devices need only be writable themselves.
    """
    if path.is_dir():
        raise UserError(f"{name} must be a file, got the folder {str(path)!r}; name a file in it")
    check_writable(path if atomic.is_stream(path) else path.parent, name)


Arguments = Annotated[
    list[str] | None,
    argument("KEY=VALUE", "Settings that replace the recipe's, such as training.steps=200."),
]
OutputDir = Annotated[
    str | None,
    option("--output_dir", "DIR", "The run directory; {method} and {seed} are filled in."),
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
Threads = Annotated[int | None, option("--threads", "N", "CPU threads. Default: all cores.", min=1)]
Workers = Annotated[
    int | None,
    option(
        "--workers",
        "N",
        "Make the parts with so many Ray workers, each with a model of its own (extra: ray).",
        min=1,
    ),
]
Ray = Annotated[
    str | None,
    option(
        "--ray", "ADDRESS", "The cluster of --workers: HOST:PORT or auto. Default: this machine."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what the libraries do.")]
Seed = Annotated[int | None, option("--seed", "N", "The seed of the run.")]

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
            option = word.partition("=")[0]  # without a value, which may be a secret
            name = option.removeprefix("--").replace("-", "_")
            remedy = "--resume" if name == "resume_from_checkpoint" else f"{name}=VALUE"
            raise UserError(
                f"a setting must read key=value, got the option {option!r}; write {remedy}, or see "
                "--help for the options of this command"
            )
    overrides = tuple(word for word in words if _OVERRIDE.match(word))
    return Given(tuple(word for word in words if not _OVERRIDE.match(word)), overrides)


def check_ray(workers: int | None, address: str | None) -> None:
    """Raises UserError for a cluster of which no worker is asked."""
    if address is not None and workers is None:
        raise UserError(f"--ray {address} needs --workers N, got none; add how many are to work")


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
