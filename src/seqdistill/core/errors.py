"""Errors that a user can cause and mend. Imports no torch.

A message has three parts: what must hold, what was found, what to do. The command line prints
the message alone and exits with code 2; anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input that cannot be used as given; nothing was written."""


class RecipeError(UserError):
    """A recipe that says something impossible, unknown or contradictory."""


class DataError(UserError):
    """A data file that cannot be read as what it was said to be."""


class ModelError(UserError):
    """A model folder, vocabulary or conversion that does not fit."""


class StaleCorpusError(UserError):
    """A cached corpus made by another teacher, data set or decoding setting."""


class NonFiniteLossError(UserError):
    """A loss that is NaN or infinite: training stops before the optimizer sees it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence ' Did you mean X?' for the closest known name, or '' when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
