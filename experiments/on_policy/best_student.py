"""Makes the best student, or goes on with it: `python -m experiments.on_policy.best_student`.

Writes the text that the teacher labels, runs the sweep of best_student.yaml, measures every step of
it and the teacher in one process, and writes rows and page.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from corpora.en_de.unlabelled import write

from experiments.on_policy.page import BEST, RESULTS, write_page
from experiments.pages import exits
from experiments.preparing import split_sizes
from experiments.running import add_rows, exit_if_failed
from experiments.students import measured
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.jobs.sweep import planned_cells, run_sweep
from seqdistill.recipe.sweep_schema import read_sweep

SWEEP = read_sweep(Path(__file__).with_name("best_student.yaml"))


def main() -> None:
    """The command line. Exits with a sentence when cells failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell later")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    keep_freed_memory()
    if not (text := Path(SWEEP.output_dir) / "unlabelled.txt").is_file():
        print(write(text))
    done = run_sweep(SWEEP, jobs=options.jobs, until=until, tell=print)
    data = {key: value for key, value in SWEEP.settings.items() if key.startswith("data.")}
    sizes = split_sizes(data, str(SWEEP.settings["teacher.model"]))
    add_rows(RESULTS, measured(SWEEP, planned_cells(SWEEP), BEST), {BEST: sizes})
    write_page(RESULTS)
    exit_if_failed(done.failed)


if __name__ == "__main__":
    exits(main)
