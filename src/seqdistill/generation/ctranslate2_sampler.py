"""Sequences written during training by CTranslate2, whose copy of the student follows its weights.

The engine converts and compares; this adds no decoding of its own. It does not tell how likely
each token was.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.completions import Completions
from seqdistill.core.source import Source
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.sampling import check_rollout_decoding
from seqdistill.generation.scoring import IdPair
from seqdistill.generation.verified_pairs import NO_LONGER, Reach
from seqdistill.models.adapters import Kind


class CTranslate2Sampler:
    """A `Sampler` that sees the model's weights as they were at the last `refresh`.

    Samples depend on the number of threads, besides the seed: each worker has a stream of its
    own. `log_probs` are None: CTranslate2 tells them of whole sequences only.

    A source of nothing but start and end tokens is answered with no token, unfinished.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        kind: Kind,
        decoding: Decoding,
        verify_on: Sequence[IdPair],
        reach: Reach = NO_LONGER,
        vocab_size: int | None = None,
        compute_type: str = "float32",
        threads: int | None = None,
    ) -> None:
        """Converts and verifies the model whole; arguments and errors are those of
        `CTranslate2Generator`. Raises RecipeError for a beam of more than one."""
        check_rollout_decoding(decoding)
        self._model = model
        self._decoding = decoding
        self._generator = CTranslate2Generator(
            model,
            tokenizer,
            kind=kind,
            verify_on=verify_on,
            reach=reach,
            vocab_size=vocab_size,
            compute_type=compute_type,
            threads=threads,
        )

    def refresh(self) -> None:
        """Takes the model's present weights and compares one sentence.

        Raises ModelError when the two disagree or the model's shapes have changed.
        """
        self._generator.refresh(self._model)

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`."""
        answers = self._generator.generate(prompts, self._decoding, seed=seed)
        best = [hypotheses[0] for hypotheses in answers]
        return Completions.of_rows([h.token_ids for h in best], finished=[h.finished for h in best])
