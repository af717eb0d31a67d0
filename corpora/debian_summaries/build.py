"""Builds the bundled summarization corpus: long to short descriptions of Debian packages.

    python -m corpora.debian_summaries.build --output src/seqdistill/bundled/debian-summaries

The apt lists are those that the English-German corpus is locked to. The same lists give the same
bytes. It writes corpus.parquet and corpus.json; LICENSES.md is kept by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from corpora.debian_summaries.descriptions import Description, clean, read_descriptions
from corpora.debian_summaries.split import Split, divide
from corpora.en_de.build import LOCK
from corpora.en_de.ddtp import source_packages
from corpora.en_de.fetch import checksum, fetch_lists, read_lock
from corpora.parquet import TOOLS, parquet_bytes, write_corpus

LISTS = ("Packages", "Translation-en")
NUM_DEV, NUM_TEST, MAX_TRAIN = 1000, 2000, 30_000
ROW_GROUP_SIZE = 8192
COLUMNS = ("id", "document", "summary", "source_package", "split")


def fetch(cache: Path) -> dict[str, str]:
    """The texts of the two lists. Raises SystemExit when they are not the locked ones."""
    locked = read_lock(LOCK)
    fetched = fetch_lists(cache, locked)
    for name in LISTS:
        found = fetched[name][1].sha256
        if found != locked[name].sha256:
            sys.exit(
                f"the list {name} must have the sha256 {locked[name].sha256} of {LOCK.name}, found "
                f"{found}; build the English-German corpus with --accept-changes to lock new lists"
            )
    return {name: fetched[name][0] for name in LISTS}


def corpus_bytes(split: Split) -> bytes:
    """The corpus as Parquet, rows in the order train, dev, test and by id inside."""
    rows = [
        (found.identifier, found.document, found.summary, found.source_package, part)
        for part in ("train", "dev", "test")
        for found in sorted(split.parts[part], key=lambda found: found.identifier)
    ]
    return parquet_bytes(COLUMNS, rows, row_group_size=ROW_GROUP_SIZE)


def count_words(found: list[Description]) -> dict[str, int]:
    """Pairs, words of both sides and source packages."""
    return {
        "pairs": len(found),
        "document_words": sum(len(d.document.split()) for d in found),
        "summary_words": sum(len(d.summary.split()) for d in found),
        "source_packages": len({d.source_package for d in found}),
    }


def manifest(content: bytes, split: Split, removed: Counter[str]) -> dict[str, Any]:
    """What corpus.json says about the file."""
    locked = read_lock(LOCK)
    return {
        "file": "corpus.parquet",
        "sha256": checksum(content),
        "bytes": len(content),
        "language": "en",
        "task": "summarization: the long description of a Debian package to the short one",
        "counts": {part: count_words(found) for part, found in split.parts.items()},
        "removed": dict(sorted((removed + split.removed).items())),
        "lists": {
            name: {"list": locked[name].version, "sha256": locked[name].sha256} for name in LISTS
        },
        "tools": TOOLS,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the corpus files")
    parser.add_argument("--cache", type=Path, default=Path(".cache/corpus-en-de"))
    arguments = parser.parse_args()
    texts = fetch(arguments.cache)
    sources = source_packages(texts["Packages"])
    found, removed = clean(read_descriptions(texts["Translation-en"], sources))
    split = divide(found, num_dev=NUM_DEV, num_test=NUM_TEST, max_train=MAX_TRAIN)
    content = corpus_bytes(split)
    write_corpus(arguments.output, content, manifest(content, split, removed))


if __name__ == "__main__":
    main()
