"""A task of a few words, in the form of both experiments: its data, its teacher, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from corpora.g2p.build import Entry, divide, write
from experiments.shapes import Settings, Size

from seqdistill.models.loading import load_tokenizer
from seqdistill.models.scratch import configuration, random_model


def words(count: int) -> list[Entry]:
    """Words over eight letters, each letter said by one phone."""
    found = []
    for number in range(count):
        letters = [(number // 8**place) % 8 for place in range(3)]
        word = "".join("abcdefgh"[letter] for letter in letters)
        found.append(Entry(word, tuple(f"P{letter}" for letter in letters)))
    return found


def write_tiny_data(data: Path, *, num_dev: int, num_test: int) -> None:
    """Sixty words, divided, and their tokenizer."""
    write(divide(words(60), num_dev=num_dev, num_test=num_test), data, version="test")


def save_tiny_teacher(folder: Path, size: Size, *, tokenizer: Path) -> None:
    """A nearly uniform teacher of random weights."""
    known = load_tokenizer(str(tokenizer))
    shape = configuration({**size.architecture, "init_std": 0.02}, known)
    random_model(shape, seed=1).save_pretrained(folder)
    known.save_pretrained(folder)


def tiny_settings(settings: Settings, data: Path) -> Mapping[str, object]:
    """`settings` with these data and lengths that suit a few updates."""
    return {
        **settings,
        **{f"data.{split}": str(data / f"{split}.tsv") for split in ("train", "dev", "test")},
        "training.warmup_steps": 1,
        "training.batch_tokens": 100,
        "training.eval_every": 2,
        "training.log_every": 1,
        "data.max_target_tokens": 10,
        "sequences.decoding.max_new_tokens": 10,
        "evaluation.max_new_tokens": 10,
        "evaluation.bootstrap_resamples": 20,
    }
