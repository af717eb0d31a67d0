"""`generate`: one line out for each line in, whole files only."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from seqdistill.core.errors import UserError
from seqdistill.core.progress import Progress
from seqdistill.data.examples import Example, Turn
from seqdistill.jobs import generate as generating

from .conftest import Program, files_in


@dataclasses.dataclass
class Echo:
    """Stands for a model: answers in capitals and notes what it was asked."""

    settings: dict[str, object] = dataclasses.field(default_factory=dict)
    lines: list[str | Example] = dataclasses.field(default_factory=list)
    fails: bool = False

    def generate_texts(
        self, model: str, lines: Sequence[str | Example], *, progress: Progress, **given: object
    ) -> list[str]:
        """Every line in capitals."""
        if self.fails:
            raise UserError("MODEL must load")
        self.lines, self.settings = list(lines), {"model": model, **given}
        progress.start("generating", len(lines))
        progress.finish()
        return [line.upper() if isinstance(line, str) else "row\nout" for line in lines]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    model = Echo()
    module = ModuleType("seqdistill.jobs.generate")
    for name in ("is_rows", "read_rows"):
        setattr(module, name, getattr(generating, name))
    setattr(module, "generate_texts", model.generate_texts)  # noqa: B010
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return model


def test_texts_as_arguments_give_a_line_each_and_nothing_else(program: Program, echo: Echo) -> None:
    answer = program("generate", "small", "one\ntext", "zwei ß")
    assert answer.exit_code == 0, answer.stderr
    assert echo.lines == ["one\ntext", "zwei ß"], "a prompt may span lines"
    assert answer.stdout == "ONE TEXT\nZWEI SS\n"
    assert "generating: 0 of 2" in answer.stderr


@pytest.mark.parametrize("words", [(), ("--input", "-")])
def test_standard_input_is_read_by_lines(
    program: Program, echo: Echo, words: tuple[str, ...]
) -> None:
    answer = program("generate", "small", *words, stdin="a\n\nü\u2028b\r\nlast".encode())
    assert answer.exit_code == 0, answer.stderr
    assert echo.lines == ["a", "", "ü\u2028b", "last"]
    assert answer.stdout == "A\n\nÜ B\nLAST\n", "every input line gives exactly one output line"


def test_file_to_file_keeps_the_number_of_lines_and_a_failure_the_old_file(
    program: Program, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("in.txt").write_bytes(b"\xef\xbb\xbfa\n\nb\n")
    Path("out.txt").write_text("old", encoding="utf-8")
    answer = program("generate", "~/m", "--input", "~/in.txt", "--output=~/out.txt")
    assert (answer.exit_code, answer.stdout) == (0, ""), answer.stderr
    assert echo.settings["model"] == str(tmp_path / "m")
    assert Path("out.txt").read_bytes() == b"A\n\nB\n"
    echo.fails = True
    assert program("generate", "small", "text", "--output", "out.txt").exit_code == 2
    assert Path("out.txt").read_bytes() == b"A\n\nB\n"
    assert list(files_in(tmp_path)) == ["in.txt", "out.txt"]


def test_settings_have_their_defaults_and_both_spellings(program: Program, echo: Echo) -> None:
    program("generate", "small", "text")
    defaults = dict(echo.settings)
    words = ["--template-option", "enable_thinking=false", "--template-option", "date=today"]
    program("generate", "small", "text", *words)
    assert echo.settings["template_options"] == {"enable_thinking": False, "date": "today"}
    names = ("engine", "compute_type", "beam_size", "max_new_tokens", "device", "dtype", "raw")
    assert [defaults[name] for name in names] == [
        "auto", "float32", None, 128, "auto", "auto", False
    ]  # fmt: skip
    given = "--beam-size 2 --max-new-tokens 9 --compute-type int8 --threads 1 --device cpu"
    given += " --engine transformers --trust-remote-code --dtype bf16 --source-language en"
    for options in (given, given.replace("-", "_").replace("__", "--").replace(" _", " --")):
        assert program("generate", "small", "text", *options.split()).exit_code == 0
        changed = {k: v for k, v in echo.settings.items() if v != defaults[k]}
        assert changed == {
            "beam_size": 2, "max_new_tokens": 9, "compute_type": "int8", "threads": 1,
            "device": "cpu", "engine": "transformers", "trust_remote_code": True, "dtype": "bf16",
            "source_language": "en",
        }  # fmt: skip
    sampled = "--sampling-temperature 0.7 --top-k 4 --top-p 0.9 --seed 3"
    assert program("generate", "a", "text", *sampled.split(), "--draft", "~/b").exit_code == 0
    settings = {name: echo.settings[name] for name in ("sampling_temperature", "top_k", "top_p")}
    assert settings == {"sampling_temperature": 0.7, "top_k": 4, "top_p": 0.9}
    assert (echo.settings["seed"], echo.settings["draft_tokens"]) == (3, None)
    assert not str(echo.settings["draft"]).startswith("~")
    echo.lines = []
    wrong_drafts = ("--sampling-temperature 0", "--top-p 0", "--top-p 1.5", "--draft-tokens 0")
    for wrong in ("--beam-size 0", "--engine vllm", "--compute-type int4", *wrong_drafts):
        assert program("generate", "small", "text", *wrong.split()).exit_code == 2
    assert echo.lines == []


def test_rows_are_read_as_training_reads_them(program: Program, echo: Echo) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    rows = [{"id": "a", "messages": chat}, {"id": "b", "messages": chat[:1]}]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answer = program("generate", "small", "-i", "in.jsonl", "-o", "out.jsonl")
    assert answer.exit_code == 0, answer.stderr
    assert echo.lines == [Example(name, "", None, (Turn("user", "Hi"),)) for name in "ab"]
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert written == [{"id": name, "prompt": chat[:1], "output": "row\nout"} for name in "ab"]
    assert program("generate", "small", "-i", "in.jsonl").stdout == "row out\nrow out\n"
