"""Shapes are checked at run time in tests: by jaxtyping and beartype, where tensors pass."""

from __future__ import annotations

import atexit
import functools
import gc
import inspect
import os
import re
import shutil
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# On CPUs without VNNI the other backend of CTranslate2 lets sums of int8 products saturate, for
# which conversions of tiny random models are refused; this one does not.
os.environ.setdefault("CT2_USE_MKL", "1")

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def _where_tensors_pass(checked: Any = None, *, typechecker: Any) -> Any:
    """Calls that carry no tensor, which are most, are left as they are: they have no shapes."""
    if checked is None:
        return functools.partial(_where_tensors_pass, typechecker=typechecker)
    carrying = checked.__init__ if inspect.isclass(checked) else checked
    if not re.search(r"\[(Tensor|np\.)", str(getattr(carrying, "__annotations__", {}))):
        return checked
    return _jaxtyped(checked, typechecker=typechecker)


_CHECKED = ("core", "generation", "models", "objectives")
jaxtyping.jaxtyped = _where_tensors_pass  # type: ignore[assignment]
jaxtyping.install_import_hook([f"seqdistill.{name}" for name in _CHECKED], "beartype.beartype")
# Tokenized data of tests do not belong into the user's cache.
os.environ["SEQDISTILL_CACHE"] = tempfile.mkdtemp(prefix="seqdistill-tests-")
atexit.register(shutil.rmtree, os.environ["SEQDISTILL_CACHE"], ignore_errors=True)


def pytest_collection_finish() -> None:
    """What was imported stays: no search for garbage need look at it."""
    gc.collect()
    gc.freeze()
