"""What is logged on the terminal."""

from __future__ import annotations

import logging

import pytest

from seqdistill.cli.quiet import tame_libraries


def test_a_command_says_a_warning_once(capsys: pytest.CaptureFixture[str]) -> None:
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
