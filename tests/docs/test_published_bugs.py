"""Every published bug that the docs list has the test that they name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str]]:
    text = (ROOT / "docs" / "published_bugs.md").read_text(encoding="utf-8")
    return [row for row in ROW.findall(text) if row[0] not in ("where", "---")]


def test_every_row_names_a_test_that_exists() -> None:
    assert len(rows()) > 40
    for where, _, test in rows():
        path, name = test.strip("`").split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{where}: {path} has no {name}"
