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
from seqdistill.data.examples import Example, Turn, fingerprint_examples
from seqdistill.data.readers import read_examples

PAIRS = [
    ("a house", "ein Haus"),
    ("two\u2028lines\x0bin\x0cone", "zwei\x85Zeilen\x1ein"),
    ("1", "2"),
]
EXAMPLES = [Example(str(i), source, target) for i, (source, target) in enumerate(PAIRS, start=1)]
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


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last_end", [True, False])
def test_tsv_gives_one_example_a_line_whatever_the_line_ends(
    tmp_path: Path, name: str, line_end: str, mark: str, last_end: bool
) -> None:
    text = mark + line_end.join("\t".join(pair) for pair in PAIRS) + line_end * last_end
    assert read_examples(write(tmp_path / name, text)) == EXAMPLES


@pytest.mark.parametrize("pack", ["", ".gz"])
def test_two_line_aligned_files_are_zipped(tmp_path: Path, pack: str) -> None:
    source = write(tmp_path / f"a.en{pack}", "\n".join(source for source, _ in PAIRS) + "\n")
    target = write(tmp_path / f"a.de{pack}", "\r\n".join(target for _, target in PAIRS))
    assert read_examples(f"{source},{target}") == EXAMPLES


def test_rows_of_all_formats_give_the_same_examples(
    write_rows: Callable[[list[Any]], str],
) -> None:
    assert read_examples(write_rows(ROWS)) == EXAMPLES


@pytest.mark.parametrize(
    ("source", "target"),
    [("prompt", "completion"), ("src", "tgt"), ("document", "summary"), ("input", "output")],
)
def test_conventional_pairs_of_names_are_recognised(
    write_rows: Callable[[list[Any]], str], source: str, target: str
) -> None:
    rows = [{"other": "x", target: target_text, source: text} for text, target_text in PAIRS]
    assert read_examples(write_rows(rows)) == EXAMPLES


def test_source_and_target_win_over_other_conventions(
    write_rows: Callable[[list[Any]], str],
) -> None:
    rows = [
        {"input": "no", "output": "no", "prompt": "no", "completion": "no"} | row for row in ROWS
    ]
    assert read_examples(write_rows(rows)) == EXAMPLES


def test_named_columns_win_over_conventions(write_rows: Callable[[list[Any]], str]) -> None:
    rows = [
        {"source": "no", "target": "no", "question": source, "reply": target}
        for source, target in PAIRS
    ]
    spec = write_rows(rows)
    assert read_examples(spec, source_column="question", target_column="reply") == EXAMPLES


def test_one_named_column_takes_the_conventional_other_side(
    write_rows: Callable[[list[Any]], str],
) -> None:
    spec = write_rows([{"question": source, "target": target} for source, target in PAIRS])
    assert read_examples(spec, source_column="question") == EXAMPLES


@pytest.mark.parametrize("header", ["source\ttarget", "prompt\tcompletion", "src\ttgt"])
def test_a_tsv_header_of_known_names_is_no_example(tmp_path: Path, header: str) -> None:
    text = header + "\n" + "\n".join("\t".join(pair) for pair in PAIRS)
    assert read_examples(write(tmp_path / "x.tsv", text)) == EXAMPLES


def test_a_tsv_header_decides_which_side_is_which(tmp_path: Path) -> None:
    spec = write(tmp_path / "x.tsv", "target\tsource\nHaus\thouse\n")
    assert read_examples(spec) == [Example("1", "house", "Haus")]
    spec = write(tmp_path / "y.tsv", "de\ten\nHaus\thouse\n")
    chosen = read_examples(spec, source_column="en", target_column="de")
    assert chosen == read_examples(spec, source_language="en", target_language="de")
    assert chosen == [Example("1", "house", "Haus")]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    spec = write(tmp_path / "x.tsv", '"open\tauf"\n\\t\t""\n')
    assert read_examples(spec) == [Example("1", '"open', 'auf"'), Example("2", "\\t", '""')]


TRANSLATIONS = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]


@pytest.mark.parametrize(
    "languages",
    [
        {"source_language": "en", "target_language": "de"},
        {"source_language": "en"},
        {"target_language": "de"},
    ],
)
def test_translation_rows_go_the_way_the_languages_say(
    write_rows: Callable[[list[Any]], str], languages: dict[str, str]
) -> None:
    assert read_examples(write_rows(TRANSLATIONS), **languages) == EXAMPLES  # type: ignore[arg-type]


def test_translation_rows_can_be_reversed(write_rows: Callable[[list[Any]], str]) -> None:
    spec = write_rows(TRANSLATIONS)
    backward = read_examples(spec, source_language="de", target_language="en")
    assert [(example.target, example.source) for example in backward] == PAIRS


