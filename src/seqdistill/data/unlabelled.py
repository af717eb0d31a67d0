"""Sources without targets beside the training examples: they come last, and their ids tell them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from seqdistill.core.errors import DataError
from seqdistill.data.examples import ExampleTable
from seqdistill.data.tables import Table

PREFIX = "unlabelled:"
"""What their ids begin with, and those of no training example."""


def with_unlabelled(train: ExampleTable, sources: ExampleTable) -> ExampleTable:
    """The training examples, then the sources under ids of their own: `unlabelled:7`.

    Raises DataError for training examples with such ids, and for texts beside conversations, which
    a model would read in another form.
    """
    taken = next((name for name in train.ids if name.startswith(PREFIX)), None)
    if taken is not None:
        raise DataError(
            f"ids in data.train must not begin with {PREFIX!r}, as those of data.unlabelled do, "
            f"found {taken!r}; give other ids, or leave data.unlabelled out"
        )
    found = [_form(table) for table in (sources, train)]
    if found[0] != found[1]:
        raise DataError(
            "data.unlabelled must be of the form that data.train has, rows of messages, plain "
            f"texts or recordings, found {found[0]} beside {found[1]}; write both alike"
        )
    return train.followed_by(sources.with_id_prefix(PREFIX))


def _form(table: ExampleTable) -> str:
    if table.has_audio:
        return "recordings"
    return "conversations" if table.has_chats else "plain texts"


def num_unlabelled(rows: Table[Any]) -> int:
    """How many of the rows are, or were made of, sources without targets."""
    return int(rows.gathered("id", _are_unlabelled).sum())


def _are_unlabelled(ids: Any) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.starts_with(ids, PREFIX).to_numpy(zero_copy_only=False)
    return found
