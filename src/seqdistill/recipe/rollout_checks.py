"""Contradictions about who writes while the student trains: rollouts, mixtures, replay.

Called by `checks` alone.
"""

from __future__ import annotations

from seqdistill.recipe.contradictions import Findings, changed, number_findings, shown
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Section
from seqdistill.recipe.sequences_schema import SequencesSection, StudentFraction


def rollout_findings(recipe: Recipe) -> Findings:
    """Settings that nobody would read, shares out of range, samplers that cannot do it."""
    sequences = recipe.sequences
    origin = sequences.origin
    if not sequences.can_roll_out:
        yield from _unread(sequences.rollouts, "rollouts", "student, mixture or replay", origin)
    if origin not in ("mixture", "replay"):
        yield from _unread(sequences.mixture, "mixture", "mixture or replay", origin)
    if origin != "replay":
        yield from _unread(sequences.replay, "replay", "replay", origin)
    if not sequences.can_roll_out:
        return
    if origin == "mixture" and sequences.mixture.student_fraction is None:
        yield (
            "sequences.mixture.student_fraction",
            "must be given with sequences.origin: mixture, got none; add it, for example 0.5",
        )
    if sequences.mixture.student_fraction is not None:
        yield from _share(sequences.mixture.student_fraction, recipe)
    yield from number_findings(
        "sequences.replay.fresh_fraction", sequences.replay.fresh_fraction, least=0.0, most=1.0
    )
    yield from _replay(sequences)
    yield from _sampler(recipe)


def _unread(section: Section, name: str, readers: str, origin: str) -> Findings:
    for setting in changed(section):
        yield (
            f"sequences.{name}.{setting}",
            f"must be left out unless sequences.origin is {readers}, got "
            f"{shown(getattr(section, setting))} with {origin}; remove it, or change "
            "sequences.origin",
        )


def _share(share: StudentFraction, recipe: Recipe) -> Findings:
    key = "sequences.mixture.student_fraction"
    yield from number_findings(key, share, least=0.0, most=1.0)
    if recipe.sequences.mixture.coin == "both" and share.ends != (0.5,):
        yield (
            key,
            f"must be 0.5 with sequences.mixture.coin: both, where every prompt is answered by "
            f"both, got {share}; set it to 0.5, or sequences.mixture.coin=batch",
        )
    if share.shape == "adaptive":
        if recipe.training.eval_every is None:
            yield (
                "training.eval_every",
                f"must be given with an adaptive {key}, which follows the dev loss, got none; add "
                "training.eval_every=... and data.dev=...",
            )
        return
    for name in changed(share, but=("start", "end", "shape")):
        yield (
            f"{key}.{name}",
            f"must be left out unless the shape is adaptive, got {shown(getattr(share, name))} "
            f"with {share.shape}; remove it",
        )


def _replay(sequences: SequencesSection) -> Findings:
    """A memory too small for one prompt; what whole batches need only the data can say."""
    needed, capacity = sequences.rollouts.samples_per_prompt, sequences.replay.capacity
    if sequences.origin == "replay" and capacity < needed:
        yield (
            "sequences.replay.capacity",
            f"must be at least the {needed} sequences that a single prompt gets "
            f"(sequences.rollouts.samples_per_prompt), since a batch is drawn whole, got "
            f"{capacity}; raise it",
        )


def _sampler(recipe: Recipe) -> Findings:
    rollouts, key = recipe.sequences.rollouts, "sequences.rollouts"
    if rollouts.mode == "greedy":
        sampling = (
            "sampling_temperature",
            "top_k",
            "top_p",
            "samples_per_prompt",
            "teacher_fraction",
        )
        for name in (name for name in sampling if name in changed(rollouts)):
            yield (
                f"{key}.{name}",
                f"must be left out unless mode is sample, got {shown(getattr(rollouts, name))}; "
                f"remove it, or set {key}.mode=sample",
            )
    if rollouts.teacher_fraction == 0.0:
        return
    if rollouts.engine != "transformers":
        yield (
            f"{key}.engine",
            f"must be transformers with teacher_fraction, which samples from two models, got "
            f"{rollouts.engine}; remove it",
        )
    for name in (name for name in ("top_k", "top_p") if name in changed(rollouts)):
        yield (
            f"{key}.{name}",
            f"must be left out with teacher_fraction, whose probabilities are of whole "
            f"distributions, got {shown(getattr(rollouts, name))}; remove it",
        )
    if recipe.sequences.origin == "replay":
        yield (
            f"{key}.teacher_fraction",
            "must be 0 with sequences.origin: replay, got "
            f"{rollouts.teacher_fraction:g}; set sequences.origin=student, or remove it",
        )
