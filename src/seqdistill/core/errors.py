"""Errors that a user can cause and fix: what must hold, what was found, what to do. No torch.

The command line prints the message alone and exits with code 2; anything else is a defect of ours
and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator


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


@contextlib.contextmanager
def named_as(key: str) -> Iterator[None]:
    """A ModelError raised inside begins with the `key` of the recipe that names the model."""
    try:
        yield
    except EngineError:
        raise
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error


class StaleCorpusError(UserError):
    """A cached corpus made by another teacher, data set or decoding setting."""


class ServerError(UserError):
    """A server that does not answer, or not as it must."""


class NonFiniteLossError(UserError):
    """A loss that is NaN or infinite: training stops before the optimizer sees it."""


def first_line(error: BaseException) -> str:
    """What a library says in the first line of an error; the error's name where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def told(error: BaseException) -> str:
    """The exception's name and the first line of its text."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(error: BaseException, function: Callable[..., object] | None = None) -> str:
    """`at FILE:LINE`, where the user's code raised.

    That is the innermost frame in the file of `function`, or in any file where that has none. An
    error in the very call, such as a wrong number of arguments, is placed at the definition.
    """
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    if own or frames:
        frame = (own or frames)[-1]
        return f"at {frame.filename}:{frame.lineno}"
    return f"at {code.co_filename}:{code.co_firstlineno}" if code is not None else "when called"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: by type, on GPUs and in Python, or by torch's words, on CPUs."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence ' Did you mean X?' for the closest known name, or '' when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
