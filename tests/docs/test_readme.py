"""README and the map of the code say what the committed results say, and name files that exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from docs import publish_smollm2, readme
from seqdistill.records.results import Results, parsed


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_generated_parts_of_a_page_are_up_to_date(page: Path) -> None:
    assert page.read_text("utf-8") == readme.rendered(page), "run python -m docs.readme"


@pytest.mark.parametrize(
    "path",
    [*readme.ROOT.glob("*.md"), *(readme.ROOT / "docs").rglob("*.md")],
    ids=lambda path: str(path.relative_to(readme.ROOT)),
)
def test_every_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8"))
    made = "reference/recipe-keys.md"  # by the site's build
    assert [x for x in links if not (path.parent / x).exists() and not x.endswith(made)] == []


def test_the_result_of_the_llm_example_is_the_one_on_record() -> None:
    told = publish_smollm2.README.read_text("utf-8")
    assert told == publish_smollm2.rendered(), "run python -m docs.publish_smollm2 RUN"
    assert "| teacher | 135 M |" in told and "| smollm2-half | 81 M |" in told


def test_demo_rows_have_the_promised_columns_and_plausible_values() -> None:
    results = parsed(Results, json.loads(readme.RESULTS.read_text("utf-8")), readme.RESULTS)
    methods = [system.method for system in results.systems]
    assert methods == ["teacher", "start", "baseline", "word_kd", "seq_kd"]
    for row in (system.columns() for system in results.systems):
        timed = set() if row["method"] == "start" else {"words_per_second_beam"}
        assert {"parameters", "bytes", "chrf_beam", *timed} <= row.keys()
        assert row["bleu_beam_low"] <= row["bleu_beam"] <= row["bleu_beam_high"]
        assert 0.0 < row["mode_share"] <= 1.0 < row["perplexity"]


def test_every_published_bug_names_a_test_that_exists() -> None:
    text = (readme.ROOT / "docs" / "published_bugs.md").read_text("utf-8")
    named = re.findall(r"^\| .+? \| .+? \| `(tests/.+?)::(.+?)` \|$", text, re.MULTILINE)
    assert len(named) > 40
    for path, name in named:
        tree = ast.parse((readme.ROOT / path).read_text("utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{path} has no {name}"
