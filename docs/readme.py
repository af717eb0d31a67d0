"""Writes the generated parts of the pages: tables of results, the file map.

    python -m docs.readme            rewrites them
    python -m docs.readme --check    exits 1 when one of them is not what it would write

The tables come from docs/results, the map from the modules' own first lines. The prose around them
is written by hand.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

from experiments.gkd import page as gkd
from experiments.kim_rush import page as kim_rush
from experiments.on_policy import page as on_policy

from benchmarks import estimate
from docs.cost_tables import growth_table, planned_table
from docs.draft_table import drafts_table
from seqdistill.records.results import Results, System, parsed
from seqdistill.report.headlines import headline
from seqdistill.report.numbers import MISSING

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CODEBASE = ROOT / "docs" / "codebase.md"
METHODS_PAGE = ROOT / "docs" / "guides" / "methods.md"
RECIPES_PAGE = ROOT / "docs" / "guides" / "recipes.md"
SCALING_PAGE = ROOT / "docs" / "guides" / "scaling.md"
DEPLOYMENT_PAGE = ROOT / "docs" / "guides" / "deployment.md"
PAGES = (README, METHODS_PAGE, RECIPES_PAGE, SCALING_PAGE, DEPLOYMENT_PAGE, CODEBASE)
RESULTS = ROOT / "docs" / "results" / "demo.json"
SPARSE_TEACHERS = ROOT / "docs" / "results" / "sparse_teachers.json"
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
    results = parsed(Results, json.loads(RESULTS.read_text("utf-8")), RESULTS)
    machine = json.loads(MANIFEST.read_text("utf-8"))["environment"]["machine"]
    lines = [
        "| system | parameters | MB | BLEU greedy | BLEU beam 5 [95 %] | chrF | perplexity | "
        "p(t=ŷ) | words/s greedy | words/s beam |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [_demo_row(each) for each in (*results.systems, *results.exports)]
    tests = [test for test in results.paired_tests if test.mode == "greedy"]
    lines.append("")
    lines.append(
        f"Paired test of greedy BLEU against `{results.baseline}`: "
        + "; ".join(
            f"`{test.system}` {test.delta:+.1f} [{test.low:+.1f}, {test.high:+.1f}] "
            f"(p = {test.p_value:.3f})"
            for test in tests
            if test.system != "teacher"
        )
        + "."
    )
    lines.append("".join(phrase.text for phrase in headline(results)) + ".")
    lines += [_fraction_of_teacher(results, copy) for copy in results.exports]
    lines.append(
        f"Measured on {machine['cpu_cores']} cores ({machine['cpu_model']}); BLEU signature "
        f"`{results.systems[0].beam.scores['bleu'].signature}`."
    )
    return "\n".join(lines)


def _demo_row(system: System) -> str:
    row = system.columns()
    interval = f"[{row['bleu_beam_low']:.1f}, {row['bleu_beam_high']:.1f}]"
    perplexity = f"{row['perplexity']:.1f}" if "perplexity" in row else MISSING
    # The student before its first update is not timed.
    rates = [
        f"{row[key]:,.0f}" if (key := f"words_per_second_{mode}") in row else MISSING
        for mode in ("greedy", "beam")
    ]
    return (
        f"| {system.name} | {row['parameters'] / 1e6:.1f} M | {row['bytes'] / 1e6:.1f} | "
        f"{row['bleu_greedy']:.1f} | {row['bleu_beam']:.1f} {interval} | {row['chrf_beam']:.1f} | "
        f"{perplexity} | {100 * row['mode_share']:.1f} % | {' | '.join(rates)} |"
    )


def _fraction_of_teacher(results: Results, copy: System) -> str:
    student = results.system(str(copy.copy_of))
    return (
        f"Like against like, the copy ({copy.format}) {_kept(copy, results)}; in fp32, the "
        f"student {_kept(student, results)}."
    )


def _kept(system: System, results: Results) -> str:
    row, teacher = system.columns(), results.system("teacher").columns()
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


def on_policy_table() -> str:
    """On-policy distillation and its baselines from starts that have stopped learning."""
    return on_policy.summary_table(on_policy.read(ROOT / on_policy.RESULTS))


def sparse_teachers_table() -> str:
    """What a student's gradient loses where it sees some symbols of its teacher."""
    found = json.loads(SPARSE_TEACHERS.read_text("utf-8"))
    lines = [
        "| kept | policy | divergence | bytes | mass left out | cosine | error | at P = Q |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in found["rows"]:
        drawn = row["policy"] == "sampled"
        kept = f"{row['k']} draws, {row['symbols']:g} symbols" if drawn else f"top {row['k']}"
        left = MISSING if drawn else f"{row['tail_mass']:.2g}"
        lines.append(
            f"| {kept} | {row['policy']} | `{row['divergence']}` | {row['bytes']:.0f} | {left} | "
            f"{row['cosine']:.4f} | {row['error']:.3f} | {row['pull']:.4f} |"
        )
    fp16 = found["fp16"]
    lines += [
        "",
        f"{found['positions']:,} target tokens of `bundled:en-de`, {found['vocab']:,} symbols; the "
        "student is the teacher with one decoder layer. `error` is the length of the difference "
        "over that of the whole gradient, of one draw where symbols are drawn; `at P = Q` what is "
        "left of the gradient, over the same, where the student is the teacher, of "
        f"{found['draws']} draws the mean. Log-probabilities are kept in fp16: with all symbols "
        f"kept that costs {fp16['mean_nats']:.1g} nats a token ({fp16['max_nats']:.1g} at most) "
        f"and an error of {fp16['error']:.0e}.",
    ]
    return "\n".join(lines)


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
    """The page as it should be: one of `PAGES`."""
    blocks = {
        README: {"demo table": demo_table, "on-policy table": on_policy_table},
        METHODS_PAGE: {
            "kim and rush table": kim_rush_table,
            "on-policy table": on_policy_table,
            "gkd table": gkd_table,
        },
        RECIPES_PAGE: {"sparse teachers table": sparse_teachers_table},
        SCALING_PAGE: {
            "estimates": estimate.page,
            "planned times": planned_table,
            "cost growth": growth_table,
        },
        DEPLOYMENT_PAGE: {"drafts table": drafts_table},
        CODEBASE: {"file map": file_map},
    }[page]
    text = page.read_text("utf-8")
    for name, content in blocks.items():
        text = with_block(text, name, content())
    return text


def main() -> None:
    """Rewrite the pages, or with --check compare them."""
    for page in PAGES:
        wanted = rendered(page)
        if sys.argv[1:] != ["--check"]:
            page.write_text(wanted, encoding="utf-8")
        elif page.read_text("utf-8") != wanted:
            sys.exit(f"{page.relative_to(ROOT)} is not up to date: run python -m docs.readme")


if __name__ == "__main__":
    main()
