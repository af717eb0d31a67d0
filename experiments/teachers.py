"""Trains a teacher of the experiments again: `python -m experiments.teachers TASK`.

Goes on where it stopped. Replaces the committed model and the record of its training; rows that
were measured with another teacher are then measured again by the experiments.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from experiments.gkd.tasks import SUMMARIES
from experiments.on_policy import routes
from experiments.pages import exits
from experiments.preparing import make_g2p_data, publish_model, recipe_of, write_dev
from experiments.shapes import NamedSize, read_tasks
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.jobs.train import train
from seqdistill.models.scratch import configuration, train_vocabulary
from seqdistill.recipe.schema import Recipe


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One entry of teachers.yaml."""

    data: Path
    model: Path
    record: Path
    architecture: dict[str, Any]
    """The transformers configuration, over that of `size`."""
    settings: dict[str, Any]
    vocab_size: int | None = None
    size: NamedSize | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """The whole configuration."""
        return {**(self.size.architecture if self.size else {}), **self.architecture}

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        places = {"student.model": str(self.data / "teacher-shape")}
        return recipe_of(
            {**self.settings, **places, "output_dir": str(self.data.parent / "teacher")}
        )


TEACHERS = read_tasks(Path(__file__).with_suffix(".yaml"), Teacher)


def vocabulary(data: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of the training texts in which every digit is a token.

    Digits that merge give the same number many spellings. They are kept apart by hiding them while
    merges are learned.
    """
    examples = read_examples(data, split="train")
    texts = (text for e in examples for text in (e.source, e.target or ""))
    return train_vocabulary((re.sub(r"\d", " ", text) for text in texts), vocab_size=vocab_size)


def train_teacher(name: str) -> None:
    """Trains the teacher, or goes on with it, and publishes it."""
    teacher = TEACHERS[name]
    if name == "g2p":
        make_g2p_data(teacher.data)
    if name == "routes":
        routes.write_data(teacher.data)
    if name == "summaries":
        write_dev(SUMMARIES.folder, name, SUMMARIES.settings)
    shape = teacher.data / "teacher-shape"
    if not (shape / "tokenizer.json").is_file():
        if teacher.vocab_size is None:
            tokenizer = AutoTokenizer.from_pretrained(teacher.data / "tokenizer")
        else:
            tokenizer = vocabulary(teacher.settings["data.train"], teacher.vocab_size)
        tokenizer.save_pretrained(shape)
    tokenizer = AutoTokenizer.from_pretrained(shape)
    configuration(teacher.shape, tokenizer).save_pretrained(shape)
    run = train(teacher.recipe, progress=NoProgress(), resume=True)
    publish_model(run, teacher.model, record=teacher.record)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=list(TEACHERS))
    name = parser.parse_args().task
    keep_freed_memory()
    train_teacher(name)


if __name__ == "__main__":
    exits(main)
