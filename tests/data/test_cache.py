"""What is read and tokenized once is found again, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import character_tokenizer

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, UserError
from seqdistill.data import cache, readers, tables, text_encoding
from seqdistill.data.conversations import ChatSettings
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable, Turn
from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode
from seqdistill.records import fingerprint

ROWS_PER_BATCH = 16
EXAMPLES = [
    Example(f"e{i}", "ab c"[: 1 + i % 4], "d</s>e"[: 1 + i % 6], extras={"rate": i / 8})
    for i in range(2 * ROWS_PER_BATCH + 10)
]
CHAT = Example("chat", "", "hi", (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")))
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"


@pytest.fixture(autouse=True)
def everything_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 0)
    monkeypatch.setattr(tables, "ROWS_PER_BATCH", ROWS_PER_BATCH)
    monkeypatch.setattr(text_encoding, "ROWS_PER_BATCH", ROWS_PER_BATCH)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each batch that is tokenized in this process."""
    calls: list[int] = []
    batch = text_encoding._batch

    def counted(examples: Any, encoder: Any, start: int) -> Any:
        calls.append(start)
        return batch(examples, encoder, start)

    monkeypatch.setattr(text_encoding, "_batch", counted)
    return calls


def tokenized(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "tokenized").glob("*.arrow"))


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_tokenizing_again_reads_the_cache_and_warns_again(
    kind: Kind, made: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = character_tokenizer(closes=False)
    first = encode(EXAMPLES, tokenizer, kind)
    assert made == [0, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH]
    assert caplog.text.count("read as text") == 1
    again = encode(EXAMPLES, tokenizer, kind)
    assert len(made) == 3
    assert caplog.text.count("read as text") == 2
    one_by_one = [encode([example], tokenizer, kind)[0] for example in EXAMPLES[::7]]
    assert first == again and list(first)[::7] == one_by_one
    assert first.fingerprint == again.fingerprint
    assert EncodedDataset.of(list(first)).fingerprint == first.fingerprint
    assert first[9].extras == {"rate": 9 / 8}


def test_several_processes_tokenize_as_one_does(
    monkeypatch: pytest.MonkeyPatch, made: list[int], tmp_path: Path
) -> None:
    tokenizer = character_tokenizer(closes=False)
    alone = encode(EXAMPLES, tokenizer, "causal")
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "other"))
    monkeypatch.setattr(text_encoding, "CACHED_FROM_BYTES", 0)
    monkeypatch.setattr(text_encoding, "usable_cores", lambda: 2)
    together = encode(EXAMPLES, tokenizer, "causal")
    assert len(made) == 3, "the second time none in this process"
    assert (together, together.notes) == (alone, alone.notes)
    assert together.fingerprint == alone.fingerprint
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(DataError, match="'chat'"):
        encode([*EXAMPLES, CHAT], tokenizer, "causal")


def test_whatever_decides_ids_is_part_of_the_name(made: list[int], tmp_path: Path) -> None:
    tokenizer, other = (character_tokenizer(closes=False, extra=more) for more in ([], ["ab"]))
    tokenizer.chat_template = other.chat_template = TEMPLATE
    answered = Example("chat", "", "ha", CHAT.messages)
    calls: list[tuple[Example, Any, ChatSettings, list[int]]] = [
        (CHAT, tokenizer, ChatSettings(), []),
        (CHAT, tokenizer, ChatSettings(assistant_turns="last"), []),
        (CHAT, tokenizer, ChatSettings({"role": "x"}), []),
        (CHAT, other, ChatSettings(), []),
        (CHAT, tokenizer, ChatSettings(), [5]),
        (answered, tokenizer, ChatSettings(), []),
    ]
    for example, given, chat, ends in calls:
        encode([example], given, "causal", chat, declared_ends=ends)
    tokenizer.chat_template = TEMPLATE.replace(": ", ">")
    for _ in range(2):
        encode([CHAT], tokenizer, "causal")
    assert len(made) == len(tokenized(tmp_path)) == 7


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # no clock is too coarse for this test


