"""Divides clean descriptions into train, dev and test by source package, and keeps them apart.

Source packages are taken in the order of the sha256 of their name, so a package does not change
sides when the corpus grows; no random state is involved.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from corpora.debian_summaries.descriptions import Description
from corpora.duplicates import NearDuplicateIndex, normalize, template_of, word_runs
from corpora.en_de.sentences import split_sentences
from corpora.en_de.split import hash_of

NEAR_THRESHOLD = 0.5
MAX_PER_BEGINNING = 20
MAX_PER_SOURCE_PACKAGE = 5


@dataclass
class Split:
    """The three parts and how many descriptions were left out, by reason."""

    parts: dict[str, list[Description]] = field(
        default_factory=lambda: {"train": [], "dev": [], "test": []}
    )
    removed: Counter[str] = field(default_factory=Counter)


def by_source_package(found: Iterable[Description]) -> dict[str, list[Description]]:
    """Source package -> its descriptions, both in the order of the hashes of their names."""
    packages: dict[str, list[Description]] = defaultdict(list)
    for description in sorted(found, key=lambda description: hash_of(description.package)):
        packages[description.source_package].append(description)
    return {name: packages[name] for name in sorted(packages, key=hash_of)}


class _Chooser:
    """Says of each description in turn why it may not join those chosen before, if so."""

    def __init__(self, found: list[Description]) -> None:
        documents = [description.document for description in found]
        self._index = NearDuplicateIndex(documents, word_runs, NEAR_THRESHOLD)
        self._word_counts = Counter(word for text in documents for word in normalize(text).split())
        self._beginnings: Counter[str] = Counter()
        self._num_held_out = len(found)

    def close_held_out(self, num_held_out: int) -> None:
        """What was chosen up to now is dev and test."""
        self._num_held_out = num_held_out

    def objection(self, description: Description) -> str | None:
        """The reason to leave a description out; without one it counts as chosen."""
        beginning = beginning_of(description.document, self._word_counts)
        if self._beginnings[beginning] >= MAX_PER_BEGINNING:
            return "begins like many others"
        near = self._index.find_near(description.document)
        if near is not None:
            return f"near duplicate {'of dev or test' if near < self._num_held_out else 'in train'}"
        self._beginnings[beginning] += 1
        self._index.add(description.document)
        return None


def divide(found: list[Description], *, num_dev: int, num_test: int, max_train: int) -> Split:
    """The descriptions in three parts that share no source package and no near duplicate.

    Dev and test have one description of a source package each, so that they are independent, and
    none whose summary is in train. Raises ValueError if there are too few.
    """
    split, chooser = Split(), _Chooser(found)
    packages = by_source_package(found)
    held_out: set[str] = set()
    wanted = {"test": num_test, "dev": num_dev}
    for name, members in packages.items():
        part = next((part for part in wanted if len(split.parts[part]) < wanted[part]), None)
        if part is None:
            break
        held_out.add(name)
        chosen = next((m for m in members if chooser.objection(m) is None), None)
        if chosen is not None:
            split.parts[part].append(chosen)
        split.removed["rest of a dev or test package"] += len(members) - (chosen is not None)
    if any(len(split.parts[part]) < size for part, size in wanted.items()):
        raise ValueError(
            f"dev and test must hold {num_dev} and {num_test} descriptions, but there are only "
            f"{len(packages)} source packages; ask for fewer"
        )
    summaries = {normalize(d.summary) for part in wanted for d in split.parts[part]}
    chooser.close_held_out(num_dev + num_test)
    for name, members in packages.items():
        if name not in held_out:
            _add_to_train(split, members, chooser, summaries, max_train)
    return split


def _add_to_train(
    split: Split,
    members: list[Description],
    chooser: _Chooser,
    held_out_summaries: set[str],
    max_train: int,
) -> None:
    """Puts into train what may join it of one source package."""
    num_taken = 0
    for description in members:
        reason: str | None
        if len(split.parts["train"]) >= max_train:
            reason = "train is full"
        elif num_taken >= MAX_PER_SOURCE_PACKAGE:
            reason = "more of a source package"
        elif normalize(description.summary) in held_out_summaries:
            reason = "summary of dev or test"
        else:
            reason = chooser.objection(description)
        if reason is not None:
            split.removed[reason] += 1
        else:
            split.parts["train"].append(description)
            num_taken += 1


def beginning_of(document: str, word_counts: Counter[str]) -> str:
    """The first sentence with runs of rare words masked as X: what a family of packages shares."""
    first = normalize(split_sentences(document)[0])
    return template_of(first, word_counts) or first
