"""Facts of the software and the machine, for manifests, reports and bug reports.

Read without importing the packages named, so that it costs milliseconds. No host name, user name
or path is among them: a run directory can be passed on. What only torch knows (a GPU, its number
of threads) is added by the caller.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from seqdistill.core.version import __version__

PACKAGES = (
    "accelerate",
    "ctranslate2",
    "datasets",
    "numpy",
    "pyarrow",
    "pydantic",
    "sacrebleu",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
"""The dependencies whose versions can change a number."""


def versions() -> dict[str, str]:
    """The versions of Python, this package and what computes its numbers; 'not installed' if so."""
    found = {"python": platform.python_version(), "seqdistill": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, str | int]:
    """The system, the CPU's model, the cores this process may use and the memory in bytes.

    'unknown' and 0 stand for what the system does not tell.
    """
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": cpu_model(Path("/proc/cpuinfo")),
        "cpu_cores": usable_cores(),
        "memory_bytes": memory_bytes(),
    }


def environment_facts() -> dict[str, dict[str, str | int]]:
    """`versions` and `machine` under these names."""
    return {"versions": dict(versions()), "machine": machine()}


def cpu_model(cpuinfo: Path) -> str:
    """The CPU's name as the kernel gives it in `cpuinfo`; 'unknown' when it does not."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return "unknown"


def usable_cores() -> int:
    """How many CPU cores this process may run on, which can be fewer than the machine has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """The machine's physical memory in bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such call or name on this system
        return 0
