"""Sameness of texts: exact after normalization, near by shared parts, and by template.

Near duplicates are found exactly, not by sampling: two sets with Jaccard similarity of at least t
must share one of the rarest few members (prefix filtering), so only texts that do are compared.
Sentences are compared by characters; documents, which are too long for that, by runs of words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from math import ceil

GRAM_LENGTH, RUN_LENGTH = 5, 3
COMMON_WORD_COUNT = 150
MAX_PER_TEMPLATE = 50

Part = str | tuple[str, ...]


def normalize(text: str) -> str:
    """The text casefolded, digits collapsed to one 0, everything else but letters to one space."""
    text = re.sub(r"\d+", "0", text.casefold())
    return re.sub(r"[\W_]+", " ", text).strip()


def character_grams(normalized: str) -> frozenset[Part]:
    """The character 5-grams of a normalized sentence, with one space at either end."""
    padded = f" {normalized} "
    last = max(1, len(padded) - GRAM_LENGTH + 1)
    return frozenset(padded[start : start + GRAM_LENGTH] for start in range(last))


def word_runs(document: str) -> frozenset[Part]:
    """The runs of three words of a document, without case, digits and punctuation."""
    words = normalize(document).split()
    last = max(1, len(words) - RUN_LENGTH + 1)
    return frozenset(tuple(words[start : start + RUN_LENGTH]) for start in range(last))


def jaccard(first: frozenset[Part], second: frozenset[Part]) -> float:
    """Shared members over all members, in [0, 1]."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


class NearDuplicateIndex:
    """Remembers texts and tells which of them another one is nearly the same as."""

    def __init__(
        self, texts: Iterable[str], parts_of: Callable[[str], frozenset[Part]], threshold: float
    ) -> None:
        """An empty index for these texts, and only for these."""
        self._parts_of, self._threshold = parts_of, threshold
        counts = Counter(part for text in texts for part in parts_of(text))
        ordered = sorted(counts, key=lambda part: (counts[part], part))
        self._rank = {part: rank for rank, part in enumerate(ordered)}
        self._postings: dict[int, list[int]] = defaultdict(list)
        self._members: list[frozenset[Part]] = []

    def _rarest(self, parts: frozenset[Part]) -> list[int]:
        """The parts, by rank, of which a near duplicate must have one."""
        num_needed = len(parts) - ceil(self._threshold * len(parts)) + 1
        return sorted(self._rank[part] for part in parts)[:num_needed]

    def add(self, text: str) -> None:
        """Remember one text."""
        parts = self._parts_of(text)
        for rank in self._rarest(parts):
            self._postings[rank].append(len(self._members))
        self._members.append(parts)

    def find_near(self, text: str) -> int | None:
        """The number of a remembered text of at least the threshold's similarity, if any.

        They are numbered from 0 in the order of `add`.
        """
        parts = self._parts_of(text)
        candidates = (n for rank in self._rarest(parts) for n in self._postings.get(rank, ()))
        for number in dict.fromkeys(candidates):
            if jaccard(parts, self._members[number]) >= self._threshold:
                return number
        return None


def template_of(normalized: str, word_counts: Counter[str]) -> str | None:
    """The sentence with runs of rare words masked as X, None if hardly anything else is left."""
    words = normalized.split()
    known = [word if word_counts[word] >= COMMON_WORD_COUNT else "X" for word in words]
    num_known = sum(word != "X" for word in known)
    if num_known < 3 or num_known == len(words):
        return None
    return re.sub(r"X(?: X)+", "X", " ".join(known))
