"""Shapes are checked at run time in tests: by jaxtyping and beartype, where tensors pass."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# On CPUs without VNNI the other backend of CTranslate2 lets sums of int8 products saturate, for
# which conversions of tiny random models are refused; this one does not.
os.environ.setdefault("CT2_USE_MKL", "1")

from jaxtyping import install_import_hook

_CHECKED = ("core", "generation", "models", "objectives")
install_import_hook([f"seqdistill.{name}" for name in _CHECKED], "beartype.beartype")
# Tokenized data of tests do not belong into the user's cache.
os.environ["SEQDISTILL_CACHE"] = tempfile.mkdtemp(prefix="seqdistill-tests-")
atexit.register(shutil.rmtree, os.environ["SEQDISTILL_CACHE"], ignore_errors=True)
