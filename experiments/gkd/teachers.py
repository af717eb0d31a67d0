"""Trains the teachers that no other experiment has: `python -m experiments.gkd.teachers TASK`.

Replaces the bundled model of the task and, in docs/results, the record of its training; rows that
were measured with another teacher are then measured again by the experiment. Goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from experiments.gkd.run import write_dev
from experiments.gkd.tasks import ARITHMETIC, SUMMARIES, Task
from experiments.preparing import publish_model, recipe_of
from experiments.shapes import Settings, Size
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress
from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples
from seqdistill.jobs.train import train
from seqdistill.models.scratch import configuration, train_vocabulary

BUNDLED = Path("src/seqdistill/bundled")
RECORDS = Path("docs/results")

_LLAMA: Mapping[str, str | int | float | bool] = {
    "model_type": "llama",
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "intermediate_size": 576,
    "max_position_embeddings": 384,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
_SHARED: Settings = {
    "method": "teacher",
    "student.init": "scratch",
    "student.save_dtype": "fp16",
    "training.eval_every": 500,
    "training.keep_best": 3,
    "training.average_best": True,
    "training.checkpoint_every": 250,
    "training.precision": "bf16",
}
TEACHERS: Mapping[str, tuple[Task, Mapping[str, str | int | float | bool], int, Settings]] = {
    # Short of the last percent on purpose: a teacher that is always right cannot tell methods
    # apart, since its outputs are then the references.
    "arithmetic": (
        ARITHMETIC,
        _LLAMA,
        1024,
        {
            "training.steps": 6000,
            "training.batch_tokens": 6000,
            "training.learning_rate": 2e-3,
            "training.warmup_steps": 400,
        },
    ),
    "summaries": (
        SUMMARIES,
        {**Size(256, 3, 3).architecture, "init_std": 0.02},
        8000,
        {
            "training.steps": 4000,
            # Of the longer side: some fifty descriptions.
            "training.batch_tokens": 6000,
            "training.learning_rate": 1e-3,
            "training.warmup_steps": 300,
            "training.dropout": 0.2,
        },
    ),
}
"""Task, transformers configuration, size of the vocabulary and length of training."""


def vocabulary(examples: Iterable[Example], *, vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of the examples' texts in which every digit is a token.

    Digits that merge give the same number many spellings. They are kept apart by hiding them while
    merges are learned.
    """
    texts = (text for e in examples for text in (e.source, e.target or ""))
    return train_vocabulary((re.sub(r"\d", " ", text) for text in texts), vocab_size=vocab_size)


def teacher_settings(name: str) -> dict[str, object]:
    """The recipe's keys; writes its configuration, and its tokenizer where it is not there."""
    task, architecture, vocab_size, settings = TEACHERS[name]
    write_dev(task)
    shape = task.folder / "data" / "teacher-shape"
    if not (shape / "tokenizer.json").is_file():
        examples = read_examples(str(task.settings["data.train"]), split="train")
        vocabulary(examples, vocab_size=vocab_size).save_pretrained(shape)
    tokenizer = AutoTokenizer.from_pretrained(shape)
    configuration(architecture, tokenizer).save_pretrained(shape)
    shared = {
        key: value
        for key, value in task.settings.items()
        if not key.startswith(("sequences.", "evaluation.sampl"))
    }
    return {
        **shared,
        **_SHARED,
        **settings,
        "student.model": str(shape),
        "output_dir": str(task.folder / "teacher"),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=list(TEACHERS))
    parser.add_argument("--updates", type=int, help="another length, to try it: not published")
    options = parser.parse_args()
    keep_freed_memory()
    settings = teacher_settings(options.task)
    if options.updates is not None:
        settings |= {
            "training.steps": options.updates,
            "training.warmup_steps": max(1, options.updates // 10),
            "training.eval_every": max(1, options.updates // 3),
            "output_dir": f"{settings['output_dir']}-{options.updates}",
        }
    run = train(recipe_of(settings), progress=NoProgress(), resume=True)
    if options.updates is None:
        name = TEACHERS[options.task][0].teacher.removeprefix("bundled:")
        publish_model(run, BUNDLED / name / "teacher", record=RECORDS / f"teacher-{name}")


if __name__ == "__main__":
    main()
