"""Readers: each mistake has one error that names the file, the place, and what to do."""

from __future__ import annotations

import gzip
import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest

from seqdistill.core.errors import DataError
from seqdistill.data.readers import read_examples


def file(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


def message_of(spec: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_examples(spec, **settings)
    return str(caught.value)


def test_slips_in_names_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path / "train.tsv", "a\tb\n")
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "Did you mean 'train.tsv'?" in message_of("trian.tsv")
    assert "Did you mean 'corpus'?" in message_of("corpsu")  # and the hub is not asked
    assert f"no folder '{tmp_path / 'dta'}'" in message_of(str(tmp_path / "dta" / "train.tsv"))
    assert "two names with a comma" in message_of("a.en,a.de,a.fr")
    assert "a.en must be an existing file" in message_of("./a.en,./a.de")
    assert "the folder corpus must be one that" in message_of("corpus")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.tsv", b"", "must hold examples"),
        ("x.jsonl", b"", "must hold examples"),
        ("x.tsv.gz", gzip.compress(b"", mtime=0), "must hold examples"),
        ("x.tsv", "source\ttarget\n", "must hold examples"),
        ("x.tsv", "source\ttarget\ttarget\na\tb\tc\n", "found 'target' twice"),
        ("x.tsv", "a\tb\n".encode("utf-16"), "UTF-16"),
        ("x.tsv.gz", gzip.compress(b"a\tb\n" * 1000, mtime=0)[:-9], "whole gzip file"),
        ("x.tsv.gz", b"a\tb\n", "whole gzip file"),
        ("x.parquet", b"PAR1 not really", "whole Parquet file"),
        ("x.csv", b"a,b\n", ".tsv, .tsv.gz, .jsonl, .jsonl.gz, .parquet"),
        ("x.jsonl", '{"foo": "a", "bar": "b"}', "found 'foo', 'bar'"),
        ("x.jsonl", '{"prompt": "1 + 1", "answer": "2"}', "data.target_column"),
    ],
)
def test_files_that_cannot_be_read_are_refused(
    tmp_path: Path, name: str, content: bytes | str, found: str
) -> None:
    message = message_of(file(tmp_path / name, content))
    assert name in message and found in message


@pytest.mark.parametrize(
    ("name", "content", "places", "count"),
    [
        ("x.tsv", "a\tb\n\tb\na\t  \n", {2: "source must hold", 3: "target must hold"}, "2 of 3"),
        ("x.tsv", "a\tb\nalone\n\na\tb\tc\n", {2: "found 1", 4: "found 3"}, "3 of 4"),
        ("x.tsv", "source\ttarget\na\n", {2: "exactly 2 columns"}, "1 of 2"),
        ("x.tsv", "a\tb\0\n", {1: "target must not hold NUL"}, "1 of 1"),
        ("x.tsv", "a\n" * 1200, {1: "found 1", 5: "found 1"}, "1,200 of 1,200"),
        (
            "x.jsonl",
            '{"source": "a", "target": "b"}\n{"source": "a" "target"}\n\n[1]\n{"source": "a"}\n',
            {2: "delimiter at column 16", 3: "an empty line", 4: "found list", 5: "target must be"},
            "4 of 5",
        ),
    ],
)
def test_all_wrong_lines_are_counted_and_the_first_named(
    tmp_path: Path, name: str, content: str, places: dict[int, str], count: str
) -> None:
    spec = file(tmp_path / name, content)
    message = message_of(spec)
    assert f"{count} lines" in message
    found = dict(line.strip().split(": ", 1) for line in message.splitlines()[1:6])
    for line, what in places.items():
        assert what in found[f"{spec}:{line}"]
    assert message.count("\n") <= 6


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz", "x.jsonl"])
def test_bad_utf8_names_line_and_place(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbfcaf\xc3\xa9\tx\ncaf\xe9\tx\n\xff\n"
    packed = gzip.compress(content, mtime=0) if name.endswith(".gz") else content
    spec = file(tmp_path / name, packed)
    message = message_of(spec)
    assert f"{spec}:2: text must be UTF-8, found byte 0xe9 after 3 characters" in message
    assert f"{spec}:3: text must be UTF-8, found byte 0xff after 0 characters" in message
    assert f"{3 if name == 'x.jsonl' else 2} of 3 lines" in message


def test_mistakes_of_aligned_files_name_both_files_and_the_line(tmp_path: Path) -> None:
    three, two = file(tmp_path / "a.en", "1\n2\n3\n"), file(tmp_path / "a.de", "1\n2\n")
    assert f"found 3 in {three} and 2 in {two}" in message_of(f"{three},{two}")
    blank = file(tmp_path / "a.fr", "x\n \ny\n")
    for pair in (f"{three},{blank}", f"{blank},{three}"):
        assert f":2: {blank} must hold text, found only blanks" in message_of(pair)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        *(
            ({"source": "a", "target": value}, found)
            for value, found in [
                (3, "target must be text, found int"),
                (None, "target must be text, found nothing (null)"),
                ("", "target must hold text, found nothing"),
                ("a\0b", "found one at character 1"),
                ("a\ud83d", "(U+D83D) at character 1"),
                (["x"], "target must be text, found list"),
            ]
        ),
        *(
            ({"messages": value}, found)
            for value, found in [
                ([{"role": "user"}], "messages, turn 1 must be a dictionary"),
                (["hello"], "found str"),
                ([{"role": "user", "content": None}], "turn 1, content must be text"),
                ([{"role": "assistant", "content": "x"}], "must hold a turn to answer"),
                ([], "found no turns"),
                ("hello", "messages must be a list of messages, found str"),
            ]
        ),
    ],
)
def test_a_wrong_value_names_line_and_type(
    tmp_path: Path, row: dict[str, object], found: str
) -> None:
    good = {"source": "a", "target": "b", "messages": [{"role": "user", "content": "x"}]}
    rows = [{name: good[name] for name in row}, row] if "source" in row else [row]
    spec = file(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    message = message_of(spec)
    assert f"{spec}:{len(rows)}: " in message and found in message


def test_an_unknown_column_names_the_existing_ones(tmp_path: Path) -> None:
    rows = {"x.jsonl": '{"question": "a", "answer": "b"}', "x.tsv": "question\tanswer\na\tb\n"}
    for name, text in rows.items():
        spec = file(tmp_path / name, text)
        message = message_of(spec, source_column="qestion", target_column="answer")
        assert f"{spec}:" in message
        assert "'qestion' must be one of 'question', 'answer'. Did you mean 'question'?" in message


def test_a_hub_name_that_cannot_be_reached_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def unreachable(name: str, configuration: str | None) -> None:
        asked.append((name, configuration))
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.chdir(tmp_path)
    message = message_of("wmt/wmt16:de-en")
    assert asked == [("wmt/wmt16", "de-en")]
    assert "'wmt/wmt16:de-en'" in message and "ConnectionError: no route" in message


HAS_CORPUS = (
    importlib.resources.files("seqdistill").joinpath("bundled/en-de/corpus.parquet").is_file()
)


@pytest.mark.skipif(not HAS_CORPUS, reason="the bundled corpus is not in this checkout")
def test_the_bundled_corpus_has_disjoint_splits_with_stable_ids() -> None:
    ids = [{e.id for e in read_examples("bundled:en-de", split=s)} for s in ("dev", "test")]
    assert [len(part) for part in ids] == [2000, 2000]
    assert not ids[0] & ids[1]
    assert "train, dev, test, got 'validation'" in message_of("bundled:en-de", split="validation")
