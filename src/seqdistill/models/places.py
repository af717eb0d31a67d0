"""What a model's name leads to, looked at before anything is loaded: a slip is told at once.

Reads names and small JSON files; loads no weights and runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedConfig

from seqdistill.core.errors import ModelError, did_you_mean, first_line
from seqdistill.core.hub import is_cached, nowhere
from seqdistill.models.lora import ADAPTER_CONFIG, read_adapter_config

CONFIG = "config.json"
_GENERATION = "generation_config.json"
_INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.spm")
_TOKENIZER_JSON = (
    _TOKENIZER_CONFIG,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Beyond these a configuration is no model's, and building it would not end.
_MOST_LAYERS = 10_000
_LARGEST_SIZE = 2**31


def check_place(name: str, what: str) -> None:
    """Raises ModelError for a name that can lead to no model, with what was probably meant.

    The hub is asked for what looks like one of its names and is nearly no path that is there.
    """
    path = Path(name)
    if "://" in name:
        raise ModelError(
            f"The {what} must load from a model folder or a hub name, but {name!r} is an address: "
            "models run in this process and not behind a server."
        )
    if path.is_dir():
        _check_folder(path, name, what)
    elif path.exists():
        raise ModelError(
            f"The {what} must load from a model folder, but {name!r} is a file; give the folder "
            "that holds config.json, model.safetensors and the tokenizer."
        )
    elif _HUB_NAME.fullmatch(name) is None or name.startswith("."):
        raise ModelError(
            f"The {what} must load from a model folder, but there is no folder {name!r}; check the "
            f"path, which counts from the current folder.{_meant(path)}"
        )
    elif not is_cached(name):
        meant = _meant(path) if "/" in name else ""
        if meant:
            raise ModelError(
                f"The {what} must load from a model folder, but there is no {name!r}.{meant}"
            )
        if (found := nowhere(name)) is not None:
            raise ModelError(
                f"The {what} must load from a model folder, a hub name that was loaded before, or "
                f"the hub, but {found}; check the name, or go online.{_meant(path)}"
            )


def _check_folder(folder: Path, name: str, what: str) -> None:
    needed = (CONFIG, ADAPTER_CONFIG, *([_TOKENIZER_CONFIG] if what == "tokenizer" else []))
    if any((folder / file).is_file() for file in needed):
        return
    students = _students(folder)
    if students:
        raise ModelError(
            f"The {what} must load from a model folder, but {name!r} is a run directory. "
            f"Did you mean {str(students[0])!r}?"
        )
    raise ModelError(
        f"The {what} must load from a model folder, but {name!r} holds no {CONFIG}; give a folder "
        "written by save_pretrained: config.json, model.safetensors, tokenizer."
    )


def _students(folder: Path) -> list[Path]:
    """The students of a run directory, or of the members of one that compares."""
    own = folder / "student"
    if (own / CONFIG).is_file():
        return [own]
    return sorted(found.parent for found in folder.glob(f"*/student/{CONFIG}"))


def _meant(path: Path) -> str:
    """' Did you mean ...?' for a folder of nearly that name beside, or its student, or ''."""
    try:
        known = {str(beside): beside for beside in path.parent.iterdir() if beside.is_dir()}
    except OSError:
        return ""
    for shown, beside in list(known.items()):
        if not (beside / CONFIG).is_file() and (students := _students(beside)):
            known[shown] = students[0]
    hint = did_you_mean(str(path), known)
    for shown, beside in known.items():
        if hint == f" Did you mean {shown!r}?":
            return f" Did you mean {str(beside)!r}?"
    return ""


def check_files(name: str, files: Iterable[str]) -> None:
    """Raises ModelError for one of these files that is there and is no JSON object."""
    for file in (Path(name) / file for file in files):
        if not file.is_file():
            continue
        try:
            holds = json.loads(file.read_bytes())
            found = "" if isinstance(holds, dict) else f"it holds {str(holds)[:40]!r}"
        except (OSError, ValueError, RecursionError) as error:
            found = first_line(error)
        if found:
            raise ModelError(
                f"{file} must be a JSON object as save_pretrained writes it, but: {found}; "
                "restore the file, or save the model there again."
            )


def check_sizes(config: PreTrainedConfig, name: str) -> None:
    """Raises ModelError for a number of layers, or a size, that no model has."""
    for key, value in config.to_dict().items():
        if not isinstance(value, int):
            continue
        most = _MOST_LAYERS if "layer" in key else _LARGEST_SIZE
        is_size = "layer" in key or key.endswith(("size", "_dim", "d_model", "_embd", "heads"))
        if is_size and value > most:
            raise ModelError(
                f"The configuration of {name!r} must describe a model that can be built, but its "
                f"{key} is {value}; restore its {CONFIG}."
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
    check_files(name, _TOKENIZER_JSON)
    longest = json.loads((folder / _TOKENIZER_CONFIG).read_bytes()).get("model_max_length")
    if isinstance(longest, str | list | dict):
        raise ModelError(
            f"model_max_length in {folder / _TOKENIZER_CONFIG} must be a number, but it is "
            f"{longest!r}; restore the file, or save the tokenizer there again."
        )
    return name


def check_weight_files(name: str) -> None:
    """Raises ModelError for a folder whose weights are pickled, or not all there."""
    folder = Path(name)
    if not folder.is_dir():
        return
    check_files(name, (_INDEX, _GENERATION))
    _check_token_ids(folder / _GENERATION)
    if (folder / _INDEX).is_file():
        shards = json.loads((folder / _INDEX).read_bytes()).get("weight_map")
        named = set(shards.values()) if isinstance(shards, dict) else set()
        for shard in sorted(map(str, named)):
            if Path(shard).name != shard:
                raise ModelError(
                    f"{folder / _INDEX} must name files of its own folder, but names {shard!r}; "
                    "save the model there again."
                )
            if not (folder / shard).is_file():
                raise ModelError(
                    f"The weights must load from the folder {name!r}, but it has no {shard}, one "
                    f"of the {len(named)} files that {_INDEX} names; copy it there."
                )
        if named:
            return
    if not any(folder.glob("*.safetensors")) and (pickled := sorted(folder.glob("*.bin"))):
        raise ModelError(
            f"The weights must load from safetensors files, but {name!r} holds {pickled[0].name}, "
            "a pickle, which can run code when it is read. Where you trust it, convert it once: "
            "load it with transformers' from_pretrained and save it with save_pretrained."
        )


def _check_token_ids(file: Path) -> None:
    """Raises ModelError for a generation config, if there is one, whose ids are no numbers."""
    if not file.is_file():
        return
    for key, value in json.loads(file.read_bytes()).items():
        ids = value if isinstance(value, list) else [value]
        if key.endswith("_token_id") and not all(i is None or type(i) is int for i in ids):
            raise ModelError(
                f"{key} in {file} must be a token's number, or a list of such, but it is "
                f"{value!r}; restore the file, or save the model there again."
            )


def base_of(name: str) -> str:
    """The folder or hub name of the whole model: of adapters alone their base, else `name` itself.

    Raises ModelError for a base that is nowhere to be found.
    """
    folder = Path(name)
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / CONFIG).is_file():
        return name
    base = read_adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"The folder {name!r} holds adapters alone, so {ADAPTER_CONFIG} must name their base "
            f"model as base_model_name_or_path, but it names {base!r}; add it, or give a folder of "
            "the merged model."
        )
    beside = folder / base
    found = str(beside) if not Path(base).exists() and (beside / CONFIG).is_file() else base
    try:
        check_place(found, "base model")
    except ModelError as error:
        raise ModelError(
            f"The folder {name!r} holds adapters alone, of the base model {base!r}, which is not "
            f"to be found: {error}"
        ) from error
    if Path(found).is_dir() and not (Path(found) / CONFIG).is_file():
        raise ModelError(
            f"The folder {name!r} holds adapters alone, whose base must be a whole model, but "
            f"{found!r} holds adapters alone, too; merge those into their base."
        )
    return found


def model_folders(name: str) -> tuple[Path, ...]:
    """The local folders that a model is read from: its own, and that of its adapters' base."""
    return tuple(
        Path(place) for place in dict.fromkeys((name, base_of(name))) if Path(place).is_dir()
    )
