"""Writes English sentences without a translation, of the domain of the English-German corpus.

    python -m corpora.en_de.unlabelled --output runs/en-de/unlabelled.txt

They are those of the long and short descriptions of Debian packages in the training part of the
bundled summaries, most of which nobody has translated: a file for `data.unlabelled`, with nothing
that is nearly a source of the parallel corpus. The bundled corpora give the same bytes again.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from corpora.duplicates import (
    MAX_PER_TEMPLATE,
    NearDuplicateIndex,
    character_grams,
    normalize,
    template_of,
)
from corpora.en_de.clean import MARKUP, MAX_WORDS, MIN_WORDS, MOJIBAKE, is_fragment, strip_debris
from corpora.en_de.sentences import split_sentences
from corpora.en_de.split import HELD_OUT, NEAR_THRESHOLD
from seqdistill.records import atomic

NEAR_IN_TRAIN = 0.8
"""Jaccard similarity to a sentence that is learned from, from which on another adds little."""
BUNDLED = Path(__file__).parents[2] / "src" / "seqdistill" / "bundled"


def sentences_of(document: str) -> Iterator[str]:
    """The sentences of running text; items of lists, which semicolons part, are their own."""
    for sentence in split_sentences(document):
        yield from (strip_debris(part) for part in sentence.split("; "))


def is_fit(text: str) -> bool:
    """Whether a source would be, by the rules for pairs that look at one side alone."""
    return (
        MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and not MOJIBAKE.search(text)
        and not MARKUP.search(text)
        and not is_fragment(text)
    )


def disjoint(
    candidates: Sequence[str], *, held_out: Iterable[str], train: Iterable[str]
) -> tuple[list[str], Counter[str]]:
    """The candidates, in order, that are no near duplicate of a known text or an earlier one.

    What is held out is kept as far away as from the parallel corpus, whose rule for templates
    holds, too. Also how many were left out, by reason.
    """
    normalized = [normalize(text) for text in candidates]
    known = {"dev or test": {*map(normalize, held_out)}, "train": {*map(normalize, train)}}
    indexes = {}
    for name, threshold in (("dev or test", NEAR_THRESHOLD), ("train", NEAR_IN_TRAIN)):
        texts = sorted(known[name])
        indexes[name] = NearDuplicateIndex([*texts, *normalized], character_grams, threshold)
        for text in texts:
            indexes[name].add(text)
    seen, kept, removed = known["dev or test"] | known["train"], list[str](), Counter[str]()
    word_counts = Counter(word for text in normalized for word in text.split())
    templates = Counter[str]()
    for candidate, text in zip(candidates, normalized, strict=True):
        template = template_of(text, word_counts)
        near = None
        if text not in seen:
            near = next((n for n, i in indexes.items() if i.find_near(text) is not None), None)
        if text in seen:
            removed["exact duplicate"] += 1
        elif near is not None:
            removed[f"near duplicate of {near}"] += 1
        elif template is not None and templates[template] >= MAX_PER_TEMPLATE:
            removed["template"] += 1
        else:
            indexes["train"].add(text)
            if template is not None:
                templates[template] += 1
            kept.append(candidate)
        seen.add(text)
    return kept, removed


def candidates_of(rows: Iterable[dict[str, str]], held_out: frozenset[str]) -> list[str]:
    """The fit sentences of descriptions in train, but of none in a held-out document."""
    return [
        text
        for row in rows
        if row["split"] == "train" and f"ddtp/{row['source_package']}" not in held_out
        for text in (*sentences_of(row["document"]), *sentences_of(row["summary"]))
        if is_fit(text)
    ]


def write(path: Path) -> str:
    """Writes the file and says what is in it and what was left out."""
    pairs = pq.read_table(BUNDLED / "en-de" / "corpus.parquet").to_pylist()
    held_out = frozenset(pair["document"] for pair in pairs if pair["split"] in HELD_OUT)
    rows = pq.read_table(BUNDLED / "debian-summaries" / "corpus.parquet").to_pylist()
    candidates = candidates_of(rows, held_out)
    kept, removed = disjoint(
        candidates,
        held_out=(pair["source"] for pair in pairs if pair["split"] in HELD_OUT),
        train=(pair["source"] for pair in pairs if pair["split"] == "train"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, "".join(f"{text}\n" for text in kept))
    words = sum(len(text.split()) for text in kept)
    return f"{len(kept):,} sentences of {words:,} words in {path}; left out {removed}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="file of a sentence a line")
    print(write(parser.parse_args().output))


if __name__ == "__main__":
    main()
