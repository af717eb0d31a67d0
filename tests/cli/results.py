"""A results.json as evaluation writes it, with the widest numbers that are likely."""

from __future__ import annotations

import json
from pathlib import Path

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def system(name: str, method: str, bleu: float) -> dict[str, object]:
    """One row."""
    return {
        "name": name,
        "method": method,
        "init": "teacher layers 3+1",
        "parameters": 11_900_000,
        "bytes": 238_000_000,
        "bleu_greedy": bleu - 1.0,
        "bleu_beam": bleu,
        "bleu_beam_low": bleu - 1.1,
        "bleu_beam_high": bleu + 1.1,
        "chrf": 58.4,
        "perplexity": 12.345,
        "mode_share": 0.123,
        "sentences_per_second_greedy": 1234.5,
        "sentences_per_second_beam": 123.4,
        "words_per_second_greedy": 12345.6,
        "words_per_second_beam": 2345.6,
        "signature": SIGNATURE,
    }


def test_row(name: str, metric: str, delta: float, p_value: float) -> dict[str, object]:
    """One paired test against the baseline."""
    return {
        "system": name,
        "versus": "baseline",
        "metric": metric,
        "delta": delta,
        "p_value": p_value,
        "low": delta - 0.8,
        "high": delta + 0.8,
        "confidence": 0.95,
        "test": "paired approximate randomization, 1000 trials",
    }


test_row.__test__ = False  # type: ignore[attr-defined]  # a maker of rows, no test


def results() -> dict[str, object]:
    """Teacher, baseline and two distilled students."""
    return {
        "systems": [
            system("teacher", "teacher", 31.7),
            system("baseline", "baseline", 26.0),
            system("word_kd", "word_kd", 26.4),
            system("seq_kd", "seq_kd", 28.9),
        ],
        "student": "seq_kd",
        "exports": [
            {
                **system("seq_kd int8", "seq_kd", 28.7),
                "perplexity": None,
                "folder": "student-int8",
                "format": "ctranslate2 int8",
            }
        ],
        "baseline": "baseline",
        "paired_tests": [
            test_row("word_kd", "bleu_beam", 0.4, 0.31),
            test_row("seq_kd", "bleu_beam", 2.9, 0.001),
            test_row("seq_kd", "bleu_greedy", 3.9, 0.0001),
        ],
    }


def write_run(folder: Path) -> Path:
    """A run directory with a recipe, these results and an empty student folder."""
    (folder / "student").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("method: seq_kd\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    return folder
