"""Errors that a user can cause and fix: what must hold, what was found, what to do. No torch.

The command line prints the message alone and exits with code 2; anything else is a defect of ours
and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Input that cannot be used as given; nothing was written."""


class RecipeError(UserError):
    """A recipe that says something impossible, unknown or contradictory."""


class DataError(UserError):
    """A data file that cannot be read as what it was said to be."""


class ModelError(UserError):
    """A model folder, vocabulary or conversion that does not fit."""


class EngineError(ModelError):
    """A model that an engine cannot run, or would run as another one.

    `problem` is what must hold and what was found, `remedy` what to do: who knows the setting that
    chose the engine raises the error again with that name.
    """

    def __init__(self, problem: str, remedy: str = "use the transformers engine") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


@contextlib.contextmanager
def with_hint(remedy: str) -> Iterator[None]:
    """An EngineError raised inside says `remedy`, such as 'use evaluation.engine=transformers'."""
    try:
        yield
    except EngineError as error:
        raise EngineError(error.problem, remedy) from error


class StaleCorpusError(UserError):
    """A cached corpus made by another teacher, data set or decoding setting."""


class NonFiniteLossError(UserError):
    """A loss that is NaN or infinite: training stops before the optimizer sees it."""


def first_line(error: BaseException) -> str:
    """What a library says in the first line of an error; the error's name where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence ' Did you mean X?' for the closest known name, or '' when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
