"""Sources without targets: read as such whatever stands beside them, known by their ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqdistill.core.errors import DataError
from seqdistill.data import cache
from seqdistill.data.examples import Example, ExampleTable, Turn
from seqdistill.data.readers import read_examples
from seqdistill.data.unlabelled import num_unlabelled, with_unlabelled

HOUSE: dict[str, object] = {"source": "a house", "target": "ein Haus"}
ASKED = {"role": "user", "content": "Hi"}
ANSWERED = {"role": "assistant", "content": "Yo"}


def jsonl(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "row",
    [
        HOUSE,
        {"source": "a house", "target": ""},
        {"source": "a house", "target": 3},
        {"source": "a house"},
        {"translation": {"en": "a house", "de": "ein Haus"}},
        {"translation": {"en": "a house"}},
        {"en": "a house", "de": "ein Haus"},
        {"en": "a house"},
    ],
)
def test_a_row_is_its_source_whatever_its_target(tmp_path: Path, row: dict[str, object]) -> None:
    spec = jsonl(tmp_path / "x.jsonl", row)
    found = read_examples(spec, targets="unread", source_language="en", target_language="de")
    assert found == [Example("1", "a house", None)]


def test_the_column_of_the_targets_need_not_be_there(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"source_column": "text", "target_column": "german"}
    pq.write_table(pa.table({"text": ["a house"]}), tmp_path / "x.parquet")
    (tmp_path / "x.tsv").write_text("text\na house\n", encoding="utf-8")
    (tmp_path / "x.txt").write_text("a house\n", encoding="utf-8")
    (tmp_path / "de.txt").write_text(" \n", encoding="utf-8")
    for name in ("x.parquet", "x.tsv", "x.txt", f"x.txt,{tmp_path / 'de.txt'}"):
        found = read_examples(str(tmp_path / name), targets="unread", **columns)
        assert found == [Example("1", "a house", None)], name
    with pytest.raises(DataError, match="'german' must be one of 'text'"):
        read_examples(str(tmp_path / "x.parquet"), targets="optional", **columns)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, ANSWERED]},
        {"messages": [ASKED]},
        {"prompt": [ASKED], "completion": [ANSWERED]},
    ],
)
def test_a_conversation_is_all_but_its_last_answer(tmp_path: Path, row: dict[str, object]) -> None:
    found = read_examples(jsonl(tmp_path / "x.jsonl", row), targets="unread")
    assert found == [Example("1", "", None, (Turn("user", "Hi"),))]


def test_bundled_targets_are_not_read() -> None:
    found = read_examples("bundled:en-de", split="dev", targets="unread")
    assert {example.target for example in found} == {None}
    assert [e.source for e in found] == [
        e.source for e in read_examples("bundled:en-de", split="dev")
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_they_come_after_the_chosen_training_examples_under_ids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 0 if cached else 10**9)
    train = read_examples(jsonl(tmp_path / "train.jsonl", HOUSE, HOUSE, HOUSE)).select([2, 0])
    (tmp_path / "more.txt").write_text("a tree\na cat\n", encoding="utf-8")
    more = read_examples(str(tmp_path / "more.txt"), targets="unread")
    both = with_unlabelled(train, more)
    expected = [
        Example("3", "a house", "ein Haus"),
        Example("1", "a house", "ein Haus"),
        Example("unlabelled:1", "a tree", None),
        Example("unlabelled:2", "a cat", None),
    ]
    assert both == expected
    assert both.ids == [example.id for example in expected]
    assert both.named("unlabelled:2").source == "a cat"
    assert both.select([3, 1]) == [expected[3], expected[1]]
    assert num_unlabelled(both) == 2 and num_unlabelled(train) == 0
    tables = (both, with_unlabelled(train, more.select([1, 0])), train, more)
    assert len({table.fingerprint for table in tables}) == len(tables)


@pytest.mark.parametrize(
    ("train", "more", "message"),
    [
        ([Example("unlabelled:1", "a", "b")], [Example("1", "a", None)], "found 'unlabelled:1'"),
        (
            [Example("1", "", "b", (Turn("user", "a"),))],
            [Example("1", "a", None)],
            "found plain texts beside conversations",
        ),
        (
            [Example("1", "a", "b")],
            [Example("1", "", None, (Turn("user", "a"),))],
            "found conversations beside plain texts",
        ),
    ],
)
def test_equal_ids_and_other_forms_are_refused(
    train: Sequence[Example], more: Sequence[Example], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        with_unlabelled(ExampleTable.of(train), ExampleTable.of(more))
