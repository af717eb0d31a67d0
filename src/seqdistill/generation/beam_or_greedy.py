"""Beam search that is never worse than greedy decoding by its own measure.

Both engines end a search once `beam_size` outputs have ended, however likely what is still being
written is. Of a teacher that is sure of long outputs, short improbable ones can fill the beam's
places first, and the likeliest output of all is lost. Greedy decoding finds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from seqdistill.core.source import Source
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.recipe.sequences_schema import Decoding


def searches_twice(decoding: Decoding) -> bool:
    """Whether outputs are those of a beam search and of greedy decoding, not of one of them."""
    return decoding.mode == "beam" and decoding.beam_size > 1


@dataclasses.dataclass(frozen=True)
class BeamOrGreedy:
    """A `SequenceGenerator`: the n best of a beam search and of the greedy output."""

    generator: SequenceGenerator
    facts: ModelFacts
    """Of the model that it runs."""

    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `SequenceGenerator.generate`. A greedy output that ended takes the last place of a
        beam that lacks it and has a lower score there, or none that ended."""
        found = self.generator.generate(sources, decoding, seed=seed, on_progress=on_progress)
        if not searches_twice(decoding):
            return found
        alone = decoding.model_copy(update={"beam_size": 1, "n_best": 1})
        greedy = self.generator.generate(sources, alone, seed=seed)

        def order(hypothesis: Hypothesis) -> tuple[bool, float]:
            length = max(1, self.facts.length(hypothesis.token_ids))  # an empty answer's
            return hypothesis.finished, hypothesis.log_prob / length**decoding.length_penalty

        return [
            sorted([*beam[:-1], best], key=order, reverse=True)
            if best.finished
            and all(best.token_ids != other.token_ids for other in beam)
            and order(best) > order(beam[-1])
            else beam
            for beam, (best,) in zip(found, greedy, strict=True)
        ]