def test_translation_rows_without_languages_are_refused_naming_both(
    write_rows: Callable[[list[Any]], str],
) -> None:
    with pytest.raises(
        DataError, match=r"'en'.*'de'.*data.source_language=en data.target_language=de"
    ):
        read_examples(write_rows(TRANSLATIONS))


def test_an_unknown_language_names_the_known_ones(write_rows: Callable[[list[Any]], str]) -> None:
    with pytest.raises(DataError, match=r"'eng' must be one of 'en', 'de'.*Did you mean 'en'"):
        read_examples(write_rows(TRANSLATIONS), source_language="eng", target_language="de")


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello?"}
ASSISTANT = {"role": "assistant", "content": "Yes."}
PROMPT = (Turn("system", "Be brief."), Turn("user", "Hello?"))


def test_the_last_assistant_turn_is_the_target_of_messages(
    write_rows: Callable[[list[Any]], str],
) -> None:
    spec = write_rows([{"messages": [SYSTEM, USER, ASSISTANT]}])
    expected = [Example("1", "", "Yes.", PROMPT)]
    assert read_examples(spec) == expected
    assert read_examples(spec, need_target=False) == expected


def test_earlier_assistant_turns_belong_to_the_prompt(
    write_rows: Callable[[list[Any]], str],
) -> None:
    spec = write_rows([{"messages": [USER, ASSISTANT, USER, ASSISTANT]}])
    (example,) = read_examples(spec)
    assert [turn.role for turn in example.messages or ()] == ["user", "assistant", "user"]
    assert example.target == "Yes."


def test_user_only_messages_need_no_dummy_answer(write_rows: Callable[[list[Any]], str]) -> None:
    spec = write_rows([{"messages": [SYSTEM, USER]}])
    assert read_examples(spec, need_target=False) == [Example("1", "", None, PROMPT)]
    with pytest.raises(
        DataError, match="must end with a turn of the assistant, found one of 'user'"
    ):
        read_examples(spec)


