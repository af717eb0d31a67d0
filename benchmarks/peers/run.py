"""Measures this package beside its peers: same models, same rows, one machine, one run.

    python -m benchmarks.peers.run --folder runs/peers --environment ~/peers

The peers get an environment of their own, made there from requirements.txt when it is missing.
Every measurement is a process of its own, all with one thread and the same allocator settings;
systems take turns, round after round. Clocks are read inside each process where the optimizer has
stepped (clock.py): the first updates warm up, and the mean of the others is one measurement. CPU
seconds stand beside wall seconds, because they hold on a busy machine too. Memory is the peak of
the whole process, libraries included; it is measured once more under glibc's own allocator
settings, which return memory at once.

Finished measurements are kept in the folder and not repeated, so the command goes on where it was
stopped, and `--rounds` and `--seeds` may grow. Other code is another run: it takes another folder.
`--part page` only writes docs/results/peers.json and docs/results/peers.md from what there is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from benchmarks.peers import labels, page, quality, systems
from benchmarks.peers.measuring import Bench, peer_python
from benchmarks.peers.preparing import prepare_pair

from seqdistill.core.errors import UserError

PARTS = ("speed", "labels", "quality", "page")
MEMORY_UPDATES = 4
"""Of the runs that tell memory alone."""


def measure_pair(
    bench: Bench, name: str, pair: dict[str, Any], rounds: int, *, memory: bool
) -> None:
    """Costs of an update of every system, and with `memory` its peak under glibc's defaults."""
    place = bench.folder / "pairs" / name
    prepare_pair(place, pair, bench.folder.parent)

    def run(system: str, key: str, seed: int, attention: str, **more: Any) -> Any:
        updates = more.get("updates", pair["updates"])
        module, given = systems.settings(
            system, place, pair, seed=seed, attention=attention, updates=updates
        )
        allocator = more.get("allocator", "kept")
        return bench.of(f"{name}/{system.replace(' ', '-')}/{key}", module, given, allocator)

    # Peers get the attention that is faster for them.
    pilots = {
        one: run("gkd 0", f"pilot-{one}", 0, one, updates=pair["warm_up"] + 2)["cpu_s"]
        for one in ("sdpa", "eager")
    }
    attention = min(pilots, key=lambda one: pilots[one])
    for number in range(1, rounds + 1):
        for system in systems.names(pair):
            run(system, f"round-{number}", number, attention)
    for system in systems.LARGE if memory else ():
        least = max(MEMORY_UPDATES, pair["warm_up"] + 2)
        run(system, "memory", 1, attention, updates=least, allocator="default")


def main() -> None:
    """The parts that are asked for, one after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"))
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="leave glibc's defaults out")
    parser.add_argument("--pair", action="append", help="only these; all when not given")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these parts")
    given = parser.parse_args()
    pairs = yaml.safe_load(Path(__file__).with_name("pairs.yaml").read_text("utf-8"))
    parts = given.part or PARTS
    try:
        bench = Bench(given.folder.resolve(), peer_python(given.environment.resolve()), 1)
        if "speed" in parts:
            for name in given.pair or pairs:
                measure_pair(bench, name, pairs[name], given.rounds, memory=not given.no_memory)
        if "labels" in parts:
            labels.measure(bench, given.rounds)
        if "quality" in parts:
            quality.measure(bench, given.seeds)
        page.write(bench.folder, pairs)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
