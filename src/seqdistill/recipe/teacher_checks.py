"""Contradictions between the teacher and the rest of a recipe."""

from __future__ import annotations

from seqdistill.core.families import SparseForm
from seqdistill.core.terms import OF_STUDENT_ALONE
from seqdistill.recipe.objective_checks import is_soft
from seqdistill.recipe.schema import Recipe, TeacherSection
from seqdistill.recipe.sections import Findings, shown

_ROUNDED = 1e-3
"""How far typed weights may be from a sum of 1: distributions are normalized anyway."""

_FORMS: dict[SparseForm, str] = {
    "bucket": "the teacher's likeliest symbols and all others as one",
    "renormalized": "the teacher's likeliest symbols alone",
    "sampled": "symbols drawn from the teacher",
}


def teacher_findings(recipe: Recipe) -> Findings:
    """A teacher that is needed and not named, that nothing asks, or that cannot be the student."""
    yield from _asked(recipe)
    yield from _kept(recipe)
    yield from _inside(recipe)
    yield from _own(recipe)
    yield from _several(recipe)
    yield from _published(recipe)


def _published(recipe: Recipe) -> Findings:
    """What cannot be had of a teacher that changes while its student trains."""
    teacher, sequences = recipe.teacher, recipe.sequences
    if teacher.reload_every is None:
        return
    near = sequences.origin == "near_policy" and sequences.near_policy.keep_quantiles is not None
    found = {
        "teacher.model: student": teacher.is_student,
        "several teachers": bool(teacher.members),
        "teacher.server": teacher.on_server,
        "teacher.scores: none": teacher.scores == "none",
        f"{_kept_by(teacher)[0]}, which are made once": teacher.keeps_scores,
        "its labels, which are made once": sequences.decoded_by_teacher,
        "sequences.rollouts.teacher_fraction": sequences.rollouts.teacher_fraction > 0.0,
        "sequences.near_policy.keep_quantiles": near,
    }
    for why in (name for name, holds in found.items() if holds):
        yield (
            "teacher.reload_every",
            "must be left out unless one other model scores every batch anew, got "
            f"{teacher.reload_every} with {why}; remove one of the two",
        )


def _several(recipe: Recipe) -> Findings:
    """What several teachers must say of each other, and what cannot be had of them."""
    teacher, members = recipe.teacher, recipe.teacher.members
    weights = [member.weight for member in members if member.weight is not None]
    served = [member.serves for member in members if member.serves is not None]
    only_labels = teacher.scores == "none"
    for key, value, default in (
        ("route_by", teacher.route_by, None),
        ("mixture", teacher.mixture, "probabilities"),
    ):
        if not members and value != default:
            yield (
                f"teacher.{key}",
                f"must be left out unless teacher.model is a list of teachers, got {value}; "
                "remove it, or name several",
            )
    if not members:
        return
    if any(member.model == "student" for member in members):
        yield (
            "teacher.model",
            "must name other models where there are several, got student among them; remove it, or "
            "write ./student for a folder of that name",
        )
    if teacher.route_by is not None and (weights or teacher.mixture != "probabilities"):
        found = "weights" if weights else f"teacher.mixture: {teacher.mixture}"
        yield (
            "teacher.route_by",
            "must be left out with a mixture, since it asks one teacher about a row, got "
            f"{teacher.route_by!r} and {found}; remove one of the two",
        )
    elif teacher.route_by is not None and len(set(served)) < len(members):
        yield (
            "teacher.model",
            "must say of each teacher which value of teacher.route_by it serves, each another, got "
            f"{', '.join(served) or 'none'} of {len(members)} teachers; add serves: ...",
        )
    elif teacher.route_by is None and served:
        yield (
            "teacher.model",
            f"must serve values of a column only with teacher.route_by, got serves: {served[0]}; "
            "remove it, or name the column",
        )
    elif weights and only_labels:
        yield (
            "teacher.model",
            f"must have no weights where teachers only label, got {shown(weights)}; remove them: "
            "all that they write is one pool",
        )
    elif weights and (len(weights) < len(members) or abs(sum(weights) - 1.0) > _ROUNDED):
        yield (
            "teacher.model",
            f"must have a weight for each teacher, and all must sum to 1, got {shown(weights)} for "
            f"{len(members)} teachers; change them, or leave all out for equal parts",
        )
    elif teacher.mixture != "probabilities" and only_labels:
        yield (
            "teacher.mixture",
            f"must be left out where teachers only label, got {teacher.mixture}; remove it",
        )
    near, (kept, _, live) = recipe.sequences.origin == "near_policy", _kept_by(teacher)
    for key, is_set, off in (
        (kept, teacher.keeps_scores, live),
        ("objective.features", bool(recipe.objective.features), "[]"),
        (
            "sequences.rollouts.teacher_fraction",
            recipe.sequences.rollouts.teacher_fraction > 0.0,
            "0",
        ),
        (
            "sequences.near_policy.keep_quantiles",
            near and recipe.sequences.near_policy.keep_quantiles is not None,
            "null",
        ),
        ("evaluation.on_policy", recipe.evaluation.on_policy, "false"),
    ):
        if is_set:
            yield (
                key,
                f"must be {off} with several teachers, of which it would need one, got "
                f"{len(members)} in teacher.model; set {key}={off}, or name one teacher",
            )
    if recipe.student.init == "teacher_layers":
        yield (
            "student.init",
            "must be pretrained or scratch with several teachers, got teacher_layers; name the "
            "student's own student.model",
        )


