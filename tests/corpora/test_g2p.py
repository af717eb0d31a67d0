"""The grapheme-to-phoneme corpus: what is read of the dictionary, how it is divided and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora.g2p.build import Entry, build_tokenizer, divide, read_dictionary, write
from transformers import AutoTokenizer

from seqdistill.data.readers import read_examples

DICTIONARY = """'bout B AW1 T
abbe AE1 B IY0
abbe(2) AE0 B EY1
a.m. EY2 EH1 M
about AH0 B AW1 T # said everywhere
b2b B IY1 T UW0 B IY1
cab K AE1 B
"""


def numbered(count: int) -> list[Entry]:
    return [Entry("ab" + "c" * number, ("AH", "B")) for number in range(count)]


def test_plain_words_keep_their_first_pronunciation_without_stress() -> None:
    assert read_dictionary(DICTIONARY) == [
        Entry("abbe", ("AE", "B", "IY")),
        Entry("about", ("AH", "B", "AW", "T")),
        Entry("cab", ("K", "AE", "B")),
    ]


def test_every_word_is_in_one_split_whatever_the_order_of_the_dictionary() -> None:
    entries = numbered(50)
    splits = divide(entries, num_dev=5, num_test=10)
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 35,
        "dev": 5,
        "test": 10,
    }
    words = [entry.word for part in splits.values() for entry in part]
    assert sorted(words) == sorted(entry.word for entry in entries)
    assert divide(entries[::-1], num_dev=5, num_test=10) == splits


def test_a_held_out_word_stays_held_out_when_the_dictionary_grows() -> None:
    few, many = numbered(50), numbered(60)
    held_out = {entry.word for entry in divide(few, num_dev=5, num_test=10)["test"]}
    more = {entry.word for entry in divide(many, num_dev=0, num_test=10)["test"]}
    new = {entry.word for entry in many[50:]}
    assert more - new <= held_out


def test_a_word_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        divide([*numbered(3), numbered(1)[0]])


def test_symbols_round_trip_and_letters_are_no_phones() -> None:
    entries = read_dictionary(DICTIONARY)
    tokenizer = build_tokenizer(entries)
    for entry in entries:
        for text in (entry.source, entry.target):
            ids = tokenizer(text).input_ids
            assert ids[-1] == tokenizer.eos_token_id
            assert len(ids) == len(text.split()) + 1
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
    letter, phone = tokenizer("b").input_ids[0], tokenizer("B").input_ids[0]
    assert letter != phone


def test_what_is_written_is_read_back_by_the_package(tmp_path: Path) -> None:
    splits = divide(numbered(20), num_dev=3, num_test=4)
    write(splits, tmp_path, version="1.0")
    for split, part in splits.items():
        examples = read_examples(str(tmp_path / f"{split}.tsv"), split=split)
        pairs = [(example.source, example.target) for example in examples]
        assert pairs == [(entry.source, entry.target) for entry in part]
    facts = json.loads((tmp_path / "corpus.json").read_text())
    assert {split: facts["splits"][split]["words"] for split in splits} == {
        "train": 13,
        "dev": 3,
        "test": 4,
    }
    assert len(AutoTokenizer.from_pretrained(tmp_path / "tokenizer")) == 4 + 3 + 2
