"""The allocator setting: asked for once, answered honestly, and it can be turned off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import seqdistill

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
