"""Publishes a finished demo run: its results, manifest and recipe, as they are, and README's table.

python -m docs.publish_demo runs/demo
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from docs.readme import MANIFEST, README, RESULTS, rendered


def main() -> None:
    """Copy three files of the run directory named on the command line, then rewrite README.md."""
    run = Path(sys.argv[1])
    shutil.copyfile(run / "results.json", RESULTS)
    shutil.copyfile(run / "manifest.json", MANIFEST)
    shutil.copyfile(run / "recipe.yaml", RESULTS.with_name("demo.recipe.yaml"))
    README.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main()
