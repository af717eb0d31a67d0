"""docs/objectives.md: its code runs from top to bottom, and no divergence is missing from it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch

from seqdistill.objectives import DIVERGENCES

from .code_blocks import ROOT, blocks

PAGE = "docs/objectives.md"


def test_the_code_runs_from_top_to_bottom() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    code = blocks(PAGE, "python")
    assert len(code) >= 6
    for block in code:
        exec(compile(block, PAGE, "exec"), names)
    for name in DIVERGENCES:
        assert any(f"{name}(" in block for block in code), f"{name} is never called"


def test_the_table_has_every_divergence_with_its_arguments() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE))
    for name, divergence in DIVERGENCES.items():
        for parameter in list(inspect.signature(divergence.function).parameters)[2:]:
            assert f"`{parameter}`" in rows[name], f"{name}: {parameter}"
