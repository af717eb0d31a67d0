"""Publishes the measured run of examples/smollm2: its record, and the table of its README.

python -m docs.publish_smollm2 runs/smollm2/half
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.estimates import table

from docs.readme import ROOT, with_block
from seqdistill.records.results import START, Results, System, Value, parsed
from seqdistill.report.numbers import MISSING

RECORD = ROOT / "docs" / "results" / "smollm2"
README = ROOT / "examples" / "smollm2" / "README.md"
RECORDED = ("recipe.yaml", "metrics.jsonl", "results.json", "manifest.json")
_BLOCK = "result"


def result_table(systems: Sequence[System]) -> str:
    """Teacher and student on the test prompts, with 95 % intervals of resampling them."""
    headings = (
        *("", "parameters", "ROUGE-L to Debian", "ROUGE-L to the teacher's answer"),
        *("same next token as the teacher", "tokens an answer", "words/s"),
    )
    rows = [
        (
            system.name,
            f"{row['parameters'] / 1e6:.0f} M",
            _interval(system.greedy.scores["rouge_l"]),
            _interval(system.to_teacher),
            _interval(system.agreement_top1, factor=100.0, unit=" %"),
            f"{row['length_greedy']:.1f}",
            f"{row['words_per_second_greedy']:,.0f}",
        )
        for system in systems
        for row in (system.columns(),)
    ]
    return table(headings, rows, text_columns=1)


def dev_table(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The student on the dev prompts as it trained, update by update over both stages."""
    headings = ("update", "stage", "ROUGE-L to Debian", "nats per token of Debian's answers")
    stages = ("supervised KD", "GKD")
    rows = [
        (
            str(row["step"]),
            stages[row["stage"]],
            f"{row['dev_rouge_l']:.1f}",
            f"{row['dev_loss_nats']:.2f}",
        )
        for row in metrics
        if "dev_rouge_l" in row
    ]
    return table(headings, rows, text_columns=2)


def kept_and_spent(systems: Sequence[System], manifest: Mapping[str, Any]) -> str:
    """What the student keeps of the teacher, and how long each step of making it took, where."""
    teacher, student = (system.columns() for system in systems)
    kept = 100.0 * student["rouge_l_greedy"] / teacher["rouge_l_greedy"]
    steps = [(str(timing["step"]), timing["seconds"] / 60.0) for timing in manifest["timings"]]
    labelling = sum(minutes for step, minutes in steps if step.endswith("labelling"))
    stages = [f"{minutes:.0f}" for step, minutes in steps if step.endswith("training")]
    machine = manifest["environment"]["machine"]
    return (
        f"The student keeps {kept:.0f} % of the teacher's ROUGE-L, and its next token is the "
        f"teacher's in {100.0 * student['agreement_top1']:.0f} % of the places. One seed on "
        f"{machine['cpu_cores']} cores ({machine['cpu_model']}): labelling took "
        f"{labelling:.0f} minutes, the stages {' and '.join(stages)}."
    )


def _interval(found: Value | None, *, factor: float = 1.0, unit: str = "") -> str:
    if found is None:
        return MISSING
    value, low, high = (factor * (end or 0.0) for end in (found.value, found.low, found.high))
    return f"{value:.1f}{unit} [{low:.1f}, {high:.1f}]"


def rendered() -> str:
    """README.md of the example as it should be."""
    path = RECORD / "results.json"
    results = parsed(Results, json.loads(path.read_text("utf-8")), path)
    manifest = json.loads((RECORD / "manifest.json").read_text("utf-8"))
    lines = (RECORD / "metrics.jsonl").read_text("utf-8").splitlines()
    systems = [system for system in results.systems if system.method != START]
    content = "\n\n".join(
        (
            result_table(systems),
            dev_table([json.loads(line) for line in lines]),
            kept_and_spent(systems, manifest),
        )
    )
    return with_block(README.read_text("utf-8"), _BLOCK, content)


def main() -> None:
    """Copy the record of the run directory named on the command line, then rewrite its README."""
    run = Path(sys.argv[1])
    missing = [name for name in RECORDED if not (run / name).is_file()]
    if missing:
        sys.exit(f"{run} must be trained and evaluated, but it has no {', '.join(missing)}")
    RECORD.mkdir(parents=True, exist_ok=True)
    for name in RECORDED:
        shutil.copyfile(run / name, RECORD / name)
    README.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main()
