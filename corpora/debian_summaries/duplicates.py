"""Sameness of documents: near by shared runs of three words, and by how they begin.

Near duplicates are found exactly, as in the English-German corpus, but over words: documents are
too long for sets of characters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

from corpora.en_de.duplicates import normalize, template_of
from corpora.en_de.sentences import split_sentences

RUN_LENGTH = 3
NEAR_THRESHOLD = 0.5

Run = tuple[str, ...]


def word_runs(document: str) -> frozenset[Run]:
    """The runs of three words of a document, without case, digits and punctuation."""
    words = normalize(document).split()
    last = max(1, len(words) - RUN_LENGTH + 1)
    return frozenset(tuple(words[start : start + RUN_LENGTH]) for start in range(last))


def similarity(first: frozenset[Run], second: frozenset[Run]) -> float:
    """Shared runs over all runs, in [0, 1]."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


class NearDuplicateIndex:
    """Remembers documents and tells which of them another one is nearly the same as."""

    def __init__(self, documents: Iterable[str]) -> None:
        """An empty index for these documents, and only for these."""
        counts: Counter[Run] = Counter()
        for document in documents:
            counts.update(word_runs(document))
        ordered = sorted(counts, key=lambda run: (counts[run], run))
        self._rank = {run: rank for rank, run in enumerate(ordered)}
        self._postings: dict[int, list[int]] = defaultdict(list)
        self._members: list[frozenset[Run]] = []

    def _rarest(self, runs: frozenset[Run]) -> Sequence[int]:
        """The runs, by rank, of which a near duplicate must have one."""
        num_needed = len(runs) - ceil(NEAR_THRESHOLD * len(runs)) + 1
        return sorted(self._rank[run] for run in runs)[:num_needed]

    def add(self, document: str) -> None:
        """Remember one document."""
        runs = word_runs(document)
        for rank in self._rarest(runs):
            self._postings[rank].append(len(self._members))
        self._members.append(runs)

    def find_near(self, document: str) -> int | None:
        """The number of a remembered document of at least the threshold's similarity, if any.

        They are numbered from 0 in the order of `add`.
        """
        runs = word_runs(document)
        compared: set[int] = set()
        for rank in self._rarest(runs):
            for index in self._postings.get(rank, ()):
                if index not in compared:
                    compared.add(index)
                    if similarity(runs, self._members[index]) >= NEAR_THRESHOLD:
                        return index
        return None


def beginning_of(document: str, word_counts: Counter[str]) -> str:
    """The first sentence with runs of rare words masked as X: what a family of packages shares."""
    first = normalize(split_sentences(document)[0])
    return template_of(first, word_counts) or first
