"""The copies of a student that other programs run: CTranslate2 int8."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from seqdistill.assembly.decoding import engine_name, verification_pairs
from seqdistill.core.errors import with_hint
from seqdistill.evaluation.systems import SystemUnderTest
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.verified_pairs import reach_of
from seqdistill.records import atomic

INT8_FOLDER = "student-int8"
"""Where the copy of a run directory's student lies in it."""


COMPARED_SENTENCES = 64
"""On how many an int8 copy is compared with its model: their agreement is reported."""


def agreement_row(generator: CTranslate2Generator) -> dict[str, object]:
    """How far a copy lay from its model, as results.json says it."""
    return {**dataclasses.asdict(generator.agreement), "longest": generator.longest}


def export_int8(
    system: SystemUnderTest, folder: Path, *, max_new_tokens: int, threads: int | None
) -> SystemUnderTest:
    """The system as its int8 CTranslate2 copy decodes, which is written to `folder`.

    The copy is compared with the model on test sentences, and at the length of the longest with
    `max_new_tokens` beside it, before it is written; `agreement` says how far it lay. `bytes` are
    those of its `model.bin`. Raises EngineError for a model that CTranslate2 cannot run.
    """
    with with_hint("such a model has no int8 copy"):
        generator = CTranslate2Generator(
            system.model.module,
            system.tokenizer,
            kind=system.model.kind,
            compute_type="int8",
            threads=threads,
            verify_on=verification_pairs(system.examples),
            reach=reach_of(system.examples, max_new_tokens),
            sentences=COMPARED_SENTENCES,
        )
    with atomic.replaced_folder(folder) as aside:
        generator.save(aside)
    return dataclasses.replace(
        system,
        name=f"{system.name} int8",
        init=f"int8 copy of {system.name}",
        bytes=(folder / "model.bin").stat().st_size,
        generator=generator,
        engine=engine_name(generator),
        agreement=agreement_row(generator),
    )
