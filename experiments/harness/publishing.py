"""Puts a trained teacher where it is committed, with the record of its training beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory

_RECORDED = ("recipe.yaml", "metrics.jsonl", "manifest.json")


def publish_model(run: RunDirectory, folder: Path, *, record: Path) -> None:
    """Replaces the model in `folder`, and in `record` its recipe, metrics and manifest.

    They do not lie beside the weights: what is there is the model's fingerprint.
    """
    with atomic.replaced_folder(folder) as aside:
        shutil.copytree(run.student_path, aside, dirs_exist_ok=True)
    with atomic.replaced_folder(record) as aside:
        for name in _RECORDED:
            shutil.copyfile(run.path / name, aside / name)
