"""The command `export`: a model in another form, compared with the model; copies of runs.

dense                       a `from_pretrained` folder, also back from sparse
sparse                      the same, its weights stored without their zeros
float32, int8, int8_float16 a CTranslate2 folder
gguf-f32, -f16, -q8_0       one file for llama.cpp
onnx                        graphs with a cache, for ONNX Runtime

Both decode the same inputs before the folder takes its place, whole or not at all. Beside the
weights lie `README.md`, the model card, and `export.json`, what the comparison found.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from seqdistill.assembly.data import encode_for, read_split, without_references
from seqdistill.assembly.decoding import engine_name, verification_pairs
from seqdistill.assembly.models import model_folder
from seqdistill.compression.sparse import pack_folder, unpack_folder
from seqdistill.core.errors import ModelError, UserError, with_hint
from seqdistill.core.source import Source
from seqdistill.core.stored_forms import StoredForm
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import ExampleTable
from seqdistill.data.readers import read_examples
from seqdistill.evaluation.systems import SystemUnderTest
from seqdistill.generation.conversion import WEIGHTS
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.ctranslate2_model import runs_as
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.gguf_file import (
    GGUF,
    GgufType,
    check_tokenizer,
    read_gguf,
    write_gguf,
)
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.onnx_files import ONNX, read_onnx, write_onnx
from seqdistill.generation.scoring import token_predictions
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.generation.verification import (
    Agreement,
    reach_of,
    require_agreement,
    short_pairs,
)
from seqdistill.jobs.cards import CARD, model_card
from seqdistill.models.loading import SPARSE_WEIGHTS, LoadedModel, load_pair
from seqdistill.models.places import model_folders
from seqdistill.models.saving import save_pair, stored_precision
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records import atomic
from seqdistill.records.checksums import write_checksums
from seqdistill.records.results import CopyAgreement
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.temporary import temporary_folder

Store = Literal["fp32", "fp16"]

_LOG = logging.getLogger(__name__)
INT8_FOLDER = "student-int8"
"""Where the int8 copy of a run's student lies in the run directory."""
EXPORTED = "export.json"

_EXACT = ("dense", "sparse")
"""Forms that are compared weight by weight in any case."""
_WEIGHTS = ("*.safetensors", WEIGHTS, GGUF, f"{ONNX}/*.data")
# On how many sentences a copy's probabilities are compared with its model's, and its outputs.
_COMPARED_SENTENCES, _DECODED_SENTENCES = 64, 32
# How long outputs get where no run says it: as long as `generate` writes.
_MAX_NEW_TOKENS = 128
_ARITHMETIC = {"gguf-f32": "float32", "gguf-f16": "float16", "gguf-q8_0": "int8"}
"""What a form may differ by: see `verification.TOLERANCES`."""
_ENGINES = {
    **dict.fromkeys(_ARITHMETIC, "transformers float32, from the file"),
    "onnx": "onnxruntime float32, in transformers' loop",
}
"""What decodes a form for the comparison, where that is not the engine of its name."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A folder that was written, and how it compares with the model that it was made of."""

    folder: Path
    form: StoredForm
    weight_bytes: int
    weight_bytes_before: int
    agreement: Agreement | None = None
    """Of the probabilities of tokens; None where there was nothing to compare on."""
    num_inputs: int = 0
    """How many inputs both decoded, greedily."""
    equal_outputs: float | None = None
    """The share of them with the same output, token by token."""
    engine: str | None = None
    """What decoded the exported form."""
    per_second: float | None = None
    """Outputs a second; None where the form's own engine is not here."""
    per_second_before: float | None = None
    """The same of the model, by transformers."""

    def facts(self) -> dict[str, object]:
        """For export.json: all but where it lies."""
        found = dataclasses.asdict(self)
        del found["folder"]
        return found


