"""Progress as lines in a log and as bars on a terminal; what is logged there."""

from __future__ import annotations

import importlib
import io
import logging

import pytest
from rich.console import Console

from seqdistill.cli.progress import PlainProgress, clock_time, progress_on
from seqdistill.cli.quiet import tame_libraries


def test_plain_lines_come_at_the_start_each_tenth_and_the_end() -> None:
    lines: list[str] = []
    plain = PlainProgress(lines.append, clock=lambda: 0.0)
    plain.start("training", 1000)
    for update in range(1000):
        plain.advance(1, f"loss {update}")
    plain.finish()
    assert len(lines) == 1 + 9 + 1
    assert lines[0] == "training: 0 of 1,000"
    assert lines[1] == "training: 10 % (100 of 1,000), 0:00 elapsed, loss 99"
    assert lines[-1] == "training: done, 1,000 of 1,000 in 0:00, loss 999"


def test_time_left_follows_the_speed_of_this_process_alone() -> None:
    lines: list[str] = []
    now = [1000.0]
    plain = PlainProgress(lines.append, clock=lambda: now[0])
    plain.start("training", 100)
    plain.advance(50)  # done by an earlier process, in no time
    for _ in range(10):
        now[0] += 2.0
        plain.advance(1)
    assert lines[-1] == "training: 60 % (60 of 100), 0:20 elapsed, 1:20 left"
    assert clock_time(3723) == "1:02:03"


def test_a_log_has_no_control_characters() -> None:
    stream = io.StringIO()
    with progress_on(Console(file=stream)) as progress:
        for total, done in ((0, 0), (100, 30)):
            progress.start("training", total)
            progress.advance(done)
            progress.finish()
    assert not {"\r", "\x1b"} & set(stream.getvalue())
    assert stream.getvalue().endswith("training: done, 30 of 100 in 0:00\n")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_bar_shows_fraction_count_and_note(width: int) -> None:
    stream = io.StringIO()
    with progress_on(Console(file=stream, force_terminal=True, width=width)) as progress:
        progress.start("first, not finished", 10)
        progress.start("word_kd: [x] training", 300)
        progress.advance(150, "loss 3.214")
        progress.finish()
    shown = stream.getvalue()
    assert "50%" in shown
    if width >= 80:
        assert all(word in shown for word in ("150/300", "word_kd: [x] training", "loss 3.214"))


def test_the_terminal_is_left_in_order_when_the_work_fails() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with pytest.raises(RuntimeError, match="boom"), progress_on(console) as progress:
        progress.start("training", 10)
        raise RuntimeError("boom")
    shown = stream.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_libraries_that_were_imported_before_draw_no_bars() -> None:
    hub = importlib.import_module("huggingface_hub.utils")
    hub.enable_progress_bars()
    tame_libraries(verbose=True)
    assert not hub.are_progress_bars_disabled()
    tame_libraries(verbose=False)
    assert hub.are_progress_bars_disabled()


def test_a_command_says_a_warning_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("seqdistill.test")
    tame_libraries(verbose=False)
    for _ in range(3):
        log.warning("left out %d examples", 7)
    log.warning("left out %d examples", 8)
    said = "WARNING seqdistill.test: left out 7 examples\n"
    assert capsys.readouterr().err == said + said.replace("7", "8")
    tame_libraries(verbose=False)
    log.warning("left out %d examples", 7)
    assert capsys.readouterr().err == said, "another command says it again"
    monkeypatch.setenv("RANK", "1")
    log.warning("left out %d examples", 9)
    log.error("this process alone")
    assert capsys.readouterr().err == "ERROR seqdistill.test: this process alone\n"
