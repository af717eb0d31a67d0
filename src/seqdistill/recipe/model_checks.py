"""Contradictions about the models and the pull between them: teacher and student.

Each function yields keys, as users write them, with a sentence that goes on from the key. Called
by `checks` alone.
"""

from __future__ import annotations

from seqdistill.recipe.contradictions import Findings, changed, shown
from seqdistill.recipe.objective_checks import is_soft
from seqdistill.recipe.schema import Recipe


def teacher_findings(recipe: Recipe) -> Findings:
    """A teacher that is needed and not named, or asked for what nobody reads."""
    teacher, soft = recipe.teacher, [term for term in recipe.objective.terms if is_soft(term)]
    monitored = "teacher_reverse_kl" in recipe.objective.monitors
    reasons = []
    if soft:
        reasons.append(f"the objective's {soft[0].divergence}")
    if teacher.scores != "none":
        reasons.append(f"teacher.scores: {teacher.scores}")
    sequences = recipe.sequences
    if sequences.decoded_by_teacher:
        mixed = sequences.origin in ("mixture", "replay")
        named = "mixture.others: teacher" if mixed else f"origin: {sequences.origin}"
        reasons.append(f"sequences.{named}")
    if sequences.rollouts.teacher_fraction > 0.0:
        reasons.append("sequences.rollouts.teacher_fraction")
    if recipe.student.init == "teacher_layers":
        reasons.append("student.init: teacher_layers")
    if reasons and teacher.model is None:
        yield (
            "teacher.model",
            f"must be given for {' and for '.join(reasons)}, got none; add teacher.model=...",
        )
    if soft and teacher.scores == "none":
        yield (
            "teacher.scores",
            f"must be dense for the objective's {soft[0].divergence}, got none; "
            "set teacher.scores=dense or take that term out",
        )
    if not (soft or monitored) and teacher.scores != "none":
        yield (
            "teacher.scores",
            f"must be none when no term of the objective reads the scores, got {teacher.scores}; "
            "set teacher.scores=none, or add a term such as forward_kl",
        )
    if monitored and not soft and teacher.scores == "none":
        yield (
            "objective.monitors",
            "must leave teacher_reverse_kl out when the teacher is not asked for its distribution, "
            "got teacher.scores none; set teacher.scores=dense, or take the monitor out",
        )
    if recipe.sequences.rolls_out and teacher.cache_hidden_states != "none":
        yield (
            "teacher.cache_hidden_states",
            "must be none where the student writes sequences, whose states cannot be kept "
            f"beforehand, got {teacher.cache_hidden_states} with sequences.origin "
            f"{recipe.sequences.origin}; remove it",
        )
    elif teacher.scores == "none" and teacher.cache_hidden_states != "none":
        yield (
            "teacher.cache_hidden_states",
            "must be none unless teacher.scores is dense, since the states would not be read, got "
            f"{teacher.cache_hidden_states}; remove it, or set teacher.scores=dense",
        )
    if teacher.cache_hidden_states == "none" and teacher.states is not None:
        yield (
            "teacher.states",
            f"must be left out unless teacher.cache_hidden_states is fp32 or fp16, got "
            f"{teacher.states!r}; remove it, or set teacher.cache_hidden_states=fp32",
        )


def student_findings(recipe: Recipe) -> Findings:
    """First weights, layers and vocabulary that cannot come from where they are said to."""
    student = recipe.student
    if student.init == "pretrained" and student.model is None:
        yield (
            "student.model",
            "must be given with student.init: pretrained, got none; add student.model=..., "
            "or set student.init to teacher_layers or scratch",
        )
    if student.init == "teacher_layers" and student.model is not None:
        yield (
            "student.model",
            "must be left out with student.init: teacher_layers, since the weights are the "
            f"teacher's, got {student.model!r}; remove one of the two",
        )
    if student.init != "teacher_layers":
        for name in ("encoder_layers", "decoder_layers"):
            kept = student.encoder_layers if name == "encoder_layers" else student.decoder_layers
            if kept is not None:
                yield (
                    f"student.{name}",
                    f"must be left out unless student.init is teacher_layers, got {kept} with "
                    f"{student.init}; remove it, or set student.init=teacher_layers",
                )
    yield from _scratch(recipe)
    yield from _lora(recipe)


def _lora(recipe: Recipe) -> Findings:
    lora = recipe.student.lora
    if lora.rank is None:
        for name in changed(lora):
            yield (
                f"student.lora.{name}",
                f"must be left out unless student.lora.rank is given, got "
                f"{shown(getattr(lora, name))}; remove it, or add for example "
                "student.lora.rank=16",
            )
        return
    if recipe.student.init == "scratch":
        yield (
            "student.lora.rank",
            f"must be left out with student.init: scratch, whose weights must all be trained, got "
            f"{lora.rank}; remove it",
        )
    if recipe.pruning.sparsity is not None:
        yield (
            "student.lora.rank",
            f"must be left out with pruning.sparsity, since adapters fill the zeros, got "
            f"{lora.rank}; remove one of the two",
        )
    if recipe.sequences.rollouts.engine != "transformers":
        yield (
            "sequences.rollouts.engine",
            "must be transformers with student.lora, got "
            f"{recipe.sequences.rollouts.engine}; remove it",
        )


def _scratch(recipe: Recipe) -> Findings:
    student = recipe.student
    if student.init != "scratch":
        for name in ("architecture", "vocab_size"):
            if (student.architecture if name == "architecture" else student.vocab_size) is not None:
                yield (
                    f"student.{name}",
                    f"must be left out unless student.init is scratch, got it with {student.init}; "
                    "remove it, or set student.init=scratch",
                )
        return
    if student.model is None and student.architecture is None:
        yield (
            "student.architecture",
            "must be given with student.init: scratch, unless student.model names a model whose "
            "configuration is taken, got neither; add one of the two",
        )
    if student.model is not None and student.architecture is not None:
        yield (
            "student.architecture",
            "must be left out when student.model gives the configuration, got both; remove one",
        )
    if student.architecture is not None:
        if not isinstance(student.architecture.get("model_type"), str):
            yield (
                "student.architecture",
                "must say its model_type, got none; add for example model_type: mbart",
            )
        if "vocab_size" in student.architecture:
            yield (
                "student.architecture.vocab_size",
                "must be left out, since the vocabulary decides it, got "
                f"{student.architecture['vocab_size']}; remove it, or set student.vocab_size",
            )
    if student.vocab_size is not None and recipe.teacher.model is not None:
        yield (
            "student.vocab_size",
            "must be left out with a teacher, whose vocabulary the student uses, got "
            f"{student.vocab_size} with {recipe.teacher.model!r}; remove one of the two",
        )
    if student.vocab_size is None and student.model is None and recipe.teacher.model is None:
        yield (
            "student.vocab_size",
            "must be given when neither a teacher nor student.model brings a vocabulary, got none; "
            "add for example student.vocab_size=8000",
        )