def refingerprint(facts: Path) -> None:
    facts.write_text(json.dumps({**json.loads(facts.read_bytes()), "fingerprint": "0"}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "gone": lambda path: path.unlink(),
    "another fingerprint": lambda path: refingerprint(path.with_suffix(".json")),
    "no JSON": lambda path: path.with_suffix(".json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again(
    damage: str, made: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = character_tokenizer()
    first = list(encode(EXAMPLES[:12], tokenizer, "seq2seq"))
    (path,) = tokenized(tmp_path)
    (path.parent / f"{path.name}.partial-1").write_bytes(b"of a killed process")
    DAMAGES[damage](path)
    assert encode(EXAMPLES[:12], tokenizer, "seq2seq") == first
    assert len(made) == 2
    assert caplog.text.count("made again") == (damage != "gone")
    assert encode(EXAMPLES[:12], tokenizer, "seq2seq") == first
    assert len(made) == 2
    assert not list(path.parent.glob("*.partial-*"))


def test_nothing_is_kept_of_data_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n" * 300 + "c\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.tsv:301: must hold exactly 2 columns"):
        read_examples(str(path))
    assert not list((tmp_path / "cache").rglob("*.arrow*"))


def test_rows_are_read_once_as_long_as_the_file_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"id": e.id, "source": e.source, "target": e.target} for e in EXAMPLES[:9]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first = read_examples(str(path))
    moved = tmp_path / "y.jsonl"
    path.rename(moved)
    with monkeypatch.context() as patch:
        patch.setattr(readers, "examples_of", None)
        assert read_examples(str(moved)) == first
    moved.write_text(moved.read_text("utf-8").replace("ab", "xy"), encoding="utf-8")
    assert read_examples(str(moved))[1].source == "xy"
    assert read_examples(str(moved), ignore_columns=["id"])[1].id == "2"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read whole to know their content."""
    names: list[str] = []
    of_file = fingerprint.of_file

    def counted(path: str | Path) -> str:
        names.append(Path(path).name)
        return of_file(path)

    monkeypatch.setattr(cache, "of_file", counted)
    return names


def test_large_files_are_hashed_once_as_long_as_they_are_as_they_were(
    tmp_path: Path, hashed: list[str]
) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("ab\tcd\n" * 40, encoding="utf-8")
    read_examples(str(path))
    (kept,) = (tmp_path / "cache" / "rows").glob("*.arrow")
    assert hashed == ["x.tsv", f"{kept.name}.partial-{os.getpid()}"]
    hashed.clear()
    read_examples(str(path))
    assert hashed == ["x.tsv"], "written a moment ago: not believed"


def test_a_noted_content_is_that_of_the_file(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 0)
    path, link = tmp_path / "x.bin", tmp_path / "link"
    link.symlink_to(path)
    for number, content in enumerate((b"before", b"behind")):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        for name in (path, link, path):
            assert cache.content_of(name) == hashlib.sha256(content).hexdigest()
    assert len(hashed) == 2
    for note in (tmp_path / "cache" / "contents").iterdir():
        note.write_text("[")
    assert cache.content_of(path) == hashlib.sha256(b"behind").hexdigest()
    other = tmp_path / "other.bin"  # of the same size and time, as cp -p makes it
    other.write_bytes(b"hidden")
    os.utime(other, ns=(1, 1))
    other.replace(path)
    assert cache.content_of(path) == hashlib.sha256(b"hidden").hexdigest()
    assert len(hashed) == 4
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 7)
    assert cache.content_of(path) and len(hashed) == 5, "little is read anew, and noted nowhere"
    with pytest.raises(UserError, match="must be a readable file"):
        cache.content_of(tmp_path / "none")


def test_what_cannot_be_noted_is_read_again(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 0)
    path = tmp_path / "x.bin"
    path.write_bytes(b"content")
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(path / "cache"))
    assert cache.content_of(path) == cache.content_of(path)
    assert len(hashed) == 2


def test_the_folder_is_named_by_a_variable_and_little_data_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = character_tokenizer()
    (tmp_path / "file").write_text("x")
    with monkeypatch.context() as patch:
        patch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.raises(DataError, match=cache.FOLDER_VARIABLE):
            encode(EXAMPLES[:3], tokenizer, "seq2seq")
    encode(EXAMPLES[:3], tokenizer, "seq2seq")
    for kept in (tmp_path / "cache" / "tokenized").glob("*.[aj]*"):
        content = kept.read_bytes()
        kept.unlink()
        kept.mkdir()
        with pytest.raises(DataError, match=f"{kept.name} must be a file .* found a folder"):
            encode(EXAMPLES[:3], tokenizer, "seq2seq")
        kept.rmdir()
        kept.write_bytes(content)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 10**6)
    encode(EXAMPLES[:30], tokenizer, "seq2seq")
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv(cache.FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "seqdistill"
    monkeypatch.setenv(cache.FOLDER_VARIABLE, "~/cache")
    assert cache.cache_folder() == Path.home() / "cache"


@pytest.fixture(params=["in memory", "mapped"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EncodedDataset:
    if request.param == "in memory":
        monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 10**9)
    return encode(EXAMPLES, character_tokenizer(), "seq2seq")


def test_a_table_is_a_sequence(rows: EncodedDataset) -> None:
    every = list(rows)
    assert len(rows) == len(every) == len(EXAMPLES)
    assert rows == every and rows != every[1:] and rows != [*every[1:], every[0]]
    assert rows[-1] == every[-1] and rows[5:1:-2] == every[5:1:-2]
    chosen = rows.select([40, 3, 3])
    assert chosen == [every[40], every[3], every[3]] and chosen[1:] == [every[3]] * 2
    assert chosen.ids == ["e40", "e3", "e3"]
    assert rows.select(range(len(rows))) is rows
    assert list(rows[:0]) == []
    with pytest.raises(IndexError):
        rows[len(rows)]
    names = {rows.fingerprint, chosen.fingerprint, rows[:9].fingerprint, rows[1:].fingerprint}
    assert len(names) == 4
    assert rows[1:10][:3].fingerprint != rows[1:5].fingerprint


def test_values_of_a_column_are_those_of_the_rows(
    monkeypatch: pytest.MonkeyPatch, rows: EncodedDataset
) -> None:
    monkeypatch.setattr(tables, "_CHUNKS_IN_MEMORY", 2)
    shuffled = rows.select([40, 3, 3, 17])
    for table in (rows, shuffled):
        assert table.lengths.source.tolist() == [len(e.source_ids) for e in table]
        assert table.lengths.target.tolist() == [len(e.target_ids) for e in table]
        assert table.ids == [e.id for e in table]
    texts = ["a#b", None, "", "a", "b#", "#"] * 9
    examples = ExampleTable.of(Example(str(i), "x", text) for i, text in enumerate(texts))
    chosen = examples.select([4, 3, 0])
    for held in (examples, chosen):
        assert held.targets_hold("#").tolist() == ["#" in (e.target or "") for e in held]
    assert ExampleTable.of([]).targets_hold("#").tolist() == ExampleTable.of([]).ids == []


def test_an_example_survives_being_stored() -> None:
    encoded = EncodedExample("x", (5, 6, 7, 8), (9,), ((1, 2), (3, 4)), (5, 6), {"rate": 0.5})
    assert EncodedDataset.of([encoded]) == [encoded]
    assert encoded.answered((3,)).extras == {"rate": 0.5}
    example = Example("x", "", "yes", (Turn("user", None, '{"a": 1}'),), "{}", "[]", {"rate": 0.5})
    table = ExampleTable.of([Example("y", "a", None), example])
    assert table == [Example("y", "a", None), example]
    assert table.named("x") == example and table.has_chats
