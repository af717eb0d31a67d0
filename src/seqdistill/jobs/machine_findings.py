"""What `doctor` finds of dtypes, memory, engines and licences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from transformers import PreTrainedModel

from seqdistill.assembly.decoding import (
    EngineChoice,
    evaluation_engine,
    labelling_engine,
    rollout_engine,
)
from seqdistill.assembly.licences import licences
from seqdistill.assembly.memory import memory_need, memory_of
from seqdistill.assembly.models import evaluation_placement, model_folder, teacher_placement
from seqdistill.assembly.preparing import teacher_is_asked
from seqdistill.compression.layers import parameter_count
from seqdistill.core.errors import EngineError, with_hint
from seqdistill.generation.conversion import loader_for
from seqdistill.jobs.findings import Case, Finding
from seqdistill.jobs.text_findings import limits_of_outputs
from seqdistill.models.loading import LoadedModel
from seqdistill.models.placement import device_of, precision_of
from seqdistill.models.places import base_of

_FULL = 0.9
"""Of the memory there is: what an estimate may take without a word."""
_RESTRICTED = re.compile(r"(^|[-_ ])(nc|nd|non-?commercial)([-_ ]|$)", re.IGNORECASE)


def dtypes_found(case: Case) -> Iterator[Finding]:
    recipe = case.recipe
    device = device_of(recipe.training.device)
    precision = precision_of(recipe.training.precision, device)
    yield Finding("dtype", "ok", f"the student trains in {precision} on the {device.type}")
    for key, placement in (
        ("teacher.dtype", teacher_placement(recipe)),
        ("evaluation.dtype", evaluation_placement(recipe)),
    ):
        if placement.device.type == "cpu" and placement.dtype in ("fp16", "bf16"):
            yield Finding(
                "dtype",
                "warning",
                f"{key}={placement.dtype} on a CPU",
                "most CPUs have no instructions for such products: they take many times as long as "
                "those of fp32, and are rounded",
                f"leave {key} out",
            )


def memory_found(case: Case) -> Iterator[Finding]:
    if case.student is None:
        return
    training = case.recipe.training
    device = device_of(training.device)
    need = memory_need(
        case.recipe,
        case.student.model,
        _in_memory(case),
        device=device,
        precision=precision_of(training.precision, device),
        sequences=_sequences(case),
    )
    have = memory_of(device)
    parts = ", ".join(f"{name} {_size(part)}" for name, part in need.parts.items())
    words = (
        f"about {_size(need.total)} for a student of {parameter_count(case.student.model):,} "
        f"parameters ({parts}, activations {_size(need.activations)}), estimated; this "
        f"{'GPU' if device.type == 'cuda' else 'machine'} has {_size(have)}"
    )
    smaller = "lower training.batch_tokens (gradient_accumulation_steps makes up for it), or set "
    smaller += "training.gradient_checkpointing"
    fewer = "take a smaller student or student.lora, training.optimizer=adamw_8bit, or a larger "
    fewer += "machine"
    if not have or need.total <= _FULL * have:
        yield Finding("memory", "ok", words)
    elif need.fixed > have and training.parallel != "fsdp2":
        yield Finding("memory", "error", words, "training would run out of memory", fewer)
    else:
        remedy = smaller if need.fixed <= _FULL * have else fewer
        yield Finding("memory", "warning", words, "training may run out of memory", remedy)


def _sequences(case: Case) -> tuple[int, int] | None:
    """How many there are to learn from, at most, and the tokens of the longest, as far as rows were
    looked at."""
    asked = case.recipe.sequences
    if case.encoded is None or not len(case.encoded) or case.recipe.data.unlabelled is not None:
        return None
    lengths, answers = case.encoded.lengths, asked.answers_per_prompt
    if asked.decoded_by_teacher:
        answers *= asked.decoding.n_best
    target = max(
        int(lengths.target.max()), *(most for _, most in limits_of_outputs(case.recipe)), 0
    )
    return answers * len(case.train), int(lengths.source.max()) + target


def _in_memory(case: Case) -> Iterable[PreTrainedModel]:
    """The teachers that are loaded together: of those that only label one, adapters as one base."""
    models = {base_of(model_folder(pair.name)): pair.model for pair in case.teachers}
    return [*models.values()][: None if teacher_is_asked(case.recipe) else 1]


def _size(num_bytes: int) -> str:
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:,.0f} MiB"
    return f"{num_bytes / 2**30:,.1f} GiB"


def engines_found(case: Case) -> Iterator[Finding]:
    recipe, sequences = case.recipe, case.recipe.sequences
    asked: list[tuple[str, LoadedModel | None, EngineChoice]] = []
    if recipe.data.dev is not None or recipe.data.test is not None:
        asked.append(("dev and test", case.student, evaluation_engine(recipe)))
    if sequences.rolls_out:
        asked.append(("rollouts", case.student, rollout_engine(recipe)))
    if sequences.decoded_by_teacher:
        asked += [("labels", pair, labelling_engine(recipe)) for pair in case.teachers]
    for what, pair, engine in asked:
        if pair is None:
            continue
        try:
            if engine.name in ("ctranslate2", "auto"):
                with with_hint(engine.remedy):
                    loader_for(pair.model)
        except EngineError as error:
            if not engine.may_fall_back:
                raise
            words = f"{what}: transformers, since CTranslate2 has no {type(pair.model).__name__}"
            yield Finding("engines", "note", words, f"slower than CTranslate2 ({error.problem})")
            continue
        name = engine.name.replace("auto", "ctranslate2")
        if what == "rollouts" and engine.name == "auto":
            name = "ctranslate2 or transformers, whichever is the faster as a run starts"
        yield Finding("engines", "ok", f"{what}: {name}")


def licences_found(case: Case) -> Iterator[Finding]:
    for what, name, licence in licences(case.recipe):
        if licence is None:
            yield Finding(
                "licences",
                "warning",
                f"{what} ({name}): unknown, no card or licence file says it",
                "nobody can tell whether the student may be used or passed on",
                "ask its authors, and write `license:` into the README.md beside it",
            )
        elif _RESTRICTED.search(licence):
            yield Finding(
                "licences",
                "warning",
                f"{what} ({name}): {licence}",
                "it restricts what may be done with what is made of it, such as the student",
                "read it, or take another",
            )
        else:
            yield Finding("licences", "ok", f"{what} ({name}): {licence}")
