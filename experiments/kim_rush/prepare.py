"""What a task needs before its first cell: data, and the teacher's two corpora.

Each part is made once and kept; a part that was begun goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import torch

from experiments.harness.g2p_data import make_g2p_data
from experiments.harness.recipes import recipe_of
from experiments.kim_rush.tasks import G2P, Task
from seqdistill.assembly.data import Split, read_split
from seqdistill.core.generators import named_generator
from seqdistill.core.progress import Progress
from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples
from seqdistill.jobs.label import label_data
from seqdistill.recipe.schema import Recipe
from seqdistill.records import atomic
from seqdistill.sources.teacher_corpus import is_complete

_LOG = logging.getLogger(__name__)
_NUM_DEV = 500


def prepare(task: Task, *, progress: Progress) -> dict[Split, int]:
    """How many examples each split has. Makes what is missing of data and corpora."""
    if task is G2P:
        make_g2p_data(task.folder / "data")
    examples = read_split(_plain(task), "train")
    _write_subset(task, examples)
    _write_dev(task)
    for preset, corpus in (("seq_kd", "beam-5"), ("seq_inter", "best-35")):
        if is_complete(task.corpus(corpus)):
            continue
        settings: dict[str, object] = {"sequences.corpus": str(task.corpus(corpus))}
        if corpus == "best-35":
            settings["data.train"] = str(task.interpolation_sources)
        _LOG.info("%s: labelling %s", task.name, corpus)
        label_data(_plain(task, preset, settings), progress=progress)
    plain = _plain(task)
    splits: tuple[Split, ...] = ("train", "dev", "test")
    return {split: len(read_split(plain, split)) for split in splits}


def _plain(task: Task, preset: str = "baseline", more: dict[str, object] | None = None) -> Recipe:
    """A recipe of the task that is no chain, to read data and to label with."""
    settings = {
        **task.settings,
        "teacher.model": task.teacher,
        "student.model": task.teacher,  # nobody is trained by it
        "output_dir": str(task.folder / "prepared"),
        **(more or {}),
    }
    return recipe_of(settings, preset=preset)


def _write_subset(task: Task, examples: Sequence[Example]) -> None:
    if task.interpolation_sources.is_file():
        return
    order = _order(len(examples), f"{task.name} interpolation")[: task.interpolation_examples]
    _write_examples(task.interpolation_sources.name, task, [examples[i] for i in sorted(order)])


def _write_dev(task: Task) -> None:
    path = task.folder / "data" / "dev.jsonl"
    if path.is_file() or task.settings["data.dev"] != str(path):
        return
    examples = read_examples(str(task.settings["data.train"]), split="dev")
    order = _order(len(examples), f"{task.name} dev")[:_NUM_DEV]
    _write_examples(path.name, task, [examples[i] for i in sorted(order)])


def _order(count: int, name: str) -> list[int]:
    found: list[int] = torch.randperm(count, generator=named_generator(1, name)).tolist()
    return found


def _write_examples(name: str, task: Task, examples: Sequence[Example]) -> None:
    folder = task.folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": e.id, "source": e.source, "target": e.target} for e in examples]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    atomic.write_text(folder / name, "".join(lines))
