"""What a task needs before its first cell: data, its teacher, the teacher's outputs.

Each part is made once and kept; a part that was begun goes on. Teachers are not trained here.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from experiments.gkd.tasks import G2P, Task
from experiments.harness.g2p_data import make_g2p_data
from experiments.harness.recipes import recipe_of
from seqdistill.assembly.data import Split, read_split
from seqdistill.assembly.models import model_folder
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.generators import named_generator
from seqdistill.core.progress import Progress
from seqdistill.data.readers import read_examples
from seqdistill.jobs.label import label_data
from seqdistill.records import atomic
from seqdistill.sources.teacher_corpus import is_complete

_LOG = logging.getLogger(__name__)
_NUM_DEV = 500
"""Examples of dev that checkpoints are scored on, where a task has more."""


def make_data(task: Task) -> None:
    """Makes the files that the task's recipes name: what its plan needs.

    Raises UserError for a teacher that is not there.
    """
    try:
        there = Path(model_folder(task.teacher)).is_dir()
    except ModelError:
        there = False
    if not there:
        raise UserError(
            f"the teacher of {task.name} must be {task.teacher}, but there is none; train it by: "
            f"python -m experiments.gkd.teachers {task.name}"
        )
    if task is G2P:
        make_g2p_data(task.folder / "data")
    write_dev(task)
    _write_labelled(task)


def prepare(task: Task, *, labelled: bool = True, progress: Progress) -> dict[Split, int]:
    """How many examples each split has. Makes what is missing of data and, if `labelled`, corpus.

    Raises UserError for a teacher that is not there, and for another number of training examples
    than the task says.
    """
    make_data(task)
    corpus = {"sequences.corpus": str(task.teacher_corpus)}
    settings = {
        **task.settings,
        "teacher.model": task.teacher,
        "student.model": task.teacher,  # nobody is trained by it
        "output_dir": str(task.folder / "prepared"),
    }
    recipe = recipe_of({**settings, **corpus}, preset="seq_kd")
    if labelled and not is_complete(task.teacher_corpus):
        _LOG.info("%s: the teacher writes", task.name)
        inputs = {"data.train": task.labelled_inputs}
        label_data(recipe_of({**settings, **corpus, **inputs}, preset="seq_kd"), progress=progress)
    splits: tuple[Split, ...] = ("train", "dev", "test")
    sizes = {split: len(read_split(recipe, split)) for split in splits}
    if sizes["train"] != task.num_train:
        raise UserError(
            f"the training examples of {task.name} must be {task.num_train}, found "
            f"{sizes['train']}; correct num_train, by which parts of the data are taken"
        )
    return sizes


def write_dev(task: Task) -> None:
    """Writes the subset of dev that the task's recipes name, where they name one."""
    path = task.folder / "data" / "dev.jsonl"
    if path.is_file() or task.settings["data.dev"] != str(path):
        return
    _write_subset(task, "dev", _NUM_DEV, path)


def _write_labelled(task: Task) -> None:
    """Writes the training inputs that the teacher writes outputs for, where they are a part."""
    path = Path(task.labelled_inputs)
    if task.num_labelled is None:
        return
    there = path.read_text("utf-8").count("\n") if path.is_file() else 0
    if there != task.num_labelled:
        _write_subset(task, "train", task.num_labelled, path)


def _write_subset(task: Task, split: Split, size: int, path: Path) -> None:
    """Writes examples of a split, drawn once for all seeds, as JSONL in their own order."""
    examples = read_examples(str(task.settings["data.train"]), split=split)
    generator = named_generator(1, f"{task.name} {split}")
    order: list[int] = torch.randperm(len(examples), generator=generator).tolist()
    chosen = [examples[i] for i in sorted(order[:size])]
    rows = [{"id": e.id, "source": e.source, "target": e.target} for e in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    atomic.write_text(path, "".join(lines))
