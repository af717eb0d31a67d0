"""The copies of a student that other programs run: CTranslate2 int8."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from seqdistill.build.decoding import verification_pairs
from seqdistill.core.errors import engine_remedy
from seqdistill.evaluation.systems import SystemUnderTest
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.records import atomic

INT8_FOLDER = "student-int8"
"""Where the copy of a run directory's student lies in it."""


def export_int8(system: SystemUnderTest, folder: Path, *, threads: int | None) -> SystemUnderTest:
    """The system as its int8 CTranslate2 copy decodes, which is written to `folder`.

    The copy is compared with the model on test sentences before it is written. `bytes` are those
    of its `model.bin`. Raises EngineError for a model that CTranslate2 cannot run.
    """
    with engine_remedy("such a model has no int8 copy"):
        generator = CTranslate2Generator(
            system.model.module,
            system.tokenizer,
            kind=system.model.kind,
            compute_type="int8",
            threads=threads,
            verify_on=verification_pairs(system.examples),
        )
    with atomic.replaced_folder(folder) as aside:
        generator.save(aside)
    return dataclasses.replace(
        system,
        name=f"{system.name} int8",
        init=f"int8 copy of {system.name}",
        bytes=(folder / "model.bin").stat().st_size,
        generator=generator,
    )
