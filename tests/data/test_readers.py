"""Readers: every format, every convention of columns, and ids."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqdistill.core.errors import DataError
from seqdistill.data import columns
from seqdistill.data.examples import Example, Turn
from seqdistill.data.readers import read_examples

PAIRS = [
    ("a house", "ein Haus"),
    ("two\u2028lines\x0bin\x0co\rne", "zwei\x85Zeilen\x1ein"),
    ("1e5", "007"),
    ("null", "NA"),  # words that are values elsewhere
]
EXAMPLES = [Example(str(i), source, target) for i, (source, target) in enumerate(PAIRS, start=1)]
RATES = (0, 0.5, 1, 0.25)
HEADER = "target\tsource\n"
ROWS = [{"source": source, "target": target} for source, target in PAIRS]


def write(path: Path, text: str) -> str:
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def write_jsonl(path: Path, rows: list[Any]) -> str:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[Any]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def write_saved_dataset(path: Path, rows: list[Any]) -> str:
    import datasets

    path = path.with_suffix("")
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return str(path)


WRITERS: dict[str, tuple[str, Callable[[Path, list[Any]], str]]] = {
    "jsonl": ("x.jsonl", write_jsonl),
    "jsonl.gz": ("x.jsonl.gz", write_jsonl),
    "parquet": ("x.parquet", write_parquet),
    "datasets": ("x.saved", write_saved_dataset),
}


@pytest.fixture(params=WRITERS)
def write_rows(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[Any]], str]:
    name, writer = WRITERS[request.param]
    return lambda rows: writer(tmp_path / name, rows)


@pytest.mark.parametrize(
    ("name", "line_end", "mark", "header"),
    [
        ("x.tsv", "\n", "", ""),
        ("x.tsv", "\r\n", "\ufeff", "source\ttarget"),
        ("x.tsv.gz", "\n", "", "prompt\tcompletion"),
    ],
)
@pytest.mark.parametrize("last_end", [True, False])
def test_tsv_gives_one_example_a_line_whatever_the_line_ends(
    tmp_path: Path, name: str, line_end: str, mark: str, last_end: bool, header: str
) -> None:
    lines = [*([header] if header else []), *("\t".join(pair) for pair in PAIRS)]
    text = mark + line_end.join(lines) + line_end * last_end
    assert read_examples(write(tmp_path / name, text)) == EXAMPLES


@pytest.mark.parametrize("pack", ["", ".gz"])
def test_two_line_aligned_files_are_zipped(tmp_path: Path, pack: str) -> None:
    source = write(tmp_path / f"a.en{pack}", "\n".join(source for source, _ in PAIRS) + "\n")
    target = write(tmp_path / f"a.de{pack}", "\r\n".join(target for _, target in PAIRS))
    assert read_examples(f"{source},{target}") == EXAMPLES


def test_rows_of_all_formats_give_the_same_examples(
    write_rows: Callable[[list[Any]], str],
) -> None:
    others = {"input": "no", "output": "no", "prompt": "no", "completion": "no"}
    assert read_examples(write_rows([others | row for row in ROWS])) == EXAMPLES


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("prompt", "completion"), {}),
        (("src", "tgt"), {}),
        (("document", "summary"), {}),
        (("input", "output"), {}),
        (("question", "reply"), {"source_column": "question", "target_column": "reply"}),
        (("question", "target"), {"source_column": "question"}),
        (("target", "output"), {"source_column": "target"}),
        (("prompt", "answer"), {"target_column": "answer"}),
        (("de", "en"), {"source_language": "de", "target_language": "en"}),
    ],
)
def test_columns_are_found_by_convention_or_named(
    tmp_path: Path, names: tuple[str, str], chosen: dict[str, Any]
) -> None:
    source, target = names
    rows = [{"other": "x", target: said, source: text} for text, said in PAIRS]
    if len(chosen) == 2:
        rows = [{"source": "no", "src": "no", **row} for row in rows]
    assert read_examples(write_jsonl(tmp_path / "x.jsonl", rows), **chosen) == EXAMPLES


def test_a_tsv_header_decides_which_side_is_which_and_quotes_are_characters(tmp_path: Path) -> None:
    spec = write(tmp_path / "x.tsv", "target\tsource\nHaus\thouse\n")
    assert read_examples(spec) == [Example("1", "house", "Haus")]
    spec = write(tmp_path / "y.tsv", "de\ten\nHaus\thouse\n")
    chosen = read_examples(spec, source_column="en", target_column="de")
    assert chosen == read_examples(spec, source_language="en", target_language="de")
    assert chosen == [Example("1", "house", "Haus")]
    spec = write(tmp_path / "z.tsv", '"open\tauf"\n\\t\t""\n')
    assert read_examples(spec) == [Example("1", '"open', 'auf"'), Example("2", "\\t", '""')]


TRANSLATIONS = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]


@pytest.mark.parametrize("languages", [("en", "de"), ("en", None), (None, "de")])
def test_translation_rows_go_the_way_the_languages_say(
    write_rows: Callable[[list[Any]], str], languages: tuple[str | None, str | None]
) -> None:
    spec = write_rows(TRANSLATIONS)
    source, target = languages
    assert read_examples(spec, source_language=source, target_language=target) == EXAMPLES
    backward = read_examples(spec, source_language=target, target_language=source)
    assert [(example.target, example.source) for example in backward] == PAIRS


@pytest.mark.parametrize(
    ("languages", "found"),
    [
        ((None, None), r"'en', 'de'.*data.source_language=en data.target_language=de"),
        (("eng", "de"), r"'eng' must be one of 'en', 'de'.*Did you mean 'en'"),
    ],
)
def test_languages_that_the_rows_do_not_tell_are_asked_for(
    write_rows: Callable[[list[Any]], str], languages: tuple[str, str], found: str
) -> None:
    source, target = languages
    with pytest.raises(DataError, match=f"1: .*{found}"):
        read_examples(write_rows(TRANSLATIONS[:1]), source_language=source, target_language=target)


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello?"}
ASSISTANT = {"role": "assistant", "content": "Yes."}
PROMPT = (Turn("system", "Be brief."), Turn("user", "Hello?"))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
        {"prompt": [SYSTEM, USER], "completion": "Yes."},
    ],
)
def test_the_last_assistant_turn_is_the_target(
    write_rows: Callable[[list[Any]], str], row: dict[str, Any]
) -> None:
    spec = write_rows([row])
    expected = [Example("1", "", "Yes.", PROMPT)]
    assert read_examples(spec) == expected
    assert read_examples(spec, targets="optional") == expected


def test_user_only_messages_need_no_dummy_answer(write_rows: Callable[[list[Any]], str]) -> None:
    spec = write_rows([{"messages": [SYSTEM, USER]}])
    assert read_examples(spec, targets="optional") == [Example("1", "", None, PROMPT)]
    with pytest.raises(DataError, match="found one of 'user'"):
        read_examples(spec)


def test_sources_alone_are_enough_without_targets(tmp_path: Path) -> None:
    for column, target in columns.PAIRS:
        spec = write_jsonl(tmp_path / "x.jsonl", [{column: "a house"}])
        assert read_examples(spec, targets="optional") == [Example("1", "a house", None)]
        with pytest.raises(DataError, match=f"'{column}' must have targets .* '{target}'"):
            read_examples(spec)
    expected = [Example("1", "a house", None), Example("2", "a tree", None)]
    text = "a house\na tree\n"
    for name, header in (("x.txt", ""), ("x.tsv", ""), ("y.tsv", "source\n"), ("z.tsv", HEADER)):
        assert read_examples(write(tmp_path / name, header + text), targets="optional") == expected
    with pytest.raises(DataError, match="must come with its targets"):
        read_examples(str(tmp_path / "x.txt"))


def test_targets_that_are_there_are_read_even_when_not_needed(
    write_rows: Callable[[list[Any]], str],
) -> None:
    spec = write_rows([*ROWS, {"source": "open", "target": None}])
    examples = read_examples(spec, targets="optional")
    assert examples == [*EXAMPLES, Example("5", "open", None)]


@pytest.mark.parametrize("ids", [["x", "y", "z", "u"], [7, 3, 5, 0], ["a", "b", "a", "c"]])
def test_an_id_column_gives_the_ids(write_rows: Callable[[list[Any]], str], ids: list[Any]) -> None:
    spec = write_rows([row | {"id": name} for row, name in zip(ROWS, ids, strict=True)])
    if len({*ids}) == 4:
        assert [example.id for example in read_examples(spec)] == [*map(str, ids)]
        return
    with pytest.raises(DataError, match=r"(:|row )3: id must be unique, found 'a'.*(:|row )1"):
        read_examples(spec)


def test_the_splits_of_a_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", ROWS)
    write_jsonl(folder / "validation.jsonl", ROWS[:1])
    assert read_examples(str(folder), split="train") == EXAMPLES
    assert read_examples(str(folder), split="dev") == EXAMPLES[:1]
    with pytest.raises(DataError, match="split must be one of train, validation, got test"):
        read_examples(str(folder), split="test")
    write(folder / "train.jsonl", "{wrong")
    with pytest.raises(DataError, match=r"cannot be loaded: JSON parse error"):
        read_examples(str(folder), split="train")
    parts = {"train": ROWS, "valid": ROWS[1:], "test": ROWS[2:]}
    tables = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    spec = str(tmp_path / "saved")
    datasets.DatasetDict(tables).save_to_disk(spec)
    assert [len(read_examples(spec, split=s)) for s in ("train", "dev", "test")] == [4, 3, 2]


def write_csv(path: Path, rows: list[Any]) -> str:
    cells = [list(rows[0]), *(row.values() for row in rows)]
    return write(path, "".join(",".join(map(str, row)) + "\n" for row in cells))


@pytest.mark.parametrize(
    ("ending", "writer"),
    [("csv", write_csv), ("jsonl", write_jsonl), ("parquet", write_parquet)],
)
def test_a_wrong_row_of_a_folder_is_told_with_its_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    writer: Callable[[Path, list[Any]], str],
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "train"
    folder.mkdir()
    right, wrong = ({"source": "a", "target": target} for target in ("b", ""))
    for name, rows in (("1", [right] * 3), ("2", [right, wrong]), ("3", [wrong])):
        writer(folder / f"part-{name}.{ending}", rows)
    told = rf"2 of 6 rows .*\n.*part-2\.{ending}, row 2: .*\n.*part-3\.{ending}, row 1: "
    with pytest.raises(DataError, match=told):
        read_examples(str(tmp_path), split="train")


def test_a_first_line_that_looks_like_a_header_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pairs.tsv"
    assert len(read_examples(write(path, "fr\ten\nle chat\tthe cat\n"))) == 2
    assert "'fr\\ten', is read as an example" in caplog.text
    caplog.clear()
    assert len(read_examples(str(path), source_column="fr", target_column="en")) == 1
    assert len(read_examples(write(path, "le chien\tthe dog\nle chat\tthe cat\n"))) == 2
    assert not caplog.text


@pytest.mark.parametrize(("name", "separator"), [("train.csv", ","), ("train.tsv", "\t")])
def test_cells_in_a_folder_of_tables_are_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, separator: str
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [(word, word.lower()) for word in ("NA", "null", "None", "nan", "007", "1e5", "#N/A")]
    if separator == "\t":
        rows += [('"open', "a"), ('close"', "b")]
    (tmp_path / "set").mkdir()
    lines = [separator.join(cells) for cells in [("source", "target"), *rows]]
    write(tmp_path / "set" / name, "\n".join(lines) + "\n")
    found = read_examples(str(tmp_path / "set"), split="train")
    assert [(example.source, example.target) for example in found] == rows


def test_extra_columns_are_numbers_of_the_rows(write_rows: Callable[[list[Any]], str]) -> None:
    rows = [{**row, "pass_rate": rate, "n": 1} for row, rate in zip(ROWS, RATES, strict=True)]
    spec = write_rows(rows)
    assert read_examples(spec) == EXAMPLES
    found = read_examples(spec, extra_columns=["pass_rate"])
    assert [dict(example.extras) for example in found] == [{"pass_rate": rate} for rate in RATES]
    with pytest.raises(DataError, match=r"extra_columns .* 'pass_rte' .* mean 'pass_rate'"):
        read_examples(spec, extra_columns=["pass_rte"])


def test_a_header_may_name_further_columns_of_a_tsv(tmp_path: Path) -> None:
    spec = write(tmp_path / "x.tsv", "rate\ttarget\tsource\tid\n0.5\ta\tb\tone\n1e-2\tc\td\ttwo\n")
    found = read_examples(spec, extra_columns=["rate"])
    assert [(e.id, e.source, e.target, dict(e.extras)) for e in found] == [
        ("one", "b", "a", {"rate": 0.5}),
        ("two", "d", "c", {"rate": 0.01}),
    ]
    assert not read_examples(spec)[0].extras
    spec = write(tmp_path / "y.tsv", "source\ttarget\trate\nb\ta\tx\nb\ta\n")
    with pytest.raises(DataError, match=r"y\.tsv:2: rate must be a finite") as caught:
        read_examples(spec, extra_columns=["rate"])
    assert "y.tsv:3: must hold exactly 3 columns" in str(caught.value)


@pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), float("inf"), [1], 10**309])
def test_an_extra_that_is_no_finite_number_names_its_row(tmp_path: Path, value: object) -> None:
    rows = [{**ROWS[0], "rate": 1}, {**ROWS[1], "rate": value}, ROWS[2]]
    spec = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=r"x\.jsonl:2: rate must be a finite number") as caught:
        read_examples(spec, extra_columns=["rate"])
    assert "2 of 3 lines" in str(caught.value)
    for name in ("y.tsv", "y.txt"):
        spec = write(tmp_path / name, "a\tb\n")
        with pytest.raises(DataError, match=r"data\.extra_columns"):
            read_examples(spec, targets="optional", extra_columns=["rate"])
