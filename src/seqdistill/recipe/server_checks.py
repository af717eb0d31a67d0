"""Contradictions between servers and the rest of a recipe. No server is asked."""

from __future__ import annotations

from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Findings, shown
from seqdistill.recipe.server_schema import ServerSection

TEACHER, ROLLOUTS = "teacher.server", "sequences.rollouts.server"


def server_findings(recipe: Recipe) -> Findings:
    """Servers that are named and not asked, needed and not named, or asked what they cannot."""
    rollouts = recipe.sequences.rollouts
    yield from label_server_findings(recipe)
    if recipe.teacher.on_server:
        yield from _scoring(recipe)
    if rollouts.engine != "vllm":
        return
    yield from _addresses(ROLLOUTS, rollouts.server, "sequences.rollouts.engine: vllm")
    if not rollouts.server.url:
        yield f"{ROLLOUTS}.url", "must be given for engine: vllm, got none; add where it is served"
    if recipe.sequences.origin == "near_policy":
        yield (
            "sequences.rollouts.engine",
            "must not be vllm with sequences.origin: near_policy, whose process has a copy of the "
            "student's weights, got vllm; use ctranslate2 or transformers",
        )


def label_server_findings(recipe: Recipe) -> Findings:
    """Of labels alone."""
    teacher, decoding = recipe.teacher, recipe.sequences.decoding
    yield from _addresses(TEACHER, teacher.server, "a teacher on a server")
    if decoding.engine != "server":
        return
    if not teacher.on_server:
        yield (
            f"{TEACHER}.url",
            "must be given with sequences.decoding.engine: server, got none; add where it is",
        )
    if teacher.on_server and teacher.server.model is None:
        yield (
            f"{TEACHER}.model",
            "must name the model that labels, since labels are kept under its name, got none; add "
            "the name that it is served under",
        )
    if decoding.mode == "beam" and decoding.beam_size > 1:
        yield (
            "sequences.decoding.beam_size",
            "must be 1 with sequences.decoding.engine: server, since servers search no beams, got "
            f"{decoding.beam_size}; set it to 1, or sequences.decoding.mode=sample",
        )
    if recipe.sequences.similarity == "smoothed_bleu_of_tokens":
        yield (
            "sequences.similarity",
            "must compare texts with sequences.decoding.engine: server, which tells no tokens, got "
            "smoothed_bleu_of_tokens; use smoothed_bleu",
        )
    if teacher.model is not None and teacher.scores == "none":
        yield (
            "teacher.model",
            f"must be left out where a server labels and nothing is compared with it, got "
            f"{shown(teacher.model)}; remove it",
        )


def _addresses(key: str, section: ServerSection, what: str) -> Findings:
    if changed := [name for name in section.changed() if name != "url" and not section.url]:
        yield (
            f"{key}.{changed[0]}",
            f"must be left out without {key}.url, got {getattr(section, changed[0])}; add the url "
            f"of {what}, or remove it",
        )


def _scoring(recipe: Recipe) -> Findings:
    """What a teacher on a server cannot say."""
    teacher, objective = recipe.teacher, recipe.objective
    labels = recipe.sequences.decoding.engine == "server" and recipe.sequences.decoded_by_teacher
    if teacher.members or teacher.is_student:
        found = "several teachers" if teacher.members else "student"
        yield (
            "teacher.model",
            f"must name one local copy of what is served, or none, with {TEACHER}, got {found}; "
            "remove one of the two",
        )
    if teacher.scores == "none":
        if not labels:
            yield (
                f"{TEACHER}.url",
                "must be left out where the teacher neither scores nor labels, got "
                f"{shown(teacher.server.url)}; remove it, set teacher.scores=top_k, or let it "
                "label (sequences.decoding.engine=server)",
            )
        return
    for key, value, needed in (
        ("teacher.scores", teacher.scores, "top_k"),
        ("teacher.kept_scores", teacher.kept_scores, None),
        ("teacher.top_k_mass", teacher.top_k_mass, None),
        ("objective.loss_temperature", objective.loss_temperature, 1.0),
    ):
        if value != needed:
            words = "left out" if needed is None else shown(needed)
            yield (
                key,
                f"must be {words} with {TEACHER}, which tells the likeliest symbols at temperature "
                f"1 whenever it is asked, got {shown(value)}; set {key}={shown(needed or 'null')}",
            )
    if objective.features:
        yield (
            "objective.features",
            f"must be left out with {TEACHER}, which tells nothing of its layers, got "
            f"{objective.features[0].match}; remove them",
        )
