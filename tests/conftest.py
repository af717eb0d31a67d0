"""Shapes are checked at run time in tests: jaxtyping and beartype on the whole package."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook("seqdistill", "beartype.beartype")
