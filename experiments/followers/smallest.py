"""Measures how small a student may be: `python -m experiments.followers.smallest`, or goes on.

Trains the students of smallest.yaml, measures each in fp32 and int8 beside the teacher, and writes
rows and page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.followers.page import RESULTS, SMALLEST, write_page
from experiments.pages import exits
from experiments.preparing import make_g2p_data, split_sizes
from experiments.running import add_rows, exit_if_failed
from experiments.students import measured
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.jobs.sweep import planned_cells, run_sweep
from seqdistill.recipe.sweep_schema import read_sweep

SWEEP = read_sweep(Path(__file__).with_name("smallest.yaml"))


def main() -> None:
    """The command line. Exits with a sentence when cells failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    options = parser.parse_args()
    keep_freed_memory()
    make_g2p_data(Path(SWEEP.settings["data.train"]).parent)
    done = run_sweep(SWEEP, jobs=options.jobs, tell=print)
    data = {key: value for key, value in SWEEP.settings.items() if key.startswith("data.")}
    sizes = split_sizes(data, str(SWEEP.settings["teacher.model"]))
    rows = measured(SWEEP, planned_cells(SWEEP), SMALLEST)
    add_rows(RESULTS, rows, {SMALLEST: sizes})
    write_page(RESULTS)
    exit_if_failed(done.failed)


if __name__ == "__main__":
    exits(main)
