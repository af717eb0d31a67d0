"""What tasks need before their first cell: data, subsets of them, labels; and trained teachers.

Each part is made once and kept; labelling that was begun goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from corpora.g2p import build as g2p_corpus

from experiments.shapes import Settings
from seqdistill.assembly.data import Split, read_split
from seqdistill.core.generators import named_generator
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.jobs.label import label_data
from seqdistill.recipe.documents import Settings as Document
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory

NUM_DEV = 500
"""Examples of dev that checkpoints are scored on, where a task has more."""


def recipe_of(settings: Mapping[str, object], *, preset: str | None = None) -> Recipe:
    """The recipe with these dotted settings over those of a preset, or over the defaults.

    Raises RecipeError for settings that contradict each other.
    """
    document = Document()
    if preset is not None:
        said = read_recipe(preset).model_dump(mode="json", exclude_unset=True)
        document.merge(Document(said))
    for key, value in settings.items():
        document.put(tuple(key.split(".")), value, "")
    recipe = Recipe.model_validate(document.values)
    check_recipe(recipe)
    return recipe


def make_g2p_data(folder: Path) -> None:
    """Builds the grapheme-to-phoneme corpus in the folder where it is not there."""
    if not (folder / "corpus.json").is_file():
        entries, version = g2p_corpus.load_entries()
        g2p_corpus.write(g2p_corpus.divide(entries), folder, version=version)


def write_subset(path: Path, data: str, split: Split, count: int, *, seed_name: str) -> None:
    """Writes examples of a split, drawn once for all seeds, as JSONL in their own order."""
    there = path.read_text("utf-8").count("\n") if path.is_file() else 0
    if there == count:
        return
    examples = read_examples(data, split=split)
    generator = named_generator(1, seed_name)
    order: list[int] = torch.randperm(len(examples), generator=generator).tolist()
    rows = [examples[i] for i in sorted(order[:count])]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"id": e.id, "source": e.source, "target": e.target} for e in rows]
    texts = [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
    atomic.write_text(path, "".join(texts))


def write_dev(folder: Path, name: str, settings: Settings) -> None:
    """Writes the subset of dev that a task's recipes name, where they name one."""
    path, data = folder / "data" / "dev.jsonl", str(settings["data.train"])
    if settings["data.dev"] == str(path):
        write_subset(path, data, "dev", NUM_DEV, seed_name=f"{name} dev")


def label(preset: str, settings: Settings, corpus: Path, teacher: str) -> None:
    """Has the teacher generate the outputs that students of a preset read, where they lack."""
    if (corpus / "manifest.json").is_file():
        return
    label_data(
        _plain(preset, {**settings, "sequences.corpus": str(corpus)}, teacher),
        progress=NoProgress(),
    )


def split_sizes(settings: Settings, teacher: str) -> dict[str, int]:
    """How many examples each split of a task has."""
    data = {key: value for key, value in settings.items() if not key.startswith("sequences.")}
    recipe = _plain("baseline", data, teacher)
    splits: tuple[Split, ...] = ("train", "dev", "test")
    return {split: len(read_split(recipe, split)) for split in splits}


def _plain(preset: str, settings: Settings, teacher: str) -> Recipe:
    """A recipe to read data and to label with; nobody is trained by it."""
    models = {"teacher.model": teacher, "student.model": teacher}
    return recipe_of({**settings, **models}, preset=preset)


def publish_model(run: RunDirectory, folder: Path, *, record: Path) -> None:
    """Replaces the model in `folder`, and in `record` its recipe, metrics and manifest.

    They do not lie beside the weights: what is there is the model's fingerprint.
    """
    with atomic.replaced_folder(folder) as aside:
        shutil.copytree(run.student_path, aside, dirs_exist_ok=True)
    with atomic.replaced_folder(record) as aside:
        for name in ("recipe.yaml", "metrics.jsonl", "manifest.json"):
            shutil.copyfile(run.path / name, aside / name)
