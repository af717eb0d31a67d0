"""Runs one measurement in a process of its own and keeps what it found."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from seqdistill.core.errors import UserError
from seqdistill.records import atomic

Allocator = Literal["kept", "default"]
ALLOCATORS: dict[Allocator, dict[str, str]] = {
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)},
    "default": {"SEQDISTILL_KEEP_MEMORY": "0"},
}
"""glibc's settings: those that this package's commands run under, and its own."""
ROOT = Path(__file__).parents[2]
TRL = "1.16.0"


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where measurements are kept and who computes them."""

    folder: Path
    peer_python: Path
    threads: int

    def of(self, name: str, module: str, given: dict[str, Any], allocator: Allocator) -> Any:
        """What `benchmarks.peers.MODULE` writes of these settings; kept from before if it is there.

        `given` has `is_peer`, whether it runs in the peers' environment.
        """
        python = str(self.peer_python) if given["is_peer"] else sys.executable
        with tempfile.TemporaryDirectory() as place:
            settings, result = Path(place, "settings.json"), Path(place, "result.json")
            given = {"output_dir": f"{place}/run", "overrides": (), **given, "result": str(result)}
            given["overrides"] = [*given["overrides"], f"output_dir={given['output_dir']}"]
            settings.write_text(json.dumps(given | {"threads": self.threads}), encoding="utf-8")
            command = [python, "-m", f"benchmarks.peers.{module}", str(settings)]
            return self.job(name, command, allocator, lambda: json.loads(result.read_text("utf-8")))

    def job(
        self, name: str, command: Sequence[str], allocator: Allocator, result: Any = dict
    ) -> Any:
        """What a command took from its start to its end, and what `result` reads after it."""
        kept = self._kept(name)
        if self.has(name):
            return json.loads(kept.read_text("utf-8"))
        log = self.folder / "logs" / f"{name}.log"
        for path in (kept, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        load, started = os.getloadavg()[0], time.perf_counter()
        with log.open("w") as lines:
            process = subprocess.Popen(
                command, env=self._environment(allocator), stdout=lines, stderr=lines
            )
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise UserError(
                f"every measurement must come to its end, but {name} ended with code "
                f"{process.returncode}; see {log}"
            )
        found = {
            "name": name,
            "allocator": allocator,
            "load_average_before": round(load, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "process_wall_s": wall,
            "process_cpu_s": usage.ru_utime + usage.ru_stime,
            **result(),
        }
        atomic.write_text(kept, json.dumps(found))
        print(name, json.dumps(found), file=sys.stderr, flush=True)
        return found

    def has(self, name: str) -> bool:
        """Whether it was measured before."""
        return self._kept(name).is_file()

    def _kept(self, name: str) -> Path:
        return self.folder / "measurements" / f"{name}.json"

    def _environment(self, allocator: Allocator) -> dict[str, str]:
        names = {name for settings in ALLOCATORS.values() for name in settings}
        clean = {key: value for key, value in os.environ.items() if key not in names}
        return (
            clean
            | ALLOCATORS[allocator]
            | {
                "OMP_NUM_THREADS": str(self.threads),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            }
        )


def peer_python(folder: Path) -> Path:
    """The interpreter of the peers' environment in that folder, which is made where it is missing.

    Raises UserError where another version of TRL is in it.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pinned = Path(__file__).with_name("requirements.txt")
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(pinned)], check=True
        )
    asked = "import importlib.metadata as m; print(m.version('trl'))"
    found = subprocess.run([str(python), "-c", asked], check=False, capture_output=True, text=True)
    if found.stdout.strip() != TRL:
        raise UserError(
            f"the peers' environment must have trl {TRL}, but {folder} has "
            f"{found.stdout.strip() or 'none'}; name another folder, which is made anew"
        )
    return python
