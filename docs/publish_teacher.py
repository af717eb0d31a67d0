"""Publishes a finished and evaluated teacher run: the bundled model, its recipe, log and scores.

make teacher && .venv/bin/seqdistill evaluate runs/teacher
python -m docs.publish_teacher runs/teacher
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from docs.readme import PACKAGE, ROOT

MODEL = PACKAGE / "bundled" / "en-de" / "teacher"
RECORD = ROOT / "docs" / "results" / "teacher"
RECORDED = ("recipe.yaml", "metrics.jsonl", "results.json", "manifest.json")


def main() -> None:
    """Copy the student and the record of the run directory named on the command line."""
    run = Path(sys.argv[1])
    missing = [name for name in RECORDED if not (run / name).is_file()]
    if missing:
        sys.exit(f"{run} must be trained and evaluated, but it has no {', '.join(missing)}")
    shutil.rmtree(MODEL)
    shutil.copytree(run / "student", MODEL)
    for name in RECORDED:
        shutil.copyfile(run / name, RECORD / name)


if __name__ == "__main__":
    main()
