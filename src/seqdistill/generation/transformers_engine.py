"""Decoding with transformers' own `generate`: slower, but every architecture and every device.

Nothing but where sequences start and end is inherited from the model's generation config:
repetition penalties, forced ends and the default top_k of 50 would make samples come from another
distribution. Does not tokenize text.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdistill.core.batch import Kind
from seqdistill.core.batches import equal_length_batches, padded_batches
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source, padded_ids, token_ids_of
from seqdistill.generation.decoding import Hypothesis
from seqdistill.generation.model_facts import (
    ModelFacts,
    check_lengths,
    facts_of,
    writing_below,
)
from seqdistill.generation.scoring import token_log_probs
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.modalities import modality_of
from seqdistill.recipe.sequences_schema import Decoding


@dataclasses.dataclass(eq=False)
class TransformersGenerator:
    """A `SequenceGenerator` over a live model; sees its weights as they are at each call.

    Raises ModelError when the model's start or end token is unknown.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _: dataclasses.KW_ONLY
    kind: Kind
    vocab_size: int | None = None
    """Only ids below it are written, from the softmax over them; None means every id."""

    def __post_init__(self) -> None:
        self._facts()

    def _facts(self) -> ModelFacts:
        facts = facts_of(self.model, self.tokenizer, kind=self.kind)
        return writing_below(facts, self.vocab_size)

    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `SequenceGenerator.generate`.

        Samples depend on `seed` and `batch_tokens`. Torch's global random state, the model's
        training mode and its generation config are afterwards what they were.
        """
        facts = self._facts()
        check_lengths(sources, max_new_tokens=decoding.max_new_tokens, facts=facts)
        config = _generation_config(decoding, facts)
        hypotheses: list[list[Hypothesis]] = [[] for _ in sources]
        with self._prepared(config, seed):
            together = padded_batches
            if self.model._is_stateful:
                # Recurrent layers read the padding before a prompt, and some keep states that do
                # not move with beams: slower, and right.
                together, config.use_cache = equal_length_batches, False
            lengths = [len(source) for source in sources]
            for batch in together(lengths, batch_tokens=decoding.batch_tokens):
                asked = [sources[index] for index in batch]
                scored = self._scored(asked, self._decode(asked, config, facts), decoding, facts)
                for index, answer in zip(batch, scored, strict=True):
                    hypotheses[index] = answer
                if on_progress is not None:
                    on_progress(len(batch))
        return hypotheses

    def token_ids(
        self, sources: Sequence[Source], decoding: Decoding, *, batch_size: int, seed: int = 0
    ) -> list[list[list[int]]]:
        """What transformers' `generate` alone gives for each source, not scored and in its order.

        So many sources, as they come, are a batch.
        """
        facts = self._facts()
        check_lengths(sources, max_new_tokens=decoding.max_new_tokens, facts=facts)
        config = _generation_config(decoding, facts)
        with self._prepared(config, seed):
            return [
                rows
                for start in range(0, len(sources), batch_size)
                for rows in self._decode(sources[start : start + batch_size], config, facts)
            ]

    @contextlib.contextmanager
    def _prepared(self, config: GenerationConfig, seed: int) -> Iterator[None]:
        """Evaluation mode, a random state of its own, and no generation config but ours."""
        model = self.model
        inherited = model.generation_config
        devices = [model.device] if model.device.type == "cuda" else []
        with evaluation_mode(model), torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(derived_seed(seed, "transformers"))
            # `generate` fills what ours leaves out from the model's.
            model.generation_config = config
            try:
                yield
            finally:
                model.generation_config = inherited

    def _decode(
        self, sources: Sequence[Source], config: GenerationConfig, facts: ModelFacts
    ) -> list[list[list[int]]]:
        """Token ids per source and hypothesis, cut after the first end token."""
        device = self.model.device
        if facts.kind == "causal":
            # It goes on from the last column, so padding goes before the prompt.
            ids, mask = padded_ids(token_ids_of(sources), side="left")
            named = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
            skipped = ids.shape[1]
        else:
            modality = modality_of(self.model)
            named = modality.arguments(modality.pad(sources).to(device))
            skipped = 1 + len(facts.prefix_ids)
            if not facts.reads_text:
                prompt = torch.tensor([[facts.start_id or 0, *facts.prefix_ids]], device=device)
                named["decoder_input_ids"] = prompt.repeat(len(sources), 1)
        # Not the model's own: Whisper's cuts audio into windows and takes ends off.
        written: Int[Tensor, "outputs time"] = GenerationMixin.generate(
            self.model, **named, generation_config=config
        )
        rows = []
        for row in written[:, skipped:].tolist():
            ends = (place for place, token_id in enumerate(row) if token_id in facts.end_ids)
            rows.append(row[: next(ends, len(row)) + 1])
        per_source = len(rows) // len(sources)
        return [rows[i * per_source : (i + 1) * per_source] for i in range(len(sources))]

    def _scored(
        self,
        sources: Sequence[Source],
        outputs: Sequence[Sequence[Sequence[int]]],
        decoding: Decoding,
        facts: ModelFacts,
    ) -> list[list[Hypothesis]]:
        """The outputs with log-probabilities from a forward pass of their own, best first.

        The scores of `generate` are those of its processed logits: after temperature, top_k and
        top_p, and divided by length.
        """
        penalty = decoding.length_penalty if decoding.mode == "beam" else 0.0
        pairs = [
            (source, row) for source, rows in zip(sources, outputs, strict=True) for row in rows
        ]
        scores = iter(token_log_probs(self.model, pairs, facts=facts))
        scored = []
        for rows in outputs:
            hypotheses = [
                Hypothesis(tuple(row), sum(next(scores)), finished=facts.is_finished(row))
                for row in rows
            ]
            scored.append(
                sorted(hypotheses, key=lambda h: -h.log_prob / facts.length(h.token_ids) ** penalty)
            )
        return scored


def _generation_config(decoding: Decoding, facts: ModelFacts) -> GenerationConfig:
    """The whole of what `generate` may know, all said out loud."""
    searched = decoding.mode == "beam"
    forced = facts.prefix_ids if facts.reads_text else ()  # else in the decoder's prompt
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens + len(forced),
        min_length=0,
        num_beams=decoding.beam_size if searched else 1,
        num_return_sequences=decoding.n_best,
        do_sample=not searched,
        eos_token_id=list(facts.end_ids),
        # Finished rows are filled with it; cut off afterwards, so any id will do.
        pad_token_id=facts.end_id,
        decoder_start_token_id=facts.start_id,
        forced_bos_token_id=next(iter(forced), None),
        suppress_tokens=list(facts.suppressed_ids) or None,
        # A beam search takes symbols out after its softmax, which then has to be taken again.
        renormalize_logits=bool(facts.suppressed_ids),
        use_cache=True,
    )
    if searched and decoding.beam_size > 1:
        # Stop once beam_size hypotheses are finished, as CTranslate2 does.
        config.early_stopping = True
        config.length_penalty = decoding.length_penalty
    if not searched:
        config.temperature = decoding.sampling_temperature
        config.top_k = decoding.top_k
        config.top_p = decoding.top_p
    return config
