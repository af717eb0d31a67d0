"""Builds the bundled English-German corpus: fetch, extract, clean, split, write.

    python -m corpora.en_de.build --output src/seqdistill/bundled/en-de

The same packages give the same bytes. It writes corpus.parquet and corpus.json; LICENSES.md is
kept by hand, since licences have to be read.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from corpora.en_de import ddtp, gnomehelp, lohelp
from corpora.en_de.clean import reason_to_drop, strip_debris
from corpora.en_de.fetch import (
    GNOME_PACKAGES,
    GUIDE_PACKAGE,
    LIBREOFFICE_PACKAGES,
    PACKAGES,
    ChangedPackagesError,
    Locked,
    checksum,
    describe_changes,
    fetch_lists,
    fetch_package,
    read_lock,
    write_lock,
)
from corpora.en_de.sentences import Pair
from corpora.en_de.split import Split, divide
from corpora.parquet import TOOLS, parquet_bytes, write_corpus

LOCK = Path(__file__).with_name("packages.lock.json")
NUM_HELD_OUT = 2000
ROW_GROUP_SIZE = 16_384
COLUMNS = ("id", "source", "target", "origin", "document", "split")


def fetch(cache: Path, *, accept_changes: bool) -> tuple[dict[str, str], dict[str, Path]]:
    """The texts of the apt lists and the folders of the unpacked packages, as locked."""
    locked = read_lock(LOCK)
    lists = fetch_lists(cache, locked)
    packages = {name: fetch_package(cache, name, locked) for name in PACKAGES}
    found: dict[str, Locked] = {name: entry for name, (_, entry) in lists.items()}
    found |= {name: entry for name, (_, entry) in packages.items()}
    changes = describe_changes(locked, found)
    if changes and not accept_changes:
        raise ChangedPackagesError(
            "the packages must be those of packages.lock.json, but\n  "
            + "\n  ".join(changes)
            + "\nuse --accept-changes to build from them and rewrite the lock"
        )
    for change in changes:
        print(f"accepted: {change}")
    if changes:
        write_lock(LOCK, found)
    texts = {name: text for name, (text, _) in lists.items()}
    return texts, {name: folder for name, (folder, _) in packages.items()}


def extract(texts: dict[str, str], folders: dict[str, Path]) -> Iterator[Pair]:
    """All aligned pairs, in a fixed order."""
    yield from ddtp.extract(texts["Translation-en"], texts["Translation-de"], texts["Packages"])
    english, german = LIBREOFFICE_PACKAGES
    yield from lohelp.extract(folders[english], folders[german])
    for name in GNOME_PACKAGES:
        yield from gnomehelp.extract_help(folders[name])
    yield from gnomehelp.extract_guide(folders[GUIDE_PACKAGE])


def clean(pairs: Iterator[Pair]) -> tuple[list[Pair], Counter[str]]:
    """The pairs fit for use, and how many were not, by reason."""
    kept, removed = [], Counter[str]()
    for pair in pairs:
        pair = replace(pair, source=strip_debris(pair.source), target=strip_debris(pair.target))
        reason = reason_to_drop(pair)
        if reason is None:
            kept.append(pair)
        else:
            removed[reason] += 1
    return kept, removed


def corpus_bytes(split: Split) -> bytes:
    """The corpus as Parquet, rows in the order train, dev, test and by id inside."""
    rows = [
        (pair.identifier, pair.source, pair.target, pair.origin, pair.document, part)
        for part in ("train", "dev", "test")
        for pair in sorted(split.parts[part], key=lambda pair: pair.identifier)
    ]
    return parquet_bytes(COLUMNS, rows, row_group_size=ROW_GROUP_SIZE)


def count_words(pairs: list[Pair]) -> dict[str, int]:
    """Pairs, words of both sides and documents."""
    return {
        "pairs": len(pairs),
        "english_words": sum(len(pair.source.split()) for pair in pairs),
        "german_words": sum(len(pair.target.split()) for pair in pairs),
        "documents": len({pair.document for pair in pairs}),
    }


def manifest(content: bytes, split: Split, removed: Counter[str]) -> dict[str, Any]:
    """What corpus.json says about the file."""
    origins = sorted({pair.origin for pair in split.parts["train"]})
    return {
        "file": "corpus.parquet",
        "sha256": checksum(content),
        "bytes": len(content),
        "source_language": "en",
        "target_language": "de",
        "counts": {
            part: {"all": count_words(pairs)}
            | {
                origin: count_words([pair for pair in pairs if pair.origin == origin])
                for origin in origins
            }
            for part, pairs in split.parts.items()
        },
        "removed_pairs": dict(sorted((removed + split.removed).items())),
        "packages": {name: entry.version for name, entry in sorted(read_lock(LOCK).items())},
        "tools": TOOLS,
    }


def main() -> int:
    """Build the corpus; returns 1 if the packages are not the locked ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="folder of the corpus files")
    parser.add_argument("--cache", type=Path, default=Path(".cache/corpus-en-de"))
    parser.add_argument("--accept-changes", action="store_true", help="rewrite the lock")
    arguments = parser.parse_args()
    try:
        texts, folders = fetch(arguments.cache, accept_changes=arguments.accept_changes)
    except ChangedPackagesError as error:
        print(error, file=sys.stderr)
        return 1
    pairs, removed = clean(extract(texts, folders))
    split = divide(pairs, NUM_HELD_OUT)
    content = corpus_bytes(split)
    write_corpus(arguments.output, content, manifest(content, split, removed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