def _asked(recipe: Recipe) -> Findings:
    """A teacher that is needed and not named, or asked for what nothing reads."""
    teacher, sequences = recipe.teacher, recipe.sequences
    soft = [term.divergence for term in recipe.objective.terms if is_soft(term)]
    soft += [feature.match for feature in recipe.objective.features]
    monitored = [name for name in recipe.objective.monitors if name != OF_STUDENT_ALONE]
    is_kept = teacher.sparse_form is not None and teacher.kept_scores is not None
    elsewhere = is_kept or teacher.on_server
    served = sequences.decoding.engine == "server"
    labels = sequences.decoded_by_teacher and not served
    written = sequences.origin in ("teacher", "interpolation")
    reasons = {
        f"the objective's {soft[0] if soft else ''}": bool(soft) and not elsewhere,
        f"teacher.scores: {teacher.scores}": teacher.scores != "none" and not elsewhere,
        f"sequences.origin: {sequences.origin}": written and labels,
        "sequences.mixture.others: teacher": sequences.reads_mixture and labels,
        "sequences.rollouts.teacher_fraction": sequences.rollouts.teacher_fraction > 0.0,
        "student.init: teacher_layers": recipe.student.init == "teacher_layers",
    }
    needed = [reason for reason, holds in reasons.items() if holds]
    if needed and teacher.model is None:
        yield (
            "teacher.model",
            f"must be given for {' and for '.join(needed)}, got none; add teacher.model=...",
        )
    if soft and teacher.scores == "none":
        yield (
            "teacher.scores",
            f"must be dense for the objective's {soft[0]}, got none; set teacher.scores=dense or "
            "take that term out",
        )
    elif monitored and teacher.scores == "none":
        yield (
            "objective.monitors",
            f"must leave {monitored[0]} out unless teacher.scores is dense, got none; set "
            "teacher.scores=dense, or take the monitor out",
        )
    elif not (soft or monitored) and teacher.scores != "none":
        yield (
            "teacher.scores",
            f"must be none when no term of the objective reads the scores, got {teacher.scores}; "
            "set teacher.scores=none, or add a term such as forward_kl",
        )


def _kept(recipe: Recipe) -> Findings:
    """Scores that cannot be kept, and terms that cannot do with what is kept."""
    teacher, sequences, form = recipe.teacher, recipe.sequences, recipe.teacher.sparse_form
    if teacher.keeps_scores and sequences.rolls_out:
        key, found, live = _kept_by(teacher)
        yield (
            key,
            f"must be {live} where the student samples sequences, whose scores cannot be kept, got "
            f"{found} with sequences.origin {sequences.origin}; set {key}={live}",
        )
    if form is None:
        return
    for position, term in enumerate(recipe.objective.built_terms()):
        member, key = term.divergence.member, f"objective.terms.{position}"
        if not member.takes_targets and form not in member.sparse:
            tails = [f"top_k and teacher.tail={each}" for each in member.sparse]
            yield (
                f"{key}.divergence",
                f"must be one that can compare with {_FORMS[form]}, such as forward_kl, got "
                f"{member.name}; change it, or set teacher.scores={[*tails, 'dense'][0]}",
            )
        for weight in term.token_weights:
            if weight.member.needs_teacher:
                yield (
                    f"{key}.token_weights",
                    f"must leave {weight.member.name} out, which reads the teacher's whole "
                    f"distribution, unless teacher.scores is dense, got {teacher.scores}; set "
                    "teacher.scores=dense",
                )
    for name in recipe.objective.monitors:
        if name != OF_STUDENT_ALONE:
            yield (
                "objective.monitors",
                f"must leave {name} out unless teacher.scores is dense, got {teacher.scores}; take "
                "the monitor out",
            )


