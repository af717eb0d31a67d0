"""What drafts bring, before and after they are distilled for it: a table of drafts.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

DRAFTS = Path(__file__).parent / "results" / "drafts.json"


def drafts_table() -> str:
    """A row for each draft of each pair, written greedily and at temperature 1."""
    pairs = json.loads(DRAFTS.read_text("utf-8"))
    lines = [
        "| teacher | draft | written | drafted at a time | accepted [95 %] | more than before | "
        "tokens a pass | times as fast [95 %] |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    machines = set()
    for pair, found in pairs.items():
        machine = found["machine"]
        machines.add(f"{machine['cpu_model']}, {found['threads']} thread")
        for place, (name, draft) in enumerate(found["drafts"].items()):
            for mode in ("greedy", "temperature 1"):
                row = draft[mode]
                cells = [
                    f"{pair}, {found['teacher_parameters'] / 1e6:.1f} M",
                    f"{name}, {draft['parameters'] / 1e6:.1f} M",
                    mode,
                    str(row["draft_tokens"]),
                    _interval([100 * value for value in row["acceptance"]], ".1f", " %"),
                    _interval([100 * v for v in row["acceptance_gain"]], "+.1f") if place else "–",
                    f"{row['tokens_per_pass']:.2f}",
                    _interval(row["speed_up"], ".2f", "×"),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    rows = {found["rows"] for found in pairs.values()}
    lines += [
        "",
        f"{' and '.join(str(count) for count in sorted(rows))} prompts of test data each, one at a "
        f"time; {' and '.join(sorted(machines))}.",
    ]
    return "\n".join(lines)


def _interval(values: Sequence[float], form: str, unit: str = "") -> str:
    value, low, high = (format(number, form) for number in values)
    return f"{value}{unit} [{low}, {high}]"
