"""What a model's name leads to, looked at before anything is loaded: a slip is told at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from seqdistill.core.errors import ModelError, did_you_mean, first_line
from seqdistill.core.hub import is_cached, nowhere

CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_GENERATION = "generation_config.json"
_INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.spm")
_TOKENIZER_JSON = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")


def check_place(name: str, what: str) -> None:
    """Raises ModelError for a name that can lead to no model, with what was probably meant.

    The hub is asked for what looks like one of its names and is nearly no path that is there.
    """
    path = Path(name)
    if path.is_dir():
        _check_folder(path, name, what)
        return
    if "://" in name:
        found = (
            f"{name!r} is an address: models run in this process; a teacher behind a server is "
            "named as teacher.server.url."
        )
    elif path.exists():
        found = (
            f"{name!r} is a file; give the folder that holds config.json, model.safetensors and "
            "the tokenizer."
        )
    elif _HUB_NAME.fullmatch(name) is None or name.startswith("."):
        found = (
            f"there is no folder {name!r}; check the path, which counts from the current "
            f"folder.{_meant(path)}"
        )
    elif is_cached(name):
        return
    elif "/" in name and (meant := _meant(path)):
        found = f"there is no {name!r}.{meant}"
    elif (reason := nowhere(name)) is not None:
        found = f"{reason}; check the name, or go online.{_meant(path)}"
    else:
        return
    raise ModelError(f"The {what} must load from a model folder or a hub name, but {found}")


def _check_folder(folder: Path, name: str, what: str) -> None:
    needed = (CONFIG, ADAPTER_CONFIG, *([_TOKENIZER_CONFIG] if what == "tokenizer" else []))
    if any((folder / file).is_file() for file in needed):
        return
    if students := _students(folder):
        raise ModelError(
            f"The {what} must load from a model folder, but {name!r} is a run directory. "
            f"Did you mean {str(students[0])!r}?"
        )
    raise ModelError(
        f"The {what} must load from a model folder, but {name!r} holds no {CONFIG}; give a folder "
        "written by save_pretrained: config.json, model.safetensors, tokenizer."
    )


def _students(folder: Path) -> list[Path]:
    """The student of a run directory, or those of the members of one that compares."""
    own = folder / "student"
    if (own / CONFIG).is_file():
        return [own]
    return sorted(found.parent for found in folder.glob(f"*/student/{CONFIG}"))


def _meant(path: Path) -> str:
    """' Did you mean ...?' for a folder of nearly that name beside, or its student, or ''."""
    try:
        folders = [beside for beside in path.parent.iterdir() if beside.is_dir()]
    except OSError:
        return ""
    hint = did_you_mean(str(path), map(str, folders))
    close = next((folder for folder in folders if hint == f" Did you mean {str(folder)!r}?"), None)
    if close is not None and not (close / CONFIG).is_file() and (students := _students(close)):
        return f" Did you mean {str(students[0])!r}?"
    return hint


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; an empty one where there is no such file.

    Raises ModelError for a file that holds something else.
    """
    if not file.is_file():
        return {}
    try:
        holds = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        found = first_line(error)
    else:
        if isinstance(holds, dict):
            return holds
        found = f"it holds {str(holds)[:40]!r}"
    raise ModelError(
        f"{file} must be a JSON object as save_pretrained writes it, but: {found}; "
        "restore the file, or save the model there again."
    )


def check_tokenizer_files(name: str) -> str:
    """Where the tokenizer of `name` lies: there, or, for adapters that have none, with their base.

    Raises ModelError for a folder whose tokenizer is not whole.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    if not any(any(folder.glob(files)) for files in _TOKENIZER_FILES):
        base = base_of(name)
        if base != name:
            return check_tokenizer_files(base)
        raise ModelError(
            f"The tokenizer must load from the folder {name!r}, but it holds none; save it there "
            "with save_pretrained."
        )
    if not (folder / _TOKENIZER_CONFIG).is_file():
        raise ModelError(
            f"The tokenizer must load from the folder {name!r}, but it has no {_TOKENIZER_CONFIG}, "
            "which says what kind it is and which tokens begin and end a text; copy it from where "
            "the model came from, or save the tokenizer there again with save_pretrained."
        )
    for file in (_TOKENIZER_CONFIG, *_TOKENIZER_JSON):
        read_object(folder / file)
    return name


def check_weight_files(name: str) -> None:
    """Raises ModelError for a folder whose weights are pickled, or whose ids are no numbers."""
    folder = Path(name)
    for key, value in read_object(folder / _GENERATION).items():
        ids = value if isinstance(value, list) else [value]
        if key.endswith("_token_id") and not all(i is None or type(i) is int for i in ids):
            raise ModelError(
                f"{key} in {folder / _GENERATION} must be a token's number, or a list of such, but "
                f"it is {value!r}; restore the file, or save the model there again."
            )
    if read_object(folder / _INDEX) or any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(folder.glob("*.bin")):
        raise ModelError(
            f"The weights must load from safetensors files, but {name!r} holds {pickled[0].name}, "
            "a pickle, which can run code when it is read. Where you trust it, convert it once: "
            "load it with transformers' from_pretrained and save it with save_pretrained."
        )


def base_of(name: str) -> str:
    """The folder or hub name of the whole model: of adapters alone their base, else `name` itself.

    Raises ModelError for a base that is nowhere to be found.
    """
    folder = Path(name)
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / CONFIG).is_file():
        return name
    base = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"The folder {name!r} holds adapters alone, so {ADAPTER_CONFIG} must name their base "
            f"model as base_model_name_or_path, but it names {base!r}; add it, or give a folder of "
            "the merged model."
        )
    beside = folder / base
    named = (Path(base) / CONFIG).is_file()
    found = str(beside) if not named and (beside / CONFIG).is_file() else base
    try:
        check_place(found, "base model")
    except ModelError as error:
        raise ModelError(
            f"The folder {name!r} holds adapters alone, of the base model {base!r}, which is not "
            f"to be found: {error}"
        ) from error
    return found


def model_folders(name: str) -> tuple[Path, ...]:
    """The local folders that a model is read from: its own, and that of its adapters' base."""
    return tuple(
        Path(place) for place in dict.fromkeys((name, base_of(name))) if Path(place).is_dir()
    )
