"""What a teacher's corpus is a function of, stored beside it and compared before it is used.

It compares and words the error; it does not compute fingerprints of models or data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError, StaleCorpusError
from seqdistill.core.source import Source, content_of
from seqdistill.generation.decoding import Decoding
from seqdistill.records.atomic import write_json

SETTINGS = "settings.json"
SAME_IN_BOTH_MODES = ("mode", "n_best", "max_new_tokens")
DECIDES = {
    "beam": (*SAME_IN_BOTH_MODES, "beam_size", "length_penalty"),
    "sample": (*SAME_IN_BOTH_MODES, "sampling_temperature", "top_k", "top_p"),
}
"""The fields of Decoding that decide the outputs in each mode. `batch_tokens` is a matter of speed:
a corpus made with another value is not stale."""


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Everything that decides a teacher's outputs.

    `seed` counts in mode `sample` only. `engine` names the program and its arithmetic, such as
    "ctranslate2 float32". `sources_fingerprint` is that of `fingerprint_sources`; None is equal to
    any, for readers that do not have the token ids.
    """

    teacher_fingerprint: str
    data_fingerprint: str
    tokenizer_fingerprint: str
    decoding: Decoding
    seed: int = 0
    engine: str = ""
    sources_fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class StoredSettings:
    """The content of settings.json: written before the first shard."""

    settings: CorpusSettings
    shard_size: int


def fingerprint_sources(examples: Sequence[tuple[str, Source]]) -> str:
    """A sha256 in hex over ids and token ids of sources, in their order."""
    digest = hashlib.sha256()
    for example_id, source in examples:
        digest.update(json.dumps([example_id, content_of(source)]).encode("ascii"))
        digest.update(b"\n")
    return digest.hexdigest()


def check_same(folder: Path, *, stored: CorpusSettings, wanted: CorpusSettings) -> None:
    """Raises StaleCorpusError, naming each field that differs, unless the corpus is the wanted."""
    _refuse(folder, differences(stored, wanted))


def check_usable(folder: Path) -> None:
    """Raises DataError for a file, and for a folder with other things than a teacher's corpus."""
    if not folder.exists() or (folder / SETTINGS).is_file():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder, found a file; give another folder")
    others = sorted(
        entry.name
        for entry in folder.iterdir()
        if not entry.name.startswith((".", f"{SETTINGS}.partial-"))
    )
    if others:
        raise DataError(
            f"{folder} must be a new or empty folder or a teacher's corpus, found {others[0]!r} "
            f"and no {SETTINGS}; give another folder"
        )


def begin_or_check(folder: Path, *, wanted: StoredSettings) -> None:
    """Stores the settings of a new corpus, or checks that an old one was begun with the same.

    Raises StaleCorpusError for other settings.
    """
    if not (folder / SETTINGS).is_file():
        write_json(folder / SETTINGS, dataclasses.asdict(wanted))
        return
    stored = read_settings(folder)
    found = differences(stored.settings, wanted.settings)
    if stored.shard_size != wanted.shard_size:
        found.append(("shard_size", stored.shard_size, wanted.shard_size))
    _refuse(folder, found)


def read_settings(folder: Path) -> StoredSettings:
    """The settings that the corpus in `folder` was begun with."""
    try:
        content = (folder / SETTINGS).read_bytes()
        return TypeAdapter(StoredSettings).validate_json(content)
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{folder / SETTINGS} must hold the settings of a teacher's corpus, found: {error}; "
            "delete the folder to label again"
        ) from error


Difference = tuple[str, object, object]


def differences(stored: CorpusSettings, wanted: CorpusSettings) -> list[Difference]:
    """The fields that decide outputs and differ, each with what is stored and what is wanted."""
    names = ["teacher_fingerprint", "data_fingerprint", "tokenizer_fingerprint", "engine"]
    if wanted.decoding.mode == "sample":
        names.append("seed")
    if stored.sources_fingerprint is not None and wanted.sources_fingerprint is not None:
        names.append("sources_fingerprint")
    pairs = [(name, getattr(stored, name), getattr(wanted, name)) for name in names]
    for name in DECIDES[wanted.decoding.mode]:
        value = getattr(stored.decoding, name)
        pairs.append((f"decoding.{name}", value, getattr(wanted.decoding, name)))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _refuse(folder: Path, differences: list[Difference]) -> None:
    if not differences:
        return
    listed = "\n".join(
        f"  {name}: stored {stored!r}, wanted {wanted!r}" for name, stored, wanted in differences
    )
    raise StaleCorpusError(
        f"{folder} must hold a teacher's corpus made as wanted, but it differs in\n{listed}\n"
        "go back to the stored settings, give another folder, or delete this one to label again"
    )
