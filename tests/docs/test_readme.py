"""README says what the committed results say, and lists the files that exist."""

from __future__ import annotations

import json

import pytest

from docs import publish_smollm2, readme


def test_generated_parts_of_the_readme_are_up_to_date() -> None:
    assert readme.README.read_text("utf-8") == readme.rendered(), "run python -m docs.readme"


def test_the_result_of_the_llm_example_is_the_one_on_record() -> None:
    told = publish_smollm2.README.read_text("utf-8")
    assert told == publish_smollm2.rendered(), "run python -m docs.publish_smollm2 RUN"
    assert "| teacher | 135 M |" in told and "| smollm2-half | 81 M |" in told


def test_demo_rows_have_the_promised_keys_and_plausible_values() -> None:
    results = json.loads(readme.RESULTS.read_text("utf-8"))
    keys = [
        "name",
        "method",
        "init",
        "parameters",
        "bytes",
        "bleu_greedy",
        "bleu_beam",
        "bleu_beam_low",
        "bleu_beam_high",
        "chrf",
        "perplexity",
        "mode_share",
        "words_per_second_greedy",
        "words_per_second_beam",
        "signature",
    ]
    assert [row["method"] for row in results["systems"]] == [
        "teacher",
        "baseline",
        "word_kd",
        "seq_kd",
    ]
    for row in results["systems"]:
        assert set(keys) <= set(row)
        assert row["bleu_beam_low"] <= row["bleu_beam"] <= row["bleu_beam_high"]
        assert 0.0 < row["mode_share"] <= 1.0 < row["perplexity"]


def test_a_missing_marker_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        readme.with_block("no markers here", "file map", "content")