def test_conversational_prompt_and_completion(write_rows: Callable[[list[Any]], str]) -> None:
    spec = write_rows([{"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}])
    assert read_examples(spec) == [Example("1", "", "Yes.", PROMPT)]


def test_messages_under_another_name_are_read_when_named(
    write_rows: Callable[[list[Any]], str],
) -> None:
    spec = write_rows([{"chat": [SYSTEM, USER, ASSISTANT]}])
    assert read_examples(spec, source_column="chat") == [Example("1", "", "Yes.", PROMPT)]


@pytest.mark.parametrize("column", ["prompt", "source", "src", "document", "input"])
def test_sources_alone_are_enough_without_targets(
    write_rows: Callable[[list[Any]], str], column: str
) -> None:
    spec = write_rows([{column: "a house"}])
    assert read_examples(spec, need_target=False) == [Example("1", "a house", None)]
    target = dict(columns.PAIRS)[column]
    with pytest.raises(DataError, match=f"'{column}' must have targets beside it .* '{target}'"):
        read_examples(spec)


def test_a_source_whose_target_has_another_name_is_told_how_to_name_it(tmp_path: Path) -> None:
    spec = write_jsonl(tmp_path / "x.jsonl", [{"prompt": "1 + 1", "answer": "2"}])
    with pytest.raises(DataError, match=r"found 'prompt', 'answer'.*with data\.target_column"):
        read_examples(spec)
    assert read_examples(spec, target_column="answer") == [Example("1", "1 + 1", "2")]


def test_text_files_of_sources_alone_are_enough_without_targets(tmp_path: Path) -> None:
    expected = [Example("1", "a house", None), Example("2", "a tree", None)]
    text = "a house\na tree\n"
    assert read_examples(write(tmp_path / "x.txt", text), need_target=False) == expected
    assert read_examples(write(tmp_path / "x.tsv", text), need_target=False) == expected
    headed = write(tmp_path / "y.tsv", "source\n" + text)
    assert read_examples(headed, need_target=False) == expected
    with pytest.raises(DataError, match="must come with its targets"):
        read_examples(str(tmp_path / "x.txt"))


def test_targets_that_are_there_are_read_even_when_not_needed(
    write_rows: Callable[[list[Any]], str],
) -> None:
    spec = write_rows([*ROWS, {"source": "open", "target": None}])
    examples = read_examples(spec, need_target=False)
    assert examples == [*EXAMPLES, Example("4", "open", None)]


@pytest.mark.parametrize("ids", [["x", "y", "z"], [7, 3, 5]])
def test_an_id_column_gives_the_ids(write_rows: Callable[[list[Any]], str], ids: list[Any]) -> None:
    rows = [row | {"id": example_id} for row, example_id in zip(ROWS, ids, strict=True)]
    assert [example.id for example in read_examples(write_rows(rows))] == [str(i) for i in ids]


def test_an_id_that_comes_twice_names_both_places(
    write_rows: Callable[[list[Any]], str],
) -> None:
    rows = [row | {"id": example_id} for row, example_id in zip(ROWS, "aba", strict=True)]
    with pytest.raises(DataError, match=r"(:|row )3: id must be unique, found 'a'.*(:|row )1"):
        read_examples(write_rows(rows))


def test_a_folder_of_data_files_is_a_data_set(tmp_path: Path, monkeypatch: Any) -> None:
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
    with pytest.raises(DataError, match="split must be one of train, validation, got None"):
        read_examples(str(folder))


def test_the_splits_of_a_saved_data_set_are_told_apart(tmp_path: Path) -> None:
    import datasets

    parts = {"train": ROWS, "valid": ROWS[1:], "test": ROWS[2:]}
    saved = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    counts = [
        len(read_examples(str(tmp_path / "saved"), split=s)) for s in ("train", "dev", "test")
    ]
    assert counts == [3, 2, 1]


def test_a_fingerprint_depends_on_the_set_of_examples_alone() -> None:
    fingerprint = fingerprint_examples(EXAMPLES)
    assert fingerprint == fingerprint_examples(EXAMPLES[::-1])
    changed = [
        Example("9", EXAMPLES[0].source, EXAMPLES[0].target),
        Example("1", "another", EXAMPLES[0].target),
        Example("1", EXAMPLES[0].source, None),
        Example("1", EXAMPLES[0].source, EXAMPLES[0].target, (Turn("user", "x"),)),
    ]
    others = {fingerprint_examples([example, *EXAMPLES[1:]]) for example in changed}
    assert len(others | {fingerprint, fingerprint_examples(EXAMPLES[1:])}) == 6


def test_texts_cannot_slip_between_the_fields_of_a_fingerprint() -> None:
    first = fingerprint_examples([Example("1", 'a", "b', "c")])
    assert first != fingerprint_examples([Example("1", "a", 'b", "c')])


def test_a_first_line_that_looks_like_a_header_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("fr\ten\nle chat\tthe cat\n", encoding="utf-8")
    assert [example.source for example in read_examples(str(path))] == ["fr", "le chat"]
    assert "'fr\\ten', is read as an example" in caplog.text
    caplog.clear()
    assert len(read_examples(str(path), source_column="fr", target_column="en")) == 1
    path.write_text("le chien\tthe dog\nle chat\tthe cat\n", encoding="utf-8")
    assert len(read_examples(str(path))) == 2
    assert not caplog.text


@pytest.mark.parametrize(("name", "separator"), [("train.csv", ","), ("train.tsv", "\t")])
def test_cells_in_a_folder_of_tables_are_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, separator: str
) -> None:
    """Words such as NA are no missing values, digits no numbers; in .tsv quotes are characters."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    words = ["NA", "null", "None", "nan", "007", "1e5", "true", "#N/A"]
    rows = [(word, word.lower()) for word in words]
    if separator == "\t":
        rows += [('"open', "a"), ('close"', "b")]
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [separator.join(cells) for cells in [("source", "target"), *rows]]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read_examples(str(folder), split="train")
    assert [(example.source, example.target) for example in found] == rows


def test_extra_columns_are_numbers_of_the_rows(write_rows: Callable[[list[Any]], str]) -> None:
    rows = [{**row, "pass_rate": rate, "n": 1} for row, rate in zip(ROWS, (0, 0.5, 1), strict=True)]
    spec = write_rows(rows)
    assert read_examples(spec) == EXAMPLES
    found = read_examples(spec, extra_columns=["pass_rate"])
    assert [dict(example.extras) for example in found] == [
        {"pass_rate": 0.0},
        {"pass_rate": 0.5},
        {"pass_rate": 1.0},
    ]
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
    assert "y.tsv:3: must hold 3 columns" in str(caught.value)


@pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), float("inf"), [1]])
def test_an_extra_that_is_no_finite_number_names_its_row(tmp_path: Path, value: object) -> None:
    rows = [{**ROWS[0], "rate": 1}, {**ROWS[1], "rate": value}, ROWS[2]]
    spec = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=r"x\.jsonl:2: rate must be a finite number") as caught:
        read_examples(spec, extra_columns=["rate"])
    assert "2 of 3 lines" in str(caught.value)


@pytest.mark.parametrize("name", ["x.tsv", "x.txt"])
def test_files_without_columns_have_no_extras(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path / name, "a\tb\n")
    with pytest.raises(DataError, match=r"data\.extra_columns .* \.jsonl"):
        read_examples(spec, need_target=False, extra_columns=["rate"])
