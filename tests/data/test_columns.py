"""No column disappears: each is used with one meaning, named as not read, or refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.chat_families import family_tokenizer

from seqdistill.core.errors import DataError
from seqdistill.data.examples import Example, Turn
from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}]
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": CALL},
    {"role": "tool", "name": "weather", "content": "18 C"},
    {"role": "assistant", "content": "18 C", "reasoning_content": "It is so."},
]


def jsonl(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def one(folder: Path, row: dict[str, Any], **more: Any) -> Example:
    (example,) = read_examples(jsonl(folder, row), **more)
    return example


@pytest.mark.parametrize(("about", "answer"), [("input", "output"), ("context", "response")])
def test_an_instruction_is_joined_with_what_it_is_about(
    tmp_path: Path, about: str, answer: str
) -> None:
    row = {"instruction": "Translate.", about: "a cat", answer: "eine Katze"}
    assert one(tmp_path, row) == Example("1", "Translate.\n\na cat", "eine Katze")
    assert one(tmp_path, {**row, about: ""}).source == "Translate."
    del row[about]
    assert one(tmp_path, row).source == "Translate."
    del row[answer]
    assert one(tmp_path, row, targets="optional") == Example("1", "Translate.", None)


def test_system_tools_and_reasoning_make_a_row_a_conversation(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "completion": "Yo", "system": "Be brief.", "tools": TOOLS}
    found = one(tmp_path, {**row, "reasoning_content": "hm"})
    assert found.messages == (Turn("system", "Be brief."), Turn("user", "Hi"))
    assert (found.source, found.target) == ("", "Yo")
    assert json.loads(found.tools) == TOOLS
    assert json.loads(found.answer_more) == {"reasoning_content": "hm"}
    assert one(tmp_path, {**row, "tools": json.dumps(TOOLS)}).tools == found.tools
    ignored = one(tmp_path, row, ignore_columns=["system", "tools"])
    assert ignored == Example("1", "Hi", "Yo")
    twice = {"system": "x", "messages": [{"role": "system", "content": "y"}, CHAT[0], CHAT[3]]}
    with pytest.raises(DataError, match="must be one system prompt"):
        one(tmp_path, twice)


def test_turns_are_kept_whole_in_every_format(tmp_path: Path) -> None:
    from_jsonl = one(tmp_path, {"messages": CHAT})
    assert [
        turn.as_dict() for turn in (*(from_jsonl.messages or ()), from_jsonl.answer) if turn
    ] == [{key: value for key, value in turn.items() if value is not None} for turn in CHAT]
    other = [{"type": "function", "function": {"name": "time", "arguments": {"zone": "x"}}}]
    turns = [CHAT[0], {**CHAT[1], "tool_calls": other}, *CHAT[2:]]
    table = pa.Table.from_pylist([{"messages": CHAT}, {"messages": turns}])
    pq.write_table(table, tmp_path / "rows.parquet")
    from_table, _ = read_examples(str(tmp_path / "rows.parquet"))
    assert from_table.messages is not None and from_jsonl.messages is not None
    for ours, theirs in zip(from_table.messages, from_jsonl.messages, strict=True):
        assert ours.as_dict() == theirs.as_dict()


def test_no_column_is_lost_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row: dict[str, Any]
    for lost in ("images", "rejected", "documents", "tool_calls"):
        row = {"prompt": "a", "completion": "b", lost: "c"}
        with pytest.raises(DataError, match=rf"data.ignore_columns=\[{lost}\]"):
            one(tmp_path, row)
        assert one(tmp_path, row, ignore_columns=[lost]) == Example("1", "a", "b")
    assert not caplog.messages
    row = {"id": "x", "source": "a", "target": "b", "topic": 1, "messages": CHAT}
    assert one(tmp_path, row) == Example("x", "a", "b")
    (line,) = caplog.messages
    assert "read as 'source', 'target', 'id'; columns not read: 'topic', 'messages'" in line


def test_what_the_template_leaves_out_is_refused_until_confirmed(tmp_path: Path) -> None:
    gemma, qwen = family_tokenizer("gemma"), family_tokenizer("qwen")
    last = {"role": "assistant", "content": "18 C"}
    filled = [CHAT[0], {**CHAT[1], "content": ""}, CHAT[2], last]
    example = one(tmp_path, {"messages": filled})
    with pytest.raises(DataError, match=r"'tool_calls', but leaves it out .*ignore_columns="):
        encode([example], gemma, "causal")
    encode([example], qwen, "causal")
    thought = one(tmp_path, {"messages": [CHAT[0], CHAT[3]]})
    with pytest.raises(DataError, match="'reasoning_content'"):
        encode([thought], qwen, "causal")
    encode([thought], family_tokenizer("qwen-thinking"), "causal")
    confirmed = one(
        tmp_path, {"messages": [CHAT[0], CHAT[3]]}, ignore_columns=["reasoning_content"]
    )
    encode([confirmed], qwen, "causal")
    with_tools = one(tmp_path, {"messages": [CHAT[0], last], "tools": TOOLS})
    encode([with_tools], qwen, "causal")
    with pytest.raises(DataError, match="the column 'tools'"):
        encode([with_tools], gemma, "causal")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            '{"source": "a", "target": "b", "id": ' + "9" * 5000 + "}",
            "object, found a number of more than 4,300",
        ),
        ('{"source": "a", "target": "b", "target": "c"}', "'target' twice"),
        ("[" * 5000, "too many nested brackets"),
        ('{"source": "a", "target": ' + "[" * 5000 + "]" * 5000 + "}", "too many nested brackets"),
        (json.dumps({f"key{i}": i for i in range(20_000)}), "and 19,980 more"),
    ],
)
def test_endless_values_are_a_sentence_in_seconds(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    started = time.perf_counter()
    with pytest.raises(DataError, match=found) as raised:
        read_examples(str(path))
    assert time.perf_counter() - started < 5
    assert len(str(raised.value)) < 2000


def test_dates_beyond_the_year_9999_are_a_sentence(tmp_path: Path) -> None:
    dates = pa.array([4_000_000], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"source": ["a"], "target": dates}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="values that Python knows"):
        read_examples(str(tmp_path / "x.parquet"))


def test_content_in_parts_is_read_when_it_is_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    user = {"role": "user", "content": parts}
    assert one(tmp_path, {"messages": [user, CHAT[3]]}).messages == (Turn("user", "Hi there"),)
    user = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}
    with pytest.raises(DataError, match="parts of type text, found 'image_url'"):
        one(tmp_path, {"messages": [user, CHAT[3]]})