def _kept_by(teacher: TeacherSection) -> tuple[str, str, str]:
    """The key that has scores kept, its value, and the one that has the teacher run every time."""
    if teacher.sparse_form is not None:
        return "teacher.scores", teacher.scores, "dense"
    return "teacher.cache_hidden_states", teacher.cache_hidden_states, "none"


def _inside(recipe: Recipe) -> Findings:
    """What of a teacher's layers cannot be had, or not be compared."""
    teacher, matches = recipe.teacher, [f.built().match.member for f in recipe.objective.features]
    if not matches:
        return
    if teacher.keeps_scores:
        key, found, live = _kept_by(teacher)
        yield (
            key,
            f"must be {live} with the objective's {matches[0].name}, since of the teacher's layers "
            f"no more than the last would be kept, got {found}; set {key}={live}",
        )
    if teacher.prompt_column is not None:
        yield (
            "teacher.prompt_column",
            f"must be left out with the objective's {matches[0].name}, which compares what both "
            f"models make of the same tokens, got {teacher.prompt_column!r}; remove it",
        )
    looking = [member.name for member in matches if "attention" in member.reads]
    for key, kernel in (
        ("teacher.attention", teacher.attention),
        ("training.attention", recipe.training.attention),
    ):
        if looking and kernel not in ("auto", "eager"):
            yield (
                key,
                f"must be eager with the objective's {looking[0]}, since no other kernel tells its "
                f"weights, got {kernel}; remove it",
            )


def _own(recipe: Recipe) -> Findings:
    """What a teacher that is the student, or that reads another prompt, cannot be."""
    teacher, student, sequences = recipe.teacher, recipe.student, recipe.sequences
    if sequences.rollouts.teacher_fraction > 0.0 and (teacher.is_student or teacher.prompt_column):
        found = "teacher.model: student" if teacher.is_student else "teacher.prompt_column"
        yield (
            "sequences.rollouts.teacher_fraction",
            f"must be 0 with {found}, since both sample after the student's prompt, got "
            f"{sequences.rollouts.teacher_fraction:g}; remove it",
        )
    if not teacher.is_student:
        return
    if student.init != "pretrained":
        yield (
            "student.init",
            f"must be pretrained where the student is its own teacher, got {student.init}; name a "
            "trained student.model",
        )
    for key in ("dtype", "attention"):
        if key in teacher.changed():
            yield (
                f"teacher.{key}",
                "must be left out where the teacher has the student's weights and runs as it does, "
                f"got {getattr(teacher, key)}; remove it",
            )
    if teacher.prompt_column is None and all(map(is_soft, recipe.objective.terms)):
        yield (
            "teacher.prompt_column",
            "must be given where the student is its own teacher and learns from nothing else, "
            "since both would say the same, got none; name a column of data.train, or, where "
            "a folder student is meant, ./student",
        )
    if teacher.average_decay == 1.0:
        return
    if teacher.average_decay > 0.0 and student.lora.rank is not None:
        yield (
            "teacher.average_decay",
            "must be 0 or 1 with student.lora, since an average of adapters is not that of the "
            f"weights that they make, got {teacher.average_decay:g}; set it to 1",
        )
    if sequences.decoded_by_teacher or teacher.keeps_scores:
        found = _kept_by(teacher)[0] if not sequences.decoded_by_teacher else "its labels"
        yield (
            "teacher.average_decay",
            f"must be 1 with {found}, which are made once, before the student changes, got "
            f"{teacher.average_decay:g}; set it to 1",
        )
