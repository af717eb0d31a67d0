"""`generate`: one line out for each line in, whole files only."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
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
    template: dict[str, object] = dataclasses.field(default_factory=dict)
    fails: bool = False

    def generate_texts(
        self,
        model: str,
        lines: Sequence[str | Example],
        *,
        raw: bool,
        template_options: Mapping[str, object],
        engine: str,
        compute_type: str,
        beam_size: int,
        max_new_tokens: int,
        threads: int | None,
        device: str,
        dtype: str,
        trust_remote_code: bool,
        source_language: str | None,
        target_language: str | None,
        progress: Progress,
    ) -> list[str]:
        """Every line in capitals."""
        if self.fails:
            raise UserError("MODEL must load")
        self.lines = list(lines)
        self.template = {"raw": raw, **template_options}
        self.settings = {
            "model": model,
            "engine": engine,
            "compute_type": compute_type,
            "beam_size": beam_size,
            "max_new_tokens": max_new_tokens,
            "threads": threads,
            "placement": (device, dtype),
            "trust_remote_code": trust_remote_code,
            "languages": (source_language, target_language),
        }
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
    answer = program("generate", "small", "one text", "zwei ß")
    assert answer.exit_code == 0, answer.stderr
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


def test_file_to_file_keeps_the_number_of_lines(program: Program, echo: Echo) -> None:
    Path("in.txt").write_bytes(b"\xef\xbb\xbfa\n\nb\n")
    Path("out.txt").write_text("old", encoding="utf-8")
    answer = program("generate", "small", "--input", "in.txt", "--output", "out.txt")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout == ""
    assert Path("out.txt").read_bytes() == b"A\n\nB\n"


def test_failure_leaves_the_old_output_as_it_was(
    program: Program, echo: Echo, tmp_path: Path
) -> None:
    echo.fails = True
    Path("out.txt").write_text("old", encoding="utf-8")
    answer = program("generate", "small", "text", "--output", "out.txt")
    assert answer.exit_code == 2
    assert Path("out.txt").read_text(encoding="utf-8") == "old"
    assert list(files_in(tmp_path)) == ["out.txt"]


def test_settings_have_their_defaults_and_both_spellings(program: Program, echo: Echo) -> None:
    program("generate", "small", "text")
    assert echo.settings == {
        "model": "small",
        "engine": "auto",
        "compute_type": "float32",
        "beam_size": 5,
        "max_new_tokens": 128,
        "threads": None,
        "placement": ("auto", "auto"),
        "trust_remote_code": False,
        "languages": (None, None),
    }
    told = ["--source-language", "en", "--target_language", "de"]
    assert program("generate", "small", "text", *told).exit_code == 0
    assert echo.settings["languages"] == ("en", "de")
    given: dict[str, object] = {"beam_size": 2, "max_new_tokens": 9, "compute_type": "int8"}
    given |= {"threads": 1, "trust_remote_code": True, "placement": ("cpu", "bf16")}
    for options in (
        "--beam-size 2 --max-new-tokens 9 --compute-type int8 --threads 1 --engine transformers"
        " --trust-remote-code --device cpu --dtype bf16",
        "--num_beams 2 --max_new_tokens 9 --compute_type int8 --threads 1 --engine transformers"
        " --trust_remote_code --device cpu --dtype bf16",
    ):
        assert program("generate", "small", "text", *options.split()).exit_code == 0
        assert echo.settings.pop("languages") == (None, None)
        assert echo.settings == {"model": "small", "engine": "transformers", **given}


@pytest.mark.parametrize("options", ["--beam-size 0", "--engine vllm", "--compute-type int4"])
def test_impossible_settings_are_usage_errors(program: Program, echo: Echo, options: str) -> None:
    answer = program("generate", "small", "text", *options.split())
    assert answer.exit_code == 2
    assert echo.lines == []


def test_a_prompt_may_span_lines(program: Program, echo: Echo) -> None:
    answer = program("generate", "small", "one\ntext", "another")
    assert echo.lines == ["one\ntext", "another"]
    assert answer.stdout == "ONE TEXT\nANOTHER\n"


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


def test_options_of_the_template_are_handed_on(program: Program, echo: Echo) -> None:
    words = ["--template-option", "enable_thinking=false", "--template-option", "date=today"]
    assert program("generate", "small", "text", *words).exit_code == 0
    assert echo.template == {"raw": False, "enable_thinking": False, "date": "today"}
    assert program("generate", "small", "text", "--raw").exit_code == 0
    assert echo.template == {"raw": True}
    refused = program("generate", "small", "text", "--raw", *words)
    assert refused.exit_code == 2 and "which --raw skips" in refused.stderr
    refused = program("generate", "small", "text", "--template-option", "thinking")
    assert refused.exit_code == 2 and "must be KEY=VALUE" in refused.stderr


def test_a_device_as_output_is_written_to_and_stays(program: Program, echo: Echo) -> None:
    assert program("generate", "small", "a", "-o", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_home_is_written_out_in_paths(
    program: Program, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in.txt").write_text("a\n")
    answer = program("generate", "~/m", "-i", "~/in.txt", "--output=~/out.txt")
    assert answer.exit_code == 0, answer.stderr
    assert echo.settings["model"] == str(tmp_path / "m")
    assert (tmp_path / "out.txt").read_text() == "A\n"
