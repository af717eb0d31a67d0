"""Progress as lines in a log and as bars on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from seqdistill.cli.progress import PlainProgress, RichProgress, clock_time, progress_on


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_at_the_start_each_tenth_and_the_end() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, clock=Clock())
    progress.start("training", 1000)
    for update in range(1000):
        progress.advance(1, f"loss {update}")
    progress.finish()
    assert len(lines) == 1 + 9 + 1
    assert lines[0] == "training: 0 of 1,000"
    assert lines[1].startswith("training: 10 % (100 of 1,000), 0:00 elapsed")
    assert lines[1].endswith("loss 99")
    assert lines[-1] == "training: done, 1,000 of 1,000 in 0:00, loss 999"


def test_plain_time_left_follows_the_speed_of_this_process_alone() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = PlainProgress(lines.append, clock=clock)
    progress.start("training", 100)
    progress.advance(50)  # done by an earlier process, in no time
    for _ in range(10):
        clock.now += 2.0
        progress.advance(1)
    assert lines[-1] == "training: 60 % (60 of 100), 0:20 elapsed, 1:20 left"


def test_plain_job_that_stops_early_says_how_far_it_came() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, clock=Clock())
    progress.start("training", 100)
    progress.advance(30)
    progress.finish()
    assert lines[-1] == "training: done, 30 of 100 in 0:00"


def test_plain_empty_job_divides_by_nothing() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, clock=Clock())
    progress.start("labelling", 0)
    progress.advance(0)
    progress.finish()
    assert lines == ["labelling: 0 of 0", "labelling: done, 0 of 0 in 0:00"]


def test_no_terminal_no_control_characters() -> None:
    stream = io.StringIO()
    with progress_on(Console(file=stream)) as progress:
        progress.start("training", 20)
        for _ in range(20):
            progress.advance()
        progress.finish()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("training: done, 20 of 20 in 0:00\n")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_bar_shows_share_count_and_note(width: int) -> None:
    stream = io.StringIO()
    with progress_on(Console(file=stream, force_terminal=True, width=width)) as progress:
        progress.start("word_kd: [x] training", 300)
        progress.advance(150, "loss 3.214")
        progress.finish()
    shown = stream.getvalue()
    assert "50%" in shown
    if width >= 80:
        assert "150/300" in shown
        assert "word_kd: [x] training" in shown
        assert "loss 3.214" in shown


def test_terminal_is_left_in_order_when_the_work_fails() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with pytest.raises(RuntimeError, match="boom"), progress_on(console) as progress:
        progress.start("training", 10)
        raise RuntimeError("boom")
    shown = stream.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_second_job_takes_the_place_of_one_that_was_not_finished() -> None:
    stream = io.StringIO()
    progress = RichProgress(Console(file=stream, force_terminal=True, width=100))
    progress.start("first", 10)
    progress.start("second", 4)
    progress.advance(4)
    progress.finish()
    assert "second" in stream.getvalue()
    assert "4/4" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7.0, "0:07"), (754.0, "12:34"), (3723.0, "1:02:03")]
)
def test_times_read_as_clocks_do(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
