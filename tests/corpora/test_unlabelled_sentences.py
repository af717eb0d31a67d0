"""Sentences without a translation are fit for the parallel corpus and nearly in none of it."""

from __future__ import annotations

from collections import Counter

from corpora.en_de.unlabelled import candidates_of, disjoint

TESTED = "The server sends all of its messages to the clients of the local network."


def test_what_is_known_exactly_or_nearly_is_left_out() -> None:
    fresh = "This program draws the orbits of planets as seen from the sun."
    near = TESTED.replace("local", "whole")
    kept, removed = disjoint(
        [TESTED.upper(), near, fresh, fresh, fresh.replace("sun.", "moon."), "Tools for bees"],
        held_out=[TESTED],
        train=["Tools for bees!"],
    )
    assert kept == [fresh]
    assert removed == Counter(
        {"exact duplicate": 3, "near duplicate of dev or test": 1, "near duplicate of train": 1}
    )


def test_candidates_are_the_fit_sentences_of_documents_that_are_not_held_out() -> None:
    row = {
        "document": "It has many tools: a fast parser; a small viewer. See http://bees.org now.",
        "summary": "tools for bees",
        "source_package": "bees",
        "split": "train",
    }
    rows = [row, {**row, "split": "test"}, {**row, "source_package": "wasps"}]
    found = candidates_of(rows, frozenset({"ddtp/wasps"}))
    assert found == ["It has many tools: a fast parser", "a small viewer.", "tools for bees"]
