"""What `generate` does with a draft: checks it, chooses its length, tells what it brought."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seqdistill.core.errors import UserError
from seqdistill.core.progress import Progress
from seqdistill.core.source import Source
from seqdistill.generation.ctranslate2_model import is_converted
from seqdistill.generation.draft_costs import measured_costs, seconds_with_and_without
from seqdistill.generation.speculative import SpeculativeGenerator
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import Decoding


def check_drafted(model: str, draft: str, engine: str, compute_type: str) -> None:
    """Raises UserError where only the plain transformers models could go on."""
    for key, name in (("MODEL", model), ("--draft", draft)):
        if is_converted(Path(name)):
            raise UserError(
                f"{key} must be a transformers model where one drafts for the other, got the "
                f"CTranslate2 folder {name!r}; name the model that it was made of"
            )
    if engine == "ctranslate2" or compute_type != "float32":
        raise UserError(
            "--draft must be used with the transformers engine in its own arithmetic, got "
            f"--engine {engine} and --compute-type {compute_type}; leave both out"
        )


def speculative(
    teacher: LoadedModel,
    draft: LoadedModel,
    draft_tokens: int | None,
    *,
    sources: Sequence[Source],
    decoding: Decoding,
    progress: Progress,
) -> SpeculativeGenerator:
    """The two as one generator; a draft length that is not given is chosen, which is told.

    It is 1 where a trial says nothing: then every output ended at its first token.

    Raises ModelError for a draft that does not fit the teacher.
    """
    if draft_tokens is None:
        costs = measured_costs(teacher, draft, sources, decoding)
        draft_tokens = costs.draft_tokens
        step, read = 1e3 * costs.draft_step_s, 1e3 * costs.pass_of(draft_tokens)
        if step:
            progress.echo(
                f"--draft-tokens {draft_tokens} is chosen: a step of the draft takes {step:.1f} "
                f"ms, the teacher's pass over such a draft {read:.1f} ms, and "
                f"{costs.acceptance:.0%} of the tokens that are tested are accepted"
            )
    return SpeculativeGenerator(teacher, draft, draft_tokens=draft_tokens)


def tell_of_drafts(
    generator: SpeculativeGenerator,
    sources: Sequence[Source],
    decoding: Decoding,
    progress: Progress,
) -> None:
    """Says what drafts brought, and what they took beside the teacher alone."""
    counts = generator.counts
    if not counts.tested:
        progress.echo("no drafted token was tested: every output ended at its first")
        return
    beside = ""
    if decoding.mode == "sample":
        beside = f"; 1 - TVD of the two distributions there is {counts.mean_overlap:.3f}"
    progress.echo(
        f"accepted {counts.acceptance:.3f} of {counts.tested:,} drafted tokens that were tested"
        + beside
    )
    progress.echo(
        f"{counts.tokens_per_pass:.2f} tokens a forward pass of the teacher, which alone writes 1"
    )
    drafted, alone = seconds_with_and_without(generator, sources, decoding)
    verdict = f"{alone / drafted:.2f} times as fast"
    progress.echo(
        f"the first batch, cut short: {drafted:.2f} s with the draft, {alone:.2f} s by the teacher "
        f"alone on the same engine: {verdict if drafted < alone else 'no gain, ' + verdict}"
    )
