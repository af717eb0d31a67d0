"""The command `export`: a model in another stored form, whole or not at all.

    sparse        a model folder whose weights are stored without their zeros
    int8          the CTranslate2 folder
    sparse-int8   the same with model.bin stored without its zero bytes
    dense         back: an ordinary model folder, or the CTranslate2 folder byte for byte

How the forms are written is `compression`'s and `generation`'s; nothing is trained or measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seqdistill.assembly.data import encode_for, read_split, without_references
from seqdistill.assembly.decoding import verification_pairs
from seqdistill.assembly.models import model_folder
from seqdistill.compression.int8_folders import MODEL, PACKED_MODEL, pack_folder, unpack_folder
from seqdistill.compression.sparse_files import load_stored_pair, save_sparse_pair
from seqdistill.core.errors import ModelError, UserError, with_hint
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.readers import read_examples
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.verification import Agreement
from seqdistill.generation.verified_pairs import reach_of
from seqdistill.jobs.exporting import COMPARED_SENTENCES
from seqdistill.models.loading import LoadedModel
from seqdistill.models.saving import save_pair, stored_precision
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.temporary import temporary_folder

Form = Literal["sparse", "int8", "sparse-int8", "dense"]
Store = Literal["fp32", "fp16"]

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

    `source` is a run directory, whose student is meant, or a folder in any of the forms; int8
    folders can only be packed and unpacked. `save_dtype` is the precision of sparse and dense model
    folders, that of `source` when None. An int8 copy is compared with the model before it is
    written, on the first examples of `verify_on`, or of the run's own data when that is None.

    Raises UserError, with nothing written, for a form that cannot be made of `source`.
    """
    _check_free(output)
    run = RunDirectory(source)
    is_run = run.recipe_path.is_file()
    folder = str(run.student_path) if is_run else model_folder(source)
    if is_run and not run.student_path.is_dir():
        raise UserError(
            f"A run must have a trained student to be exported, but {source} has none; finish it "
            "with `seqdistill train ... --resume`."
        )
    agreement = None
    if (Path(folder) / MODEL).is_file() or (Path(folder) / PACKED_MODEL).is_file():
        _repack(Path(folder), output, form)
    else:
        pair = load_stored_pair(folder, trust_remote_code=trust_remote_code)
        precision = save_dtype or stored_precision(Path(folder))
        if form == "sparse":
            save_sparse_pair(pair, output, save_dtype=precision)
        elif form == "dense":
            save_pair(pair, output, save_dtype=precision)
        else:
            examples = _verification(verify_on, run if is_run else None)
            agreement = _save_int8(
                pair, output, examples, packed=form == "sparse-int8", threads=threads
            )
    return Exported(output, _weight_bytes(output), _weight_bytes(Path(folder)), agreement)


def _check_free(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(
            f"OUTPUT must be a new or empty folder, but {str(output)!r} already exists; remove "
            "it or name another."
        )


def _repack(folder: Path, output: Path, form: Form) -> None:
    is_packed = (folder / PACKED_MODEL).is_file()
    wanted = "dense" if is_packed else "sparse-int8"
    if form != wanted:
        state = "packed" if is_packed else "int8"
        raise UserError(
            f"--format must be {wanted} for {str(folder)!r}, which is a CTranslate2 folder "
            f"({state}), got {form}; export the model that it was made of for other forms."
        )
    (unpack_folder if is_packed else pack_folder)(folder, output)


def _save_int8(
    pair: LoadedModel,
    output: Path,
    examples: Sequence[Example],
    *,
    packed: bool,
    threads: int | None,
) -> Agreement:
    generator = _int8_generator(pair, examples, threads=threads)
    if not packed:
        generator.save(output)
        return generator.agreement
    with temporary_folder() as folder:
        generator.save(folder / "int8")
        pack_folder(folder / "int8", output)
    return generator.agreement


def _int8_generator(
    pair: LoadedModel, examples: Sequence[Example], *, threads: int | None
) -> CTranslate2Generator:
    if getattr(pair.tokenizer, "tgt_lang", "") is None:  # its copy is for every target language
        examples = without_references(examples)
    encoded = with_placeholder_targets(encode_for(pair, examples, PLAIN_CHAT))
    facts = pair_facts(pair)
    limit = facts.max_positions
    new = _MAX_NEW_TOKENS if limit is None else min(_MAX_NEW_TOKENS, limit)
    with with_hint("such a model has no int8 copy"):
        return CTranslate2Generator(
            pair.model,
            pair.tokenizer,
            kind=pair.kind,
            compute_type="int8",
            threads=threads,
            verify_on=verification_pairs(encoded),
            reach=reach_of(encoded, new),
            sentences=COMPARED_SENTENCES,
        )


def _verification(verify_on: str | None, run: RunDirectory | None) -> ExampleTable:
    """Examples to compare an int8 copy on: given ones, or the run's own."""
    if verify_on is not None:
        return read_examples(verify_on, split="test", need_target=False)
    if run is None:
        raise ModelError(
            "An int8 copy must be compared with the model on real sentences, but a model folder "
            "has none; give --verify-on DATA, a file of texts such as the test set."
        )
    recipe = load_recipe(str(run.whole(run.recipe_path)))
    if recipe.data.test is not None:
        return read_split(recipe, "test", need_target=False)
    return read_split(recipe, "dev" if recipe.data.dev is not None else "train", need_target=False)


def _weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of any form; 0 for a model that is no local folder."""
    files = [*folder.glob("*.safetensors"), *folder.glob(MODEL)]
    return sum(path.stat().st_size for path in files)
