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


def test_a_missing_file_suggests_its_sibling(tmp_path: Path) -> None:
    file(tmp_path / "train.tsv", "a\tb\n")
    message = message_of(str(tmp_path / "trian.tsv"))
    assert "trian.tsv must be an existing file" in message
    assert f"Did you mean '{tmp_path / 'train.tsv'}'?" in message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"no folder '{tmp_path / 'dta'}'" in message_of(str(tmp_path / "dta" / "train.tsv"))


def test_a_slip_in_a_bare_name_does_not_ask_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "Did you mean 'corpus'?" in message_of("corpsu")


@pytest.mark.parametrize("name", ["x.tsv", "x.jsonl", "x.tsv.gz"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    content = gzip.compress(b"") if name.endswith(".gz") else b""
    assert f"{name} must hold examples, but it is empty" in message_of(
        file(tmp_path / name, content)
    )


def test_a_file_of_a_header_alone_is_refused(tmp_path: Path) -> None:
    assert "below its header" in message_of(file(tmp_path / "x.tsv", "source\ttarget\n"))


def test_different_numbers_of_lines_are_both_named(tmp_path: Path) -> None:
    source = file(tmp_path / "a.en", "1\n2\n3\n")
    target = file(tmp_path / "a.de", "1\n2\n")
    message = message_of(f"{source},{target}")
    assert f"found 3 in {source} and 2 in {target}" in message


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_empty_line_of_an_aligned_file_names_file_and_line(tmp_path: Path, side: str) -> None:
    texts = {"source": "a\nb\nc\n", "target": "d\ne\nf\n"} | {side: "x\n \ny\n"}
    paths = {name: file(tmp_path / name, text) for name, text in texts.items()}
    message = message_of(f"{paths['source']},{paths['target']}")
    assert f":2: {paths[side]} must hold text, found only blanks" in message


def test_an_empty_side_of_a_tsv_names_line_and_side(tmp_path: Path) -> None:
    spec = file(tmp_path / "x.tsv", "a\tb\n\tb\na\t  \n")
    message = message_of(spec)
    assert f"{spec}:2: source must hold text, found nothing" in message
    assert f"{spec}:3: target must hold text, found only blanks" in message
    assert "2 of 3 lines" in message


def test_a_header_counts_as_a_line_when_lines_are_named(tmp_path: Path) -> None:
    spec = file(tmp_path / "x.tsv", "source\ttarget\na\n")
    assert f"{spec}:2: must hold exactly two columns" in message_of(spec)


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz", "x.jsonl"])
def test_bad_utf8_names_line_and_offset(tmp_path: Path, name: str) -> None:
    content = b"caf\xc3\xa9\tx\ncaf\xe9\tx\n\xff\n"
    spec = file(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    message = message_of(spec)
    offset = content.index(b"\xe9")
    assert f"{spec}:2: text must be UTF-8, found byte 0xe9 at offset {offset} of" in message
    assert f"{spec}:3: text must be UTF-8, found byte 0xff at offset {len(content) - 2}" in message
    assert f"{3 if name == 'x.jsonl' else 2} of 3 lines" in message


def test_utf16_is_recognised(tmp_path: Path) -> None:
    assert "UTF-16" in message_of(file(tmp_path / "x.tsv", "a\tb\n".encode("utf-16")))


def test_a_torn_gzip_file_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"a\tb\n" * 1000)
    assert "whole gzip file" in message_of(file(tmp_path / "x.tsv.gz", packed[:-9]))
    assert "whole gzip file" in message_of(file(tmp_path / "y.tsv.gz", b"a\tb\n"))


def test_other_numbers_of_tsv_columns_are_counted(tmp_path: Path) -> None:
    spec = file(tmp_path / "x.tsv", "a\tb\nalone\n\na\tb\tc\n")
    message = message_of(spec)
    assert f"{spec}:2: must hold exactly two columns with a tab between them, found 1" in message
    assert f"{spec}:4: must hold exactly two columns with a tab between them, found 3" in message
    assert "3 of 4 lines" in message


def test_only_the_first_offences_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    message = message_of(file(tmp_path / "x.tsv", "a\n" * 1200))
    assert "1,200 of 1,200 lines" in message
    assert "and 1,195 more" in message
    assert message.count("\n") == 6


def test_malformed_json_names_line_and_column(tmp_path: Path) -> None:
    good = json.dumps({"source": "a", "target": "b"})
    spec = file(tmp_path / "x.jsonl", f'{good}\n{{"source": "a" "target"}}\n\n[1]\n')
    message = message_of(spec)
    assert f"{spec}:2: must be a JSON object, found Expecting ',' delimiter at column 16" in message
    assert f"{spec}:3: must be a JSON object, found an empty line" in message
    assert f"{spec}:4: must be a JSON object, found list" in message


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, "target must be text, found int"),
        (None, "target must be text, found nothing (null)"),
        ("", "target must hold text, found nothing"),
        ("a\0b", "target must not hold NUL characters, found one at character 1"),
        ("a\ud83d", "found half a surrogate pair (U+D83D) at character 1"),
        (["x"], "target must be text, found list"),
    ],
)
def test_values_that_are_no_text_name_line_and_type(
    tmp_path: Path, value: object, found: str
) -> None:
    rows = [{"source": "a", "target": "b"}, {"source": "a", "target": value}]
    spec = file(tmp_path / "x.jsonl", "\n".join(json.dumps(row) for row in rows))
    message = message_of(spec)
    assert f"{spec}:2: " in message
    assert found in message


