"""Divides clean pairs into train, dev and test by document, and keeps the three apart.

Documents are taken in the order of the sha256 of their name, so a document does not change sides
when the corpus grows; no random state is involved.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import cycle

from corpora.duplicates import (
    MAX_PER_TEMPLATE,
    NearDuplicateIndex,
    character_grams,
    normalize,
    template_of,
)
from corpora.en_de.sentences import Pair

NEAR_THRESHOLD = 0.6
MIN_HELD_OUT_WORDS = 4
MAX_PER_DOCUMENT = 20
# A longer document in dev or test would throw away too much training text.
MAX_HELD_OUT_DOCUMENT = 250
HELD_OUT = ("dev", "test")


@dataclass
class Split:
    """The three parts and how many pairs were left out, by reason."""

    parts: dict[str, list[Pair]] = field(
        default_factory=lambda: {"train": [], "dev": [], "test": []}
    )
    removed: Counter[str] = field(default_factory=Counter)


def hash_of(text: str) -> str:
    """The order key of a name: sha256 in hexadecimal."""
    return sha256(text.encode()).hexdigest()


def quotas(pairs: list[Pair], num_held_out: int) -> dict[str, int]:
    """Pairs wanted from each origin, proportional to its size, summing to num_held_out."""
    sizes = Counter(pair.origin for pair in pairs)
    wanted = {origin: num_held_out * size // len(pairs) for origin, size in sorted(sizes.items())}
    wanted[max(sizes, key=lambda origin: (sizes[origin], origin))] += num_held_out - sum(
        wanted.values()
    )
    return wanted


def group_by_document(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Document -> its pairs, documents in hash order."""
    documents: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        documents[pair.document].append(pair)
    return {name: documents[name] for name in sorted(documents, key=hash_of)}


def hold_out(
    pairs: list[Pair], num_held_out: int, indexes: list[NearDuplicateIndex]
) -> tuple[Split, set[str]]:
    """Dev and test of exactly num_held_out pairs each, and the documents they were taken from.

    No chosen sentence is a near duplicate of another one, on either side. The chosen sentences
    are added to the two indexes, English and German.
    """
    split = Split()
    chosen: set[str] = set()
    wanted = {part: quotas(pairs, num_held_out) for part in HELD_OUT}
    turns = cycle(HELD_OUT)
    for document, members in group_by_document(pairs).items():
        origin = members[0].origin
        if len(members) > MAX_HELD_OUT_DOCUMENT:
            continue
        part = next(turns)
        if not wanted[part][origin]:
            part = "dev" if part == "test" else "test"
        if not wanted[part][origin]:
            continue
        num_taken = 0
        for pair in sorted(members, key=lambda pair: hash_of(pair.identifier)):
            sides = [normalize(pair.source), normalize(pair.target)]
            full = num_taken == MAX_PER_DOCUMENT or not wanted[part][origin]
            if full or len(pair.source.split()) < MIN_HELD_OUT_WORDS:
                continue
            if any(
                index.find_near(side) is not None
                for index, side in zip(indexes, sides, strict=True)
            ):
                continue
            for index, side in zip(indexes, sides, strict=True):
                index.add(side)
            split.parts[part].append(pair)
            wanted[part][origin] -= 1
            num_taken += 1
        if num_taken:
            chosen.add(document)
    missing = {part: sum(counts.values()) for part, counts in wanted.items()}
    if any(missing.values()):
        raise ValueError(
            f"dev and test must hold {num_held_out} pairs each, but {missing} are missing; "
            "add documents or ask for fewer pairs"
        )
    return split, chosen


def fill_train(
    pairs: list[Pair], split: Split, held_out_documents: set[str], indexes: list[NearDuplicateIndex]
) -> None:
    """Put into train what is left, less every duplicate of dev, test or train itself."""
    kept = {pair for part in HELD_OUT for pair in split.parts[part]}
    exact_sources = {normalize(pair.source) for pair in kept}
    exact_targets = {normalize(pair.target) for pair in kept}
    sources = [normalize(pair.source) for pair in pairs]
    word_counts = Counter(word for sentence in sources for word in sentence.split())
    templates: Counter[str] = Counter()
    seen: set[str] = set()
    for pair, source in zip(pairs, sources, strict=True):
        target = normalize(pair.target)
        template = template_of(source, word_counts)
        if pair.document in held_out_documents:
            if pair not in kept:
                split.removed["rest of a dev or test document"] += 1
        elif source in exact_sources or target in exact_targets:
            split.removed["exact duplicate of dev or test"] += 1
        elif pair.source in seen:
            split.removed["exact duplicate in train"] += 1
        elif template is not None and templates[template] >= MAX_PER_TEMPLATE:
            split.removed["template in train"] += 1
        elif any(
            i.find_near(s) is not None for i, s in zip(indexes, (source, target), strict=True)
        ):
            split.removed["near duplicate of dev or test"] += 1
        else:
            seen.add(pair.source)
            if template is not None:
                templates[template] += 1
            split.parts["train"].append(pair)


def divide(pairs: list[Pair], num_held_out: int) -> Split:
    """The pairs in three parts that share no document and no near duplicate with dev or test."""
    indexes = [
        NearDuplicateIndex((normalize(p.source) for p in pairs), character_grams, NEAR_THRESHOLD),
        NearDuplicateIndex((normalize(p.target) for p in pairs), character_grams, NEAR_THRESHOLD),
    ]
    split, held_out_documents = hold_out(pairs, num_held_out, indexes)
    fill_train(pairs, split, held_out_documents, indexes)
    return split
