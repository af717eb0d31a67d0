"""What is told of the student's own sequences while it trains."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from tests.tiny import collator

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.origins import Origin
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.metrics.diversity import outputs_in_tokens, repeated_fraction, repetition_rate
from seqdistill.sources.completions import SequenceSource
from seqdistill.sources.watched import WatchedSource

Row = tuple[str, Origin, tuple[int, ...]]
FIRST: list[Row] = [
    ("a", "student", (5, 6, 5, 6, 5, 6, 2)),
    ("a", "student", (7, 7, 7, 7, 7, 7, 7, 7)),
    ("b", "student", (5, 6, 2)),
    ("c", "reference", (9, 9, 9, 9, 9, 9)),
]
SECOND: list[Row] = [("d", "teacher_mixed", (8, 9, 8, 9, 8, 2)), ("e", "reference", (4, 2))]


class Rows(SequenceSource):
    """Batches of given sequences, over and over."""

    def __init__(self, *groups: Sequence[Row]) -> None:
        self._groups, self._next = groups, 0

    def next_batch(self) -> SequenceBatch:
        rows = self._groups[self._next % len(self._groups)]
        self._next += 1
        batch = collator("seq2seq")([EncodedExample(name, (4, 2), ids) for name, _, ids in rows])
        return dataclasses.replace(batch, origins=tuple(origin for _, origin, _ in rows))


def told(*groups: Sequence[Row], update: int = 10, every: int = 10) -> dict[str, TokenSum]:
    source = WatchedSource(Rows(*groups), every=every)
    source.begin_update(update, 99)
    for _ in groups:
        source.next_batch()
    return source.end_update()


def test_distinct_and_repeated_ngrams_are_those_of_a_naive_count() -> None:
    found = told(FIRST, SECOND)
    of_a, of_b, of_d = ([*pairwise(ids)] for ids in (FIRST[0][2], FIRST[2][2], SECOND[0][2]))
    # One output a prompt; different within a micro-batch.
    assert found["distinct_2"].total == len(Counter(of_a + of_b)) + len(Counter(of_d))
    assert found["distinct_2"].count == len(of_a + of_b) + len(of_d)
    repeated = [1 - 3 / 4, 1 - 1 / 5, 0.0, 0.0]
    assert float(found["repetition_4"].total) == pytest.approx(sum(repeated))
    assert found["repetition_4"].count == len(repeated)


def test_two_processes_see_what_two_micro_batches_of_one_do() -> None:
    both, apart = told(FIRST, SECOND), [told(FIRST), told(SECOND)]
    for name in ("distinct_2", "repetition_4"):
        summed = apart[0][name] + apart[1][name]
        assert summed.total == both[name].total and summed.count == both[name].count


def test_between_looks_nothing_is_counted_and_all_names_are_there() -> None:
    between, last = told(FIRST, update=11), told(FIRST, update=99)
    assert between.keys() == last.keys()
    assert between["distinct_2"].count == 0.0 and last["distinct_2"].count > 0.0


def test_a_token_that_is_repeated_and_texts_have_one_definition() -> None:
    words = ["a", "b", "c", "d", "a", "b", "c", "d", "e"]
    assert repetition_rate([" ".join(words)]).value == repeated_fraction(words)
    found = outputs_in_tokens([(7,) * 30, (7,) * 30, (5, 6, 2)], [False, False, True])
    assert found["completion_length"] == pytest.approx(21.0)
    assert found["cut_fraction"] == pytest.approx(2 / 3) == 1 - found["eos_rate"]
    assert found["distinct_2"] == pytest.approx(3 / 60)
    assert found["repetition_4"] == pytest.approx((2 * (1 - 1 / 27) + 0) / 3)
    assert outputs_in_tokens([], []) == {}
