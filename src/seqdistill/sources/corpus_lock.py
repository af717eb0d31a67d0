"""One process at a time may label into a folder. Others read what is finished there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from seqdistill.core.errors import DataError, UserError
from seqdistill.records.locks import held_inside


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder, made when missing, until the block ends.

    Raises DataError when another process holds it and when it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held_inside(folder, "labelling into"))
        except OSError as error:
            raise DataError(
                f"{folder} must be a folder that can be written, found: {error}; give another "
                "folder"
            ) from error
        except UserError as error:
            raise DataError(str(error)) from error
        yield
