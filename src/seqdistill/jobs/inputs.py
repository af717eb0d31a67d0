"""What a run reads, by content: fingerprints of the files of its data and models.

Kept in the manifest when a run begins and compared when it goes on: resumed on other data, or with
another teacher, it would be another run. What is in them is not known here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from seqdistill.assembly.models import model_folder
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.plugin_loading import plugin_files
from seqdistill.data.bundled import SCHEME, corpus_file
from seqdistill.data.cache import content_of
from seqdistill.data.dataset import EncodedDataset
from seqdistill.recipe.schema import Recipe
from seqdistill.records.fingerprint import MODEL_SUFFIXES
from seqdistill.records.run_directory import RunDirectory

INPUTS = "inputs"
"""Where they stand in the manifest."""
SEQUENCES = "sequences"
"""The key of what was learned from: token ids of the training examples, labels included."""
_MODEL_FILES = (*MODEL_SUFFIXES, ".py")

Fingerprints = dict[str, dict[str, str]]
"""Setting -> name of a file -> SHA-256 of its bytes."""


def inputs_of(recipe: Recipe) -> Fingerprints:
    """The fingerprints of every file that the settings of a recipe name.

    Data on the hub have no files here and are left out; what is learned from them is compared as
    `SEQUENCES`. So is whatever cannot be found: who reads it says so. A teacher that may be
    published anew is listed as the run sees it.
    """
    reward, teacher = recipe.objective.reward, recipe.teacher
    fixed = teacher.other_models if teacher.reload_every is None else ()
    files = {
        "data.train": data_files(recipe.data.train),
        "data.unlabelled": data_files(recipe.data.unlabelled),
        "data.dev": data_files(recipe.data.dev),
        "data.test": data_files(recipe.data.test),
        "teacher.model": _teachers_files(fixed),
        "student.model": _model_files(recipe.student.model),
        "objective.reward.classifier": _model_files(reward.classifier),
        "objective.reward.function": _module_file(reward.function),
        "plugins": plugin_files(recipe.plugins),
    }
    return {
        key: {name: content_of(path) for name, path in found.items()}
        for key, found in files.items()
        if found
    }


def sequences_of(**splits: EncodedDataset) -> Fingerprints:
    """The fingerprint of the token ids that are learned from and scored on."""
    return {SEQUENCES: {name: split.fingerprint for name, split in splits.items()}}


def check_inputs(run: RunDirectory, found: Mapping[str, Mapping[str, str]]) -> None:
    """Raises UserError, naming setting and file, where the run was begun with other content.

    Where files lie, and how files of data are called, does not count. A run without a checkpoint
    begins anew, with whatever there is.
    """
    if not any(run.checkpoints_path.glob("checkpoint-*")):
        return
    begun = run.read_manifest().get(INPUTS)
    if not isinstance(begun, dict):
        raise UserError(
            f"--resume needs the fingerprints of what {run.path} was started with, but "
            f"{run.manifest_path} has none; restore it, or start a new output_dir."
        )
    for key, files in found.items():
        before = begun.get(key)
        if not isinstance(before, dict) or _content(key, before) == _content(key, files):
            continue
        changed = [name for name, sha256 in files.items() if sha256 not in before.values()]
        lost = [name for name in before if name not in files]
        named = ", ".join(changed or lost or files)
        what = f"{named} changed since" if changed else f"{named} is not there now"
        raise UserError(
            f"--resume needs the {key} that {run.path} was started with, but {what}; restore it, "
            "or start a new output_dir."
        )


def _content(key: str, files: Mapping[str, object]) -> object:
    return list(files.values()) if key.startswith("data.") else dict(files)


def data_files(spec: str | None) -> dict[str, Path]:
    """The files that data are read from, by name; none of what is on the hub, or nowhere."""
    if spec is None:
        return {}
    if spec.startswith(SCHEME):
        file = corpus_file(spec)
        return {file.name: file} if file.is_file() else {}
    folder = Path(spec)
    if folder.is_dir():
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in found}
        return {name: path for name, path in names.items() if not name.startswith(".")}
    # A name with a comma is a pair of files, unless there is a file of that very name.
    paths = [folder] if folder.exists() else [Path(name) for name in spec.split(",")]
    found = [path for path in paths if path.is_file()]
    if len({path.name for path in found}) < len(found):  # such as en/text, de/text
        return dict(zip(("source file", "target file"), found, strict=False))
    return {path.name: path for path in found}


def _model_files(name: str | None) -> dict[str, Path]:
    """The files of a model folder, or of a hub model in the cache, that decide its outputs."""
    if name is None:
        return {}
    try:
        folder = Path(model_folder(name))
    except ModelError:  # who loads it says so
        return {}
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(name, "config.json")
        except HFValidationError:  # no name of the hub's: likewise
            return {}
        if not isinstance(cached, str):
            return {}
        folder = Path(cached).parent
    found = sorted(path for path in folder.iterdir() if path.name.endswith(_MODEL_FILES))
    return {path.name: path for path in found if path.is_file()}


def _teachers_files(names: Sequence[str]) -> dict[str, Path]:
    """Those of all teachers; of several each after the teacher's number."""
    if len(names) < 2:
        return _model_files(next(iter(names), None))
    return {
        f"{number}/{file}": path
        for number, name in enumerate(names, start=1)
        for file, path in _model_files(name).items()
    }


def _module_file(name: str | None) -> dict[str, Path]:
    """The file of a Python function that is named as `module:name`."""
    module, colon, _ = (name or "").partition(":")
    if not colon:
        return {}
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return {}
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    return {file.name: file} if file is not None and file.is_file() else {}
