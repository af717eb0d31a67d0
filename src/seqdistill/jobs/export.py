"""The command `export`: a model in another stored form, whole or not at all; int8 copies of runs.

sparse   a model folder whose weights are stored without their zeros
int8     the CTranslate2 folder
dense    back from sparse: an ordinary model folder
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seqdistill.assembly.data import encode_for, read_split, without_references
from seqdistill.assembly.decoding import engine_name, verification_pairs
from seqdistill.assembly.models import model_folder
from seqdistill.compression.sparse import pack_folder, unpack_folder
from seqdistill.core.errors import ModelError, UserError, with_hint
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.readers import read_examples
from seqdistill.evaluation.systems import SystemUnderTest
from seqdistill.generation.conversion import WEIGHTS
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.verification import Agreement, reach_of
from seqdistill.models.loading import SPARSE_WEIGHTS, LoadedModel, load_pair
from seqdistill.models.places import model_folders
from seqdistill.models.saving import save_pair, stored_precision
from seqdistill.recipe.loading import load_recipe
from seqdistill.records import atomic
from seqdistill.records.results import CopyAgreement
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.temporary import temporary_folder

Form = Literal["sparse", "int8", "dense"]
Store = Literal["fp32", "fp16"]

INT8_FOLDER = "student-int8"
"""Where the int8 copy of a run's student lies in the run directory."""

_WEIGHTS = ("*.safetensors", WEIGHTS)
# On how many sentences an int8 copy is compared with its model: their agreement is reported.
_COMPARED_SENTENCES = 64
# How long outputs get where no run says it: as long as `generate` writes.
_MAX_NEW_TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Exported:
    """A folder that was written, and the bytes of its weight files beside those it was made of."""

    folder: Path
    weight_bytes: int
    weight_bytes_before: int
    agreement: Agreement | None = None
    """Of an int8 copy with the model; None for forms that are exact."""


def export_model(
    source: str,
    output: Path,
    *,
    form: Form,
    save_dtype: Store | None,
    verify_on: str | None,
    threads: int | None,
    trust_remote_code: bool = False,
) -> Exported:
    """What was written to the new folder `output`: the model of `source` in another form.

    `source` is a run directory, whose student is meant, or a model folder, sparse or not.
    `save_dtype` is the precision of sparse and dense folders, that of `source` when None. An int8
    copy is compared with the model before it is written, on the first examples of `verify_on`, or
    of the run's own data when that is None.

    Raises UserError, with nothing written, for a form that cannot be made of `source`.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(
            f"OUTPUT must be a new or empty folder, but {str(output)!r} already exists; remove "
            "it or name another."
        )
    run = RunDirectory(source)
    is_run = run.recipe_path.is_file()
    folder = run.student_path if is_run else Path(model_folder(source))
    if is_run and not folder.is_dir():
        raise UserError(
            f"A run must have a trained student to be exported, but {source} has none; finish it "
            "with `seqdistill train ... --resume`."
        )
    agreement, before = None, weight_bytes(folder)
    with temporary_folder() as scratch:
        if (folder / SPARSE_WEIGHTS).is_file():
            unpack_folder(folder, scratch / "dense")
            folder = scratch / "dense"
        pair = load_pair(str(folder), trust_remote_code=trust_remote_code)
        precision = save_dtype or stored_precision(folder)
        if form == "int8":
            examples = _verification(verify_on, run if is_run else None)
            generator = _int8_of_pair(pair, examples, threads=threads)
            generator.save(output)
            agreement = generator.agreement
        elif form == "sparse":
            save_pair(pair, scratch / "saved", save_dtype=precision)
            pack_folder(scratch / "saved", output)
        else:
            save_pair(pair, output, save_dtype=precision)
    return Exported(output, weight_bytes(output), before, agreement)


def weight_bytes(folder: Path | str) -> int:
    """Bytes of the weight files of any form, those of adapters with their base; 0 for a model that
    is no local folder."""
    folders = model_folders(str(folder))
    files = [file for path in folders for name in _WEIGHTS for file in path.glob(name)]
    return sum(file.stat().st_size for file in files)


def export_int8(
    system: SystemUnderTest, folder: Path, *, max_new_tokens: int, threads: int | None
) -> SystemUnderTest:
    """The system as its int8 CTranslate2 copy decodes, which is written to `folder`.

    The copy is compared with the model on test sentences, and at the length of the longest with
    `max_new_tokens` beside it, before it is written; `agreement` says how far it lay. `bytes` are
    those of its `model.bin`. Raises EngineError for a model that CTranslate2 cannot run.
    """
    pair = LoadedModel(system.model.module, system.tokenizer, system.name)
    generator = _int8_generator(
        pair, system.examples, max_new_tokens=max_new_tokens, threads=threads
    )
    with atomic.replaced_folder(folder) as aside:
        generator.save(aside)
    return dataclasses.replace(
        system,
        name=f"{system.name} int8",
        init=f"int8 copy of {system.name}",
        bytes=weight_bytes(folder),
        generator=generator,
        engine=engine_name(generator),
        agreement=CopyAgreement(
            **dataclasses.asdict(generator.agreement), longest=generator.longest
        ),
    )


def _int8_of_pair(
    pair: LoadedModel, examples: Sequence[Example], *, threads: int | None
) -> CTranslate2Generator:
    if getattr(pair.tokenizer, "tgt_lang", "") is None:  # its copy is for every target language
        examples = without_references(examples)
    encoded = with_placeholder_targets(encode_for(pair, examples, PLAIN_CHAT))
    limit = pair_facts(pair).max_positions
    new = _MAX_NEW_TOKENS if limit is None else min(_MAX_NEW_TOKENS, limit)
    return _int8_generator(pair, encoded, max_new_tokens=new, threads=threads)


def _int8_generator(
    pair: LoadedModel,
    examples: Sequence[EncodedExample],
    *,
    max_new_tokens: int,
    threads: int | None,
) -> CTranslate2Generator:
    with with_hint("such a model has no int8 copy"):
        return CTranslate2Generator(
            pair.model,
            pair.tokenizer,
            kind=pair.kind,
            compute_type="int8",
            threads=threads,
            verify_on=verification_pairs(examples),
            reach=reach_of(examples, max_new_tokens),
            sentences=_COMPARED_SENTENCES,
        )


def _verification(verify_on: str | None, run: RunDirectory | None) -> ExampleTable:
    """Examples to compare an int8 copy on: given ones, or the run's own."""
    if verify_on is not None:
        return read_examples(verify_on, split="test", targets="optional")
    if run is None:
        raise ModelError(
            "An int8 copy must be compared with the model on real sentences, but a model folder "
            "has none; give --verify-on DATA, a file of texts such as the test set."
        )
    recipe = load_recipe(str(run.whole(run.recipe_path)))
    if recipe.data.test is not None:
        return read_split(recipe, "test", targets="optional")
    return read_split(recipe, "dev" if recipe.data.dev is not None else "train", targets="optional")