def export_model(
    source: str,
    output: Path,
    *,
    form: StoredForm,
    save_dtype: Store | None,
    verify_on: str | None,
    threads: int | None,
    trust_remote_code: bool = False,
) -> Exported:
    """What was written to the new folder `output`: the model of `source` in another form.

    `source` is a run directory, whose student is meant, or a model folder, sparse or not.
    `save_dtype` is the precision of sparse and dense folders, that of `source` when None. A copy is
    compared with the model before the folder takes its place, on the first examples of `verify_on`,
    or of the run's own data when that is None; a model folder's sparse and dense copies need none.

    Raises UserError, with nothing written, for a form that cannot be made of `source`, and for a
    copy that does not say what the model says.
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
        students = ", ".join(str(member.path) for member in run.members())
        remedy = f"name one of {students}" if students else "finish it with `train ... --resume`"
        raise UserError(
            f"A run must have a trained student to be exported, but {source} has none; {remedy}."
        )
    before = weight_bytes(folder)
    with temporary_folder() as scratch, atomic.new_folder(output) as made:
        if (folder / SPARSE_WEIGHTS).is_file():
            unpack_folder(folder, scratch / "dense")
            folder = scratch / "dense"
        pair = load_pair(str(folder), trust_remote_code=trust_remote_code)
        pair = dataclasses.replace(pair, name=str(Path(source)))
        examples = _encoded(verify_on, run if is_run else None, pair, is_needed=form not in _EXACT)
        copy, agreement = _written(
            pair,
            form,
            made,
            examples,
            save_dtype=save_dtype or stored_precision(folder),
            threads=threads,
            trust_remote_code=trust_remote_code,
        )
        found = Exported(output, form, weight_bytes(made), before, agreement)
        found = _compared(found, pair, copy, examples)
        atomic.write_json(made / EXPORTED, found.facts())
        card = model_card(pair, run if is_run else None, found.facts())
        atomic.write_text(made / CARD, card)
        write_checksums(made)
    return found


def _written(
    pair: LoadedModel,
    form: StoredForm,
    folder: Path,
    examples: Sequence[EncodedExample],
    *,
    save_dtype: Store,
    threads: int | None,
    trust_remote_code: bool,
) -> tuple[SequenceGenerator, Agreement | None]:
    """Writes the form to the empty folder; what decodes with it, and how far it lies from the
    model."""
    if form in _EXACT:
        with temporary_folder() as scratch:
            dense = folder
            if form == "sparse":
                save_pair(pair, scratch / "saved", save_dtype=save_dtype)
                pack_folder(scratch / "saved", folder)
                unpack_folder(folder, dense := scratch / "dense")
            else:
                save_pair(pair, folder, save_dtype=save_dtype)
            again = load_pair(str(dense), trust_remote_code=trust_remote_code)
        return _rebuilt(pair, again, examples, {"fp32": "float32", "fp16": "float16"}[save_dtype])
    if form in _ARITHMETIC:
        write_gguf(pair, folder / GGUF, stored=cast("GgufType", form.removeprefix("gguf-")))
        again = read_gguf(folder / GGUF, pair.name)
        check_tokenizer(pair.tokenizer, again.tokenizer)
        again.model.generation_config = pair.model.generation_config
        again = dataclasses.replace(again, tokenizer=pair.tokenizer)
        return _rebuilt(pair, again, examples, _ARITHMETIC[form])
    if form == "onnx":
        write_onnx(pair, folder, [example.prompt for example in examples[:2]])
        return _rebuilt(pair, read_onnx(folder, pair), examples, "float32")
    generator = _converted(
        pair,
        examples,
        max_new_tokens=_longest_output(pair, []),
        stored_type=form,
        threads=threads,
    )
    generator.save(folder)
    return generator, generator.agreement


def _rebuilt(
    pair: LoadedModel, again: LoadedModel, examples: Sequence[EncodedExample], arithmetic: str
) -> tuple[SequenceGenerator, Agreement | None]:
    """What decodes with a model that was read back, held against the one that it was made of."""
    generator = TransformersGenerator(again.model, again.tokenizer, kind=pair.kind)
    facts = pair_facts(pair)
    if not examples or not facts.reads_text:  # recordings are decoded alone
        return generator, None
    pairs = short_pairs(verification_pairs(examples), facts, count=_COMPARED_SENTENCES)
    both = [token_predictions(one.model, pairs, facts=facts) for one in (pair, again)]
    with with_hint("export to another format"):
        return generator, require_agreement(*both, compute_type=arithmetic)


def _compared(
    found: Exported,
    pair: LoadedModel,
    copy: SequenceGenerator,
    examples: Sequence[EncodedExample],
) -> Exported:
    """With the outputs of both for the first examples that fit, and how long they took."""
    limit = pair_facts(pair).max_positions
    fitting = [
        e.prompt
        for e in examples[:_COMPARED_SENTENCES]
        if limit is None or e.source is not None or e.num_source < limit
    ]
    prompts = fitting[:_DECODED_SENTENCES]
    if not prompts:
        return found
    decoding = Decoding(beam_size=1, max_new_tokens=_longest_output(pair, prompts))
    live = TransformersGenerator(pair.model, pair.tokenizer, kind=pair.kind)
    outputs, rates = [], []
    for generator in (live, copy):
        generator.generate(prompts[:1], decoding)
        began = time.perf_counter()
        outputs.append([best[0].token_ids for best in generator.generate(prompts, decoding)])
        rates.append(len(prompts) / (time.perf_counter() - began))
    is_guest = found.form in _ARITHMETIC  # llama.cpp, which is not here, is faster
    return dataclasses.replace(
        found,
        num_inputs=len(prompts),
        equal_outputs=sum(a == b for a, b in zip(*outputs, strict=True)) / len(prompts),
        engine=_ENGINES.get(found.form) or engine_name(copy),
        per_second=None if is_guest else rates[1],
        per_second_before=rates[0],
    )


def _longest_output(pair: LoadedModel, prompts: Sequence[Source]) -> int:
    """Tokens of an output that fit the model's positions, behind the longest of the prompts."""
    facts = pair_facts(pair)
    if facts.max_positions is None:
        return _MAX_NEW_TOKENS
    taken = max(map(len, prompts), default=0) if facts.kind == "causal" else len(facts.prefix_ids)
    return min(_MAX_NEW_TOKENS, facts.max_positions - taken)


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
    generator = _converted(
        pair,
        system.examples,
        max_new_tokens=max_new_tokens,
        stored_type="int8",
        threads=threads,
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


def _encoded(
    verify_on: str | None, run: RunDirectory | None, pair: LoadedModel, *, is_needed: bool
) -> Sequence[EncodedExample]:
    """What both are compared on, with targets; nothing where none is needed and none is had."""
    try:
        examples = _verification(verify_on, run)
    except UserError as error:
        if is_needed or verify_on is not None:
            raise
        _LOG.info("%s", error)
        return []
    if getattr(pair.tokenizer, "tgt_lang", "") is None:  # its copy is for every target language
        examples = without_references(examples)
    return with_placeholder_targets(encode_for(pair, examples, PLAIN_CHAT))


def _converted(
    pair: LoadedModel,
    examples: Sequence[EncodedExample],
    *,
    max_new_tokens: int,
    stored_type: str,
    threads: int | None,
) -> CTranslate2Generator:
    with with_hint(f"such a model has no {stored_type} copy for CTranslate2"):
        return CTranslate2Generator(
            pair.model,
            pair.tokenizer,
            kind=pair.kind,
            compute_type=runs_as(stored_type, pair.model.device),
            stored_type=stored_type,
            threads=threads,
            verify_on=verification_pairs(examples),
            reach=reach_of(examples, max_new_tokens),
            sentences=_COMPARED_SENTENCES,
        )


def _verification(verify_on: str | None, run: RunDirectory | None) -> ExampleTable:
    """Examples to compare a copy on: given ones, or the run's own."""
    if verify_on is not None:
        return read_examples(verify_on, split="test", targets="optional")
    if run is None:
        raise ModelError(
            "A copy must be compared with the model on real sentences, but a model folder "
            "has none; give --verify-on DATA, a file of texts such as the test set."
        )
    recipe = load_recipe(str(run.whole(run.recipe_path)))
    if recipe.data.test is not None:
        return read_split(recipe, "test", targets="optional")
    return read_split(recipe, "dev" if recipe.data.dev is not None else "train", targets="optional")
