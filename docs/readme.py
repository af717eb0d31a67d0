"""Writes the generated parts of README.md and docs/codebase.md: tables of results, the file map.

    python -m docs.readme            rewrites both
    python -m docs.readme --check    exits 1 when one of them is not what it would write

The tables come from docs/results, the map from the modules' own first lines. The prose around them
is written by hand.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

from experiments.gkd import page as gkd
from experiments.kim_rush import page as kim_rush

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CODEBASE = ROOT / "docs" / "codebase.md"
RESULTS = ROOT / "docs" / "results" / "demo.json"
MANIFEST = ROOT / "docs" / "results" / "demo.manifest.json"
PACKAGE = ROOT / "src" / "seqdistill"
# The layers, from the lowest up: the order in which a newcomer can read.
LAYERS = (
    "core",
    "recipe",
    "records",
    "objectives",
    "metrics",
    "models",
    "data",
    "generation",
    "compression",
    "teachers",
    "sources",
    "training",
    "evaluation",
    "report",
    "jobs",
    "assembly",
    "cli",
)


def demo_table() -> str:
    """The systems of the committed demo as a Markdown table, with what it was measured on."""
    results = json.loads(RESULTS.read_text("utf-8"))
    machine = json.loads(MANIFEST.read_text("utf-8"))["environment"]["machine"]
    tests = {
        row["system"]: row for row in results["paired_tests"] if row["metric"] == "bleu_greedy"
    }
    lines = [
        "| system | parameters | MB | BLEU greedy | BLEU beam 5 [95 %] | chrF | perplexity | "
        "p(t=ŷ) | words/s greedy | words/s beam |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in [*results["systems"], *results["exports"]]:
        interval = f"[{row['bleu_beam_low']:.1f}, {row['bleu_beam_high']:.1f}]"
        perplexity = f"{row['perplexity']:.1f}" if "perplexity" in row else "–"
        lines.append(
            f"| {row['name']} | {row['parameters'] / 1e6:.1f} M | {row['bytes'] / 1e6:.1f} | "
            f"{row['bleu_greedy']:.1f} | {row['bleu_beam']:.1f} {interval} | {row['chrf']:.1f} | "
            f"{perplexity} | {100 * row['mode_share']:.1f} % | "
            f"{_rate(row, 'greedy')} | {_rate(row, 'beam')} |"
        )
    lines.append("")
    lines.append(
        f"Paired test of greedy BLEU against `{results['baseline']}`: "
        + "; ".join(
            f"`{name}` {row['delta']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] "
            f"(p = {row['p_value']:.3f})"
            for name, row in tests.items()
            if name != "teacher"
        )
        + "."
    )
    lines += [_share_of_teacher(results["systems"], row) for row in results["exports"]]
    lines.append(
        f"Measured on {machine['cpu_cores']} cores ({machine['cpu_model']}); BLEU signature "
        f"`{results['systems'][0]['signature']}`."
    )
    return "\n".join(lines)


def _rate(row: dict[str, Any], mode: str) -> str:
    """Words a second; the student before its first update is not timed."""
    rate = row.get(f"words_per_second_{mode}")
    return "–" if rate is None else f"{rate:,.0f}"


def _share_of_teacher(systems: list[dict[str, Any]], copy: dict[str, Any]) -> str:
    teacher = next(row for row in systems if row["method"] == "teacher")
    student = next(row for row in systems if row["name"] == copy["system"])
    return (
        f"`{copy['name']}` is the student as it ships ({copy['format']}). Against the teacher in "
        f"fp32 it {_kept(copy, teacher)}; in fp32 too, the same student {_kept(student, teacher)}."
    )


def _kept(row: dict[str, Any], teacher: dict[str, Any]) -> str:
    modes = {"greedy": "with greedy decoding", "beam": "with beam search"}
    return "keeps " + " and ".join(
        f"{100 * row[f'bleu_{mode}'] / teacher[f'bleu_{mode}']:.0f} % of the BLEU at "
        f"{row[f'words_per_second_{mode}'] / teacher[f'words_per_second_{mode}']:.1f}× the speed "
        f"{how}"
        for mode, how in modes.items()
    )


def kim_rush_table() -> str:
    """Every method of Kim and Rush on the largest student of each task, decoded greedily."""
    results = kim_rush.read(ROOT / kim_rush.RESULTS)
    return f"{kim_rush.summary_table(results)}\n\n{kim_rush.longer_training(results)}."


def gkd_table() -> str:
    """The main methods of on-policy distillation on every task, decoded greedily."""
    return gkd.summary_table(gkd.read(ROOT / gkd.RESULTS))


def file_map() -> str:
    """One line a file: its path and the first sentence of its docstring, package by package."""
    lines = []
    for name in LAYERS:
        folder = PACKAGE / name
        lines.append(f"- **`{name}/`** {_first_sentence(folder / '__init__.py')}")
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                lines.append(f"  - `{path.name}`: {_first_sentence(path)}")
    return "\n".join(lines)


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def with_block(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of `name` replaced. Raises ValueError if none."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page must hold the markers {begin} and {end}")
    return f"{head}{begin}\n{content}\n{end}{tail}"


def rendered(page: Path = README) -> str:
    """The page as it should be: README.md or docs/codebase.md."""
    blocks = {"demo table": demo_table, "kim and rush table": kim_rush_table}
    blocks["gkd table"] = gkd_table
    if page == CODEBASE:
        blocks = {"file map": file_map}
    text = page.read_text("utf-8")
    for name, content in blocks.items():
        text = with_block(text, name, content())
    return text


def main() -> None:
    """Rewrite the pages, or with --check compare them."""
    for page in (README, CODEBASE):
        wanted = rendered(page)
        if sys.argv[1:] != ["--check"]:
            page.write_text(wanted, encoding="utf-8")
        elif page.read_text("utf-8") != wanted:
            sys.exit(f"{page.relative_to(ROOT)} is not up to date: run python -m docs.readme")


if __name__ == "__main__":
    main()