def test_a_row_without_the_column_of_the_others_is_named(tmp_path: Path) -> None:
    spec = file(tmp_path / "x.jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}\n')
    assert f"{spec}:2: target must be text, found nothing" in message_of(spec)


def test_nul_in_a_tsv_is_refused(tmp_path: Path) -> None:
    assert "x.tsv:1: target must not hold NUL" in message_of(file(tmp_path / "x.tsv", "a\tb\0\n"))


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([{"role": "user"}], "messages, turn 1 must be a dictionary with role and content"),
        (["hello"], "messages, turn 1 must be a dictionary with role and content, found str"),
        ([{"role": "user", "content": None}], "turn 1, content must be text, found nothing (null)"),
        ([{"role": "assistant", "content": "x"}], "messages must hold a turn to answer"),
        ([], "must end with a turn of the assistant, found no turns"),
        ("hello", "messages must be a list of messages, found str"),
    ],
)
def test_malformed_chats_say_which_turn(tmp_path: Path, messages: object, found: str) -> None:
    spec = file(tmp_path / "x.jsonl", json.dumps({"messages": messages}))
    message = message_of(spec)
    assert f"{spec}:1: " in message
    assert found in message


@pytest.mark.parametrize("name", ["x.jsonl", "x.tsv"])
def test_an_unknown_column_names_the_existing_ones(tmp_path: Path, name: str) -> None:
    rows = {"x.jsonl": '{"question": "a", "answer": "b"}', "x.tsv": "question\tanswer\na\tb\n"}
    spec = file(tmp_path / name, rows[name])
    message = message_of(spec, source_column="qestion", target_column="answer")
    assert spec in message
    assert "'qestion' must be one of 'question', 'answer'. Did you mean 'question'?" in message


def test_unrecognised_columns_are_listed_with_the_settings_to_use(tmp_path: Path) -> None:
    message = message_of(file(tmp_path / "x.jsonl", '{"foo": "a", "bar": "b"}'))
    assert (
        "found 'foo', 'bar'; say which they are with data.source_column and data.target_column"
        in message
    )


def test_an_unknown_extension_lists_the_known_ones(tmp_path: Path) -> None:
    message = message_of(file(tmp_path / "x.csv", "a,b\n"))
    assert ".tsv, .tsv.gz, .jsonl, .jsonl.gz, .parquet" in message


def test_three_files_are_no_pair(tmp_path: Path) -> None:
    assert "two names with a comma" in message_of("a.en,a.de,a.fr")
    assert "a.en must be an existing file" in message_of(f"{tmp_path}/a.en,{tmp_path}/a.de")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    spec = file(tmp_path / "x.parquet", b"PAR1 not really")
    assert f"{spec} must be a whole Parquet file" in message_of(spec)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    assert f"the folder {tmp_path} must be one that" in message_of(str(tmp_path))


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
    assert "'wmt/wmt16:de-en' must be an existing file or folder, or a data set" in message
    assert "ConnectionError: no route" in message


@pytest.mark.parametrize("split", ["training", "validation"])
def test_an_unknown_split_is_refused(split: str) -> None:
    assert f"train, dev, test, got '{split}'" in message_of("bundled:en-de", split=split)


def test_an_unknown_bundled_corpus_is_refused() -> None:
    message = message_of("bundled:en-dee", split="train")
    assert "a bundled corpus must be one of" in message
    assert "'bundled:en-dee'" in message


HAS_CORPUS = (
    importlib.resources.files("seqdistill").joinpath("bundled/en-de/corpus.parquet").is_file()
)


@pytest.mark.skipif(not HAS_CORPUS, reason="the bundled corpus is not in this checkout")
def test_the_bundled_corpus_has_disjoint_splits_with_stable_ids() -> None:
    ids = [{e.id for e in read_examples("bundled:en-de", split=s)} for s in ("dev", "test")]
    assert [len(part) for part in ids] == [2000, 2000]
    assert not ids[0] & ids[1]
    assert "split must be one of train, dev, test" in message_of("bundled:en-de")
