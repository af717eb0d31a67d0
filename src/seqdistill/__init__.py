"""seqdistill: turn a large sequence model into a small, fast one, and prove what was kept.

`distill` does the whole job from Python; the command `seqdistill` does it from a shell. Importing
the package loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqdistill.core.version import __version__

__all__ = ["Distilled", "__version__", "distill"]

if TYPE_CHECKING:
    from seqdistill.jobs.distill import Distilled, distill


def __getattr__(name: str) -> object:
    if name in ("Distilled", "distill"):
        from seqdistill.jobs import distill as api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
