"""The allocator setting: asked for once, answered honestly, and it can be turned off."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seqdistill
from seqdistill.core import allocator


class FakeGlibc:
    """Records what mallopt is asked for, and answers as it is told."""

    def __init__(self, answer: int = 1) -> None:
        self.asked: list[tuple[int, int]] = []
        self._answer = answer

    def mallopt(self, parameter: int, value: int) -> int:
        self.asked.append((parameter, value))
        return self._answer


def use(monkeypatch: pytest.MonkeyPatch, glibc: FakeGlibc) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: glibc)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("SEQDISTILL_KEEP_MEMORY", raising=False)


def test_it_asks_never_to_map_and_never_to_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    glibc = FakeGlibc()
    use(monkeypatch, glibc)
    assert allocator.keep_freed_memory() is True
    # From malloc.h: M_MMAP_MAX is -4 and M_TRIM_THRESHOLD is -1.
    assert glibc.asked == [(-4, 0), (-1, -1)]


def test_a_refusal_of_glibc_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeGlibc(answer=0))
    assert allocator.keep_freed_memory() is False


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    glibc = FakeGlibc()
    use(monkeypatch, glibc)
    monkeypatch.setenv("SEQDISTILL_KEEP_MEMORY", "0")
    assert allocator.keep_freed_memory() is False
    assert glibc.asked == []


def test_other_systems_and_other_c_libraries_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glibc = FakeGlibc()
    use(monkeypatch, glibc)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
    assert glibc.asked == []

    def no_glibc(_name: str) -> None:
        raise OSError("libc.so.6: cannot open shared object file")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", no_glibc)
    assert allocator.keep_freed_memory() is False


_FREE_64_MIB = """
from seqdistill.core.allocator import keep_freed_memory
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
asked = keep_freed_memory()
block = bytearray(b"x") * 2**26
with_block = resident()
del block
print(asked, with_block - resident() < 2**25)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, needs glibc")
@pytest.mark.parametrize(("setting", "expected"), [("1", "True True"), ("0", "False False")])
def test_freed_memory_stays_with_the_process_only_when_asked(setting: str, expected: str) -> None:
    source = str(Path(seqdistill.__file__).parents[1])
    environment = {**os.environ, "SEQDISTILL_KEEP_MEMORY": setting, "PYTHONPATH": source}
    found = subprocess.run(
        [sys.executable, "-c", _FREE_64_MIB], env=environment, capture_output=True, text=True
    )
    assert found.stdout.strip() == expected, found.stderr
