"""Sameness of sentences: exact after normalization, near by shared characters, and by template.

Near duplicates are found exactly, not by sampling: two sets with Jaccard similarity of at least t
must share one of the rarest few members (prefix filtering), so only sentences that do are compared.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

GRAM_LENGTH = 5
NEAR_THRESHOLD = 0.6
COMMON_WORD_COUNT = 150
MAX_PER_TEMPLATE = 50


def normalize(text: str) -> str:
    """The text casefolded, digits collapsed to one 0, everything else but letters to one space."""
    text = re.sub(r"\d+", "0", text.casefold())
    return re.sub(r"[\W_]+", " ", text).strip()


def character_grams(normalized: str) -> frozenset[str]:
    """The character 5-grams of a normalized sentence, with one space at either end."""
    padded = f" {normalized} "
    last = max(1, len(padded) - GRAM_LENGTH + 1)
    return frozenset(padded[start : start + GRAM_LENGTH] for start in range(last))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared members over all members, in [0, 1]."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


class NearDuplicateIndex:
    """Remembers sentences and tells whether another one is nearly the same as one of them."""

    def __init__(self, corpus: Iterable[str], *, threshold: float = NEAR_THRESHOLD) -> None:
        """Build an empty index for the sentences of a normalized corpus, and only for these."""
        self.threshold = threshold
        counts: Counter[str] = Counter()
        for normalized in corpus:
            counts.update(character_grams(normalized))
        ordered = sorted(counts, key=lambda gram: (counts[gram], gram))
        self._rank = {gram: rank for rank, gram in enumerate(ordered)}
        self._postings: dict[str, list[int]] = defaultdict(list)
        self._members: list[frozenset[str]] = []

    def _rarest(self, grams: frozenset[str]) -> Sequence[str]:
        """The grams of which a near duplicate must have one."""
        num_needed = len(grams) - ceil(self.threshold * len(grams)) + 1
        return sorted(grams, key=self._rank.__getitem__)[:num_needed]

    def add(self, normalized: str) -> None:
        """Remember one normalized sentence."""
        grams = character_grams(normalized)
        for gram in self._rarest(grams):
            self._postings[gram].append(len(self._members))
        self._members.append(grams)

    def has_near(self, normalized: str) -> bool:
        """Whether a remembered sentence has at least the threshold's similarity to this one."""
        grams = character_grams(normalized)
        compared: set[int] = set()
        for gram in self._rarest(grams):
            for index in self._postings.get(gram, ()):
                if index not in compared:
                    compared.add(index)
                    if jaccard(grams, self._members[index]) >= self.threshold:
                        return True
        return False


def template_of(normalized: str, word_counts: Counter[str]) -> str | None:
    """The sentence with runs of rare words masked as X, None if hardly anything else is left."""
    words = normalized.split()
    known = [word if word_counts[word] >= COMMON_WORD_COUNT else "X" for word in words]
    num_known = sum(word != "X" for word in known)
    if num_known < 3 or num_known == len(words):
        return None
    return re.sub(r"X(?: X)+", "X", " ".join(known))
