"""Contradictions about the models and the pull between them: teacher, student, objective.

Each function yields keys, as users write them, with a sentence that goes on from the key. Called
by `checks` alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from seqdistill.recipe.schema import Recipe, Term

SKEWED = ("skew_forward_kl", "skew_reverse_kl")

Findings = Iterator[tuple[str, str]]


def is_soft(term: Term) -> bool:
    """Whether the term needs the teacher's distribution."""
    return term.divergence != "negative_log_likelihood"


def teacher_findings(recipe: Recipe) -> Findings:
    """A teacher that is needed and not named, or asked for what nobody reads."""
    teacher, soft = recipe.teacher, [term for term in recipe.objective.terms if is_soft(term)]
    reasons = []
    if soft:
        reasons.append(f"the objective's {soft[0].divergence}")
    if teacher.scores != "none":
        reasons.append(f"teacher.scores: {teacher.scores}")
    if recipe.sequences.written_by != "reference":
        reasons.append(f"sequences.written_by: {recipe.sequences.written_by}")
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
    if not soft and teacher.scores != "none":
        yield (
            "teacher.scores",
            f"must be none when no term of the objective reads the scores, got {teacher.scores}; "
            "set teacher.scores=none, or add a term such as forward_kl",
        )
    if teacher.scores == "none" and teacher.keep_states != "none":
        yield (
            "teacher.keep_states",
            "must be none unless teacher.scores is dense, since nobody would read the states, got "
            f"{teacher.keep_states}; remove it, or set teacher.scores=dense",
        )
    if teacher.keep_states == "none" and teacher.states is not None:
        yield (
            "teacher.states",
            f"must be left out unless teacher.keep_states is fp32 or fp16, got {teacher.states!r}; "
            "remove it, or set teacher.keep_states=fp32",
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


def objective_findings(recipe: Recipe) -> Findings:
    """Terms whose divergence lacks a number, or was given one that it does not have."""
    objective = recipe.objective
    for position, term in enumerate(objective.terms):
        for name, sentence in _term(term):
            yield f"objective.terms.{position}{name}", sentence
    if objective.loss_temperature != 1.0 and not any(map(is_soft, objective.terms)):
        yield (
            "objective.loss_temperature",
            "must be 1 when no term compares with the teacher, got "
            f"{objective.loss_temperature:g}; remove it, or add a term such as forward_kl",
        )


def _term(term: Term) -> Findings:
    if term.divergence == "jensen_shannon":
        if term.beta is None:
            yield (
                ".beta",
                "must be given with jensen_shannon, got none; add beta between 0 (forward KL) and "
                "1 (reverse KL), for example 0.5",
            )
    else:
        if term.beta is not None:
            yield (
                ".beta",
                f"must be left out unless the divergence is jensen_shannon, got {term.beta:g} with "
                f"{term.divergence}; remove it",
            )
        if term.scale != "raw":
            yield (
                ".scale",
                f"must be raw unless the divergence is jensen_shannon, got {term.scale} with "
                f"{term.divergence}; remove it",
            )
    if term.divergence not in SKEWED:
        if term.alpha is not None:
            yield (
                ".alpha",
                f"must be left out unless the divergence is one of {', '.join(SKEWED)}, got "
                f"{term.alpha:g} with {term.divergence}; remove it (a term's share is its weight)",
            )
    elif term.alpha is None:
        yield (
            ".alpha",
            f"must be given with {term.divergence}, got none; add alpha strictly between 0 and 1, "
            "for example 0.1",
        )
    elif not 0.0 < term.alpha < 1.0:
        plain = term.divergence.removeprefix("skew_")
        yield (
            ".alpha",
            f"must lie strictly between 0 and 1, got {term.alpha:g}; alpha 0 is {plain}, and at 1 "
            "nothing is left to learn",
        )
