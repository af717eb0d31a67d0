"""Decoding with CTranslate2, of models that `ctranslate2_model` has compared with the live ones."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import ctranslate2
from transformers import PreTrainedModel

from seqdistill.core.batches import equal_length_batches, padded_batches
from seqdistill.core.completions import Completions
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source, token_ids_of
from seqdistill.generation.ctranslate2_model import CTranslate2Model, torch_threads_kept
from seqdistill.generation.decoding import Hypothesis
from seqdistill.generation.model_facts import check_lengths
from seqdistill.recipe.sequences_schema import Decoding

_log = logging.getLogger(__name__)


class CTranslate2Generator(CTranslate2Model):
    """A `SequenceGenerator` over CTranslate2 workers."""

    @torch_threads_kept()
    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `SequenceGenerator.generate`.

        Beam search does not depend on `seed` or the number of threads. Samples depend on both:
        each worker has a stream of its own.

        CTranslate2 does not decode an encoder's source of nothing but start and end tokens: the
        answer is then empty and unfinished, and the number of such sources is logged.
        """
        facts = self.facts
        check_lengths(sources, max_new_tokens=decoding.max_new_tokens, facts=facts)
        widths, budget = [decoding.width(len(source)) for source in sources], decoding.batch_tokens
        if decoding.mode == "sample":  # work for every worker, which costs no memory
            budget = min(budget, -(-sum(widths) // self.num_workers))
        # CTranslate2 mixes prompt and output when the prompts of a batch differ in length.
        batched = equal_length_batches if facts.kind == "causal" else padded_batches
        batches = batched(widths, batch_tokens=budget)
        if decoding.mode == "sample":
            pools = self._seeded_pools(min(self.num_workers, len(batches)), seed)
        else:
            pools = [self.workers]
        pending = [
            (batch, self._submit(pools[number % len(pools)], [sources[i] for i in batch], decoding))
            for number, batch in enumerate(batches)
        ]
        hypotheses: list[list[Hypothesis]] = [[] for _ in sources]
        for batch, answers in pending:
            for index, answer in zip(batch, answers, strict=True):
                hypotheses[index] = self._read(answer.result(), decoding)
            if on_progress is not None:
                on_progress(len(batch))
        num_empty = sum(not answers[0].token_ids for answers in hypotheses)
        if num_empty:
            _log.warning("%d sources without content were answered with nothing", num_empty)
        return hypotheses

    def _seeded_pools(self, count: int, seed: int) -> list[Any]:
        """Fresh pools of one worker each, with random streams that `seed` fixes.

        A CTranslate2 worker seeds its stream when it first samples, from one process-wide number,
        and never again: in one pool all workers draw the same stream, and a second call cannot be
        repeated. So each pool is new and draws once before the next is seeded.
        """
        pools = []
        converted = self._converted
        for number in range(count):
            pool = self.unused_worker()
            # CTranslate2 takes 32 bits; all ones means "unseeded" there.
            ctranslate2.set_random_seed(derived_seed(seed, f"ctranslate2 {number}") & 0x7FFFFFFF)
            first = Decoding(mode="sample", max_new_tokens=1)
            for answer in self._submit(pool, [[converted.content_id]], first):
                answer.result()
            pools.append(pool)
        return pools

    def _submit(self, pool: Any, sources: Sequence[Source], decoding: Decoding) -> list[Any]:
        """Promises of results, one a source, decoded as one batch."""
        facts, converted = self.facts, self._converted
        strings = [converted.strings([*source]) for source in token_ids_of(sources)]
        options: dict[str, Any] = {
            "asynchronous": True,
            "num_hypotheses": decoding.n_best,
            "return_scores": True,
            "return_end_token": True,
            "end_token": converted.strings(converted.known(facts.end_ids)),
        }
        if self.vocab_size is not None and self.vocab_size < facts.vocab_size:
            # CTranslate2 takes single tokens out before its softmax: scores are those of the rest.
            beyond = converted.token_strings[self.vocab_size :]
            options["suppress_sequences"] = [[string] for string in beyond]
        if decoding.mode == "beam":
            options |= {
                "beam_size": decoding.beam_size,
                "length_penalty": decoding.length_penalty,
            }
        else:
            options |= {
                "beam_size": 1,
                "length_penalty": 0.0,
                "sampling_topk": decoding.top_k,
                "sampling_topp": decoding.top_p,
                "sampling_temperature": decoding.sampling_temperature,
            }
        if self.kind == "seq2seq":
            # By default CTranslate2 cuts sources at 1,024 tokens and forbids empty outputs.
            prefix = converted.strings(facts.prefix_ids)
            answers: list[Any] = pool.translate_batch(
                strings,
                max_input_length=0,
                target_prefix=[prefix] * len(strings) if prefix else None,
                max_decoding_length=decoding.max_new_tokens + len(prefix),
                min_decoding_length=0,
                **options,
            )
        else:
            answers = pool.generate_batch(
                strings,
                max_length=decoding.max_new_tokens,
                min_length=0,
                include_prompt_in_result=False,
                **options,
            )
        return answers

    def _read(self, result: Any, decoding: Decoding) -> list[Hypothesis]:
        """The hypotheses of one source; scores become plain sums of log-probabilities again."""
        penalty = decoding.length_penalty if decoding.mode == "beam" else 0.0
        sequences = result.hypotheses if self.kind == "seq2seq" else result.sequences
        facts, hypotheses = self.facts, []
        for strings, score in zip(sequences, result.scores, strict=True):
            # The prefix counts as length, but no log-probability of it is in the score.
            written = self._converted.ids(strings)
            ids = written[len(facts.prefix_ids) :]
            log_prob = score * len(written) ** penalty
            hypotheses.append(Hypothesis(ids, log_prob, facts.is_finished(ids)))
        return hypotheses


@dataclasses.dataclass(frozen=True, eq=False)
class CTranslate2Sampler:
    """A `Sampler` that sees the model's weights as they were at the last `refresh`.

    Samples depend on the number of threads, besides the seed: each worker has a stream of its
    own. `log_probs` are None: CTranslate2 tells them of whole sequences only.

    A source of nothing but start and end tokens is answered with no token, unfinished.
    """

    model: PreTrainedModel
    generator: CTranslate2Generator
    """Made of `model`."""
    decoding: Decoding

    def refresh(self) -> None:
        """Takes the model's present weights and compares one sentence.

        Raises EngineError when the two disagree.
        """
        self.generator.refresh(self.model)

    def sample_all(
        self, groups: Sequence[Sequence[Source]], *, seeds: Sequence[int]
    ) -> Completions:
        """See `Sampler.sample_all`: what is asked for together shares the streams of the first
        seed."""
        prompts = [prompt for group in groups for prompt in group]
        return self.sample(prompts, seed=seeds[0])

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`."""
        answers = self.generator.generate(prompts, self.decoding, seed=seed)
        best = [hypotheses[0] for hypotheses in answers]
        return Completions.of_rows([h.token_ids for h in best], finished=[h.finished for h in best])
