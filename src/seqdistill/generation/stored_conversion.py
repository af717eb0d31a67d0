"""A converted model as a folder that needs no live model: what stands beside CTranslate2's files.

CTranslate2's own files hold weights and token strings. Which tokens start and end a sequence, how
many positions there are, the arithmetic, and how far the copy lay from its model are in
`seqdistill.json`. Decodes nothing.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import EngineError, ModelError, first_line
from seqdistill.generation.conversion import WEIGHTS, ConvertedModel, converted_of
from seqdistill.generation.ctranslate2_loading import ModelLoader, VerifiedModel
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.generation.verification import Agreement
from seqdistill.records import atomic
from seqdistill.records.checksums import check_model_folder

STORED = "seqdistill.json"
_VOCABULARIES = ("shared_vocabulary.json", "vocabulary.json")
_REMEDY = "make it with `seqdistill export RUN_OR_MODEL OUTPUT --format int8`"


@dataclasses.dataclass(frozen=True)
class StoredConversion:
    """The content of seqdistill.json."""

    facts: ModelFacts
    compute_type: str
    end_token: tuple[str, ...]
    """The argument of that name of `translate_batch` and `generate_batch`."""
    target_prefix: tuple[str, ...]
    """What an encoder-decoder's outputs begin with: given to `translate_batch` for every source."""
    agreement: Agreement
    """How far the copy lay from its model."""
    longest: int
    """Positions of the longest sequence on which they were compared."""


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a CTranslate2 model."""
    return (folder / WEIGHTS).is_file()


def write_stored(folder: Path, loaded: VerifiedModel, compute_type: str) -> None:
    """Puts seqdistill.json beside the files of the converted model."""
    stored = StoredConversion(
        loaded.facts,
        compute_type,
        tuple(loaded.converted.strings(loaded.converted.known(loaded.facts.end_ids))),
        tuple(loaded.converted.strings(loaded.facts.prefix_ids)),
        loaded.agreement,
        loaded.longest,
    )
    atomic.write_json(folder / STORED, dataclasses.asdict(stored))


def read_stored(folder: Path) -> StoredConversion:
    """What was stored beside the model.

    Raises UserError where a file is not as it was written; ModelError where this one is missing or
    makes no sense, in folders without checksums.
    """
    check_model_folder(folder)
    try:
        return TypeAdapter(StoredConversion).validate_json((folder / STORED).read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} must hold {STORED}, which says how its CTranslate2 model starts and ends "
            f"sequences, but it has none; {_REMEDY}"
        ) from error
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder / STORED} must be whole, found: {first_line(error)}; {_REMEDY}"
        ) from error


def open_stored(folder: Path, stored: StoredConversion, loader: ModelLoader) -> VerifiedModel:
    """The stored model with workers. Raises ModelError for damaged files."""
    try:
        converted = _read_converted(folder)
        workers = loader.workers(converted, loader.threads, stored.compute_type)
    except (OSError, ValueError, EngineError) as error:
        raise ModelError(
            f"{folder} must hold a whole CTranslate2 model, but it cannot be read: {error}; "
            f"{_REMEDY}"
        ) from error
    return VerifiedModel(stored.facts, converted, workers, stored.agreement, stored.longest)


def _read_converted(folder: Path) -> ConvertedModel:
    files = {
        name: (folder / name).read_bytes()
        for name in (WEIGHTS, "config.json", *_VOCABULARIES)
        if (folder / name).is_file()
    }
    vocabulary = next((files[name] for name in _VOCABULARIES if name in files), None)
    if vocabulary is None or "config.json" not in files:
        raise ValueError(f"it has no {_VOCABULARIES[0]} or no config.json")
    return converted_of(files, tuple(json.loads(vocabulary)))
