"""Sequences written while a student trains: samples of a distribution and their log-probabilities.

    uniforms: one number a prompt and step, drawn at once    so that samples depend on the seed and
    for each batch of prompts of similar length:             a prompt's place, not on the batches
        log-probs of the next token of every row
        token = where the row's uniform falls in the cumulative distribution
        rows that wrote an end token leave the batch

Nothing is inherited from a generation config. It does not tokenize, search beams, or know what a
sample is for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from seqdistill.core.batches import padded_batches
from seqdistill.core.completions import Completions
from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import named_generator
from seqdistill.core.source import Source
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.model_facts import (
    ModelFacts,
    check_lengths,
    facts_of,
    writing_below,
)
from seqdistill.generation.next_tokens import CachedModel, NextLogProbs
from seqdistill.models.adapters import Kind, adapt
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.modalities import modality_of

Precision = Literal["fp32", "bf16"]
_LOOK_EVERY = {"cpu": 1}
"""After how many steps finished rows are looked for, by the kind of device: an answer is free on
the CPU, and a GPU would wait for it at each step. Elsewhere `_SELDOM`."""
_SELDOM = 8


@runtime_checkable
class Sampler(Protocol):
    """Writes sequences with weights that change between calls."""

    def refresh(self) -> None:
        """Take the weights that the model has now."""

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """One sequence a prompt, in the prompts' order: the same again for the same seed, prompts
        and weights. Gradients, training mode and torch's random state stay out of it.

        Log-probabilities are None for greedy sequences, which are not drawn, and where the engine
        does not tell them.
        """


def check_rollout_decoding(decoding: Decoding) -> None:
    """Nothing for sampling and greedy decoding; RecipeError for what is neither."""
    if decoding.mode == "beam" and decoding.beam_size > 1:
        raise RecipeError(
            "Sequences written during training must be sampled or greedy, but beam_size is "
            f"{decoding.beam_size}; use mode: sample, or mode: beam with beam_size: 1"
        )
    if decoding.n_best > 1:
        raise RecipeError(
            f"n_best must be 1 for sequences written during training, got {decoding.n_best}; use "
            "samples_per_prompt"
        )


def prove_steps(model: PreTrainedModel, facts: ModelFacts) -> None:
    """Nothing, when the model's head is read right and it can write step by step, or ModelError.

    Its modes stay as they are.
    """
    with evaluation_mode(model), writing(model.device, "fp32"):
        adapt(model)
        tried = [facts.end_id] if facts.kind == "causal" else modality_of(model).tiny(model)
        CachedModel(model, facts).begin([tried])


class TransformersSampler:
    """A `Sampler` over a live transformers model; no refresh is needed to see its weights.

    At temperature 1 with top_k 0 and top_p 1 it samples from the model's own distribution.
    `mode: beam` with beam_size 1 is greedy. Several times faster on small models than
    transformers' `generate`, whose draws and bookkeeping cost more than the model does.

    With `vocab_size` it samples from the softmax over the ids below it, and log-probabilities are
    that softmax's: the rows beyond, which others may not have, are cut off before it.

    `precision` is the arithmetic of the forward passes; log-probabilities are in fp32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        kind: Kind,
        decoding: Decoding,
        vocab_size: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """`vocab_size` None means every id of the model.

        Raises ModelError for a model without a start or end token, with a head of an unknown
        form, of another kind, or without a cache, and RecipeError for a beam of more than one.
        """
        check_rollout_decoding(decoding)
        self._model = model
        self._tokenizer = tokenizer
        self._kind: Kind = kind
        self._decoding = decoding
        self._vocab_size = vocab_size
        self._precision: Precision = precision
        prove_steps(model, self._facts())

    def refresh(self) -> None:
        """Nothing: the model is read as it is at every call."""

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`."""
        facts, decoding = self._facts(), self._decoding
        check_lengths(prompts, max_new_tokens=decoding.max_new_tokens, facts=facts)
        device = self._model.device
        with evaluation_mode(self._model), writing(device, self._precision):
            own = _OwnDistribution(CachedModel(self._model, facts), decoding)
            return written_samples(
                own, prompts, decoding, end_ids=facts.end_ids, seed=seed, device=device
            )

    def _facts(self) -> ModelFacts:
        facts = facts_of(self._model, self._tokenizer, kind=self._kind)
        return writing_below(facts, self._vocab_size)


@contextlib.contextmanager
def writing(device: torch.device, precision: Precision) -> Iterator[None]:
    """No gradient, and the arithmetic asked for, whatever surrounds the call.

    Not inference mode: models keep tensors for later (tables of positions that grow), and autograd
    refuses those that were made in it.
    """
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    try:
        with torch.no_grad(), autocast:
            yield
    finally:
        # Weights rounded without a gradient must not serve a training step around this call.
        torch.clear_autocast_cache()


def log_probs_of(
    logits: Float[Tensor, "batch vocab"], decoding: Decoding
) -> Float[Tensor, "batch vocab"]:
    """Log-probabilities of logits divided by the sampling temperature, then cut to top_k, top_p."""
    cuts = LogitsProcessorList()
    if decoding.top_k:
        cuts.append(TopKLogitsWarper(top_k=min(decoding.top_k, logits.shape[1])))
    if decoding.top_p < 1.0:
        cuts.append(TopPLogitsWarper(top_p=decoding.top_p))
    # The processors want token ids, which these do not read.
    ids = torch.empty(0, dtype=torch.long)
    kept: Float[Tensor, "batch vocab"] = cuts(ids, logits / decoding.sampling_temperature)
    return kept.log_softmax(dim=-1)


class _OwnDistribution:
    """What one model says, at the settings of the sampler."""

    def __init__(self, model: CachedModel, decoding: Decoding) -> None:
        self._model = model
        self._decoding = decoding

    def begin(self, prompts: Sequence[Source]) -> Float[Tensor, "batch vocab"]:
        return log_probs_of(self._model.begin(prompts), self._decoding)

    def advance(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        return log_probs_of(self._model.advance(token_ids), self._decoding)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self._model.keep(rows)


def written_samples(
    distribution: NextLogProbs,
    prompts: Sequence[Source],
    decoding: Decoding,
    *,
    end_ids: Sequence[int],
    seed: int,
    device: torch.device,
) -> Completions:
    """One sample of `distribution` a prompt, in their order, decoded sorted by length."""
    uniforms = torch.rand(
        len(prompts),
        decoding.max_new_tokens,
        dtype=torch.float64,
        generator=named_generator(seed, "rollouts"),
    ).to(device)
    written = _Written(len(prompts), decoding.max_new_tokens, end_ids, device)
    choose = likeliest if decoding.mode == "beam" else _Drawn(uniforms)
    lengths = [len(prompt) for prompt in prompts]
    for batch in padded_batches(lengths, batch_tokens=decoding.batch_tokens):
        _write(distribution, [prompts[i] for i in batch], batch, choose, written)
    return written.completions(drawn=decoding.mode == "sample")


Choice = Callable[[Float[Tensor, "batch vocab"], Int[Tensor, " batch"], int], Int[Tensor, " batch"]]
"""(log-probs, which prompts these rows are, step) -> each row's next token."""


def likeliest(
    log_probs: Float[Tensor, "batch vocab"], rows: Int[Tensor, " batch"], step: int
) -> Int[Tensor, " batch"]:
    """The likeliest token of each row: greedy."""
    return log_probs.argmax(dim=-1)


class _Drawn:
    """Tokens drawn by inverting the cumulative distribution: one uniform number a row and step."""

    def __init__(self, uniforms: Float[Tensor, "prompts time"]) -> None:
        self._uniforms = uniforms

    def __call__(
        self, log_probs: Float[Tensor, "batch vocab"], rows: Int[Tensor, " batch"], step: int
    ) -> Int[Tensor, " batch"]:
        cumulative = log_probs.exp().cumsum(dim=-1, dtype=torch.float64)
        # In (0, whole mass]: the first symbol that reaches it has a probability above zero.
        level = (1.0 - self._uniforms[rows, step])[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, level)[:, 0]


class _Written:
    """What is written so far for all prompts, on the device."""

    def __init__(
        self, num_prompts: int, longest: int, end_ids: Sequence[int], device: torch.device
    ) -> None:
        self.longest = longest
        self.device = device
        self._ends = torch.tensor(end_ids, device=device)
        self._token_ids = torch.full((num_prompts, longest), -1, device=device)
        self._log_probs = torch.zeros(num_prompts, longest, device=device)
        self._width = 0

    def add(
        self,
        rows: Int[Tensor, " batch"],
        step: int,
        chosen: Int[Tensor, " batch"],
        log_probs: Float[Tensor, "batch vocab"],
    ) -> None:
        """Appends a token to each of these rows; what follows an end is cut off later."""
        self._token_ids[rows, step] = chosen
        self._log_probs[rows, step] = log_probs.gather(1, chosen[:, None])[:, 0]
        self._width = max(self._width, step + 1)

    def still_open(
        self, rows: Int[Tensor, " batch"], step: int, num_steps: int
    ) -> Int[Tensor, " open"]:
        """Which of these rows have not ended in the last `num_steps` steps."""
        last = self._token_ids[rows, step + 1 - num_steps : step + 1]
        return (~torch.isin(last, self._ends).any(dim=1)).nonzero()[:, 0]

    def completions(self, *, drawn: bool) -> Completions:
        """All that was written; greedy tokens are not drawn and have no log-probabilities."""
        ids, nats = self._token_ids[:, : self._width], self._log_probs[:, : self._width]
        is_end = torch.isin(ids, self._ends)
        # Up to the first end, or as far as there is anything.
        real = (ids >= 0) & (is_end.cumsum(dim=1) - is_end.long() == 0)
        return Completions(
            torch.where(real, ids, 0),
            real.sum(dim=1),
            is_end.any(dim=1),
            torch.where(real, nats, 0.0) if drawn else None,
        )


def _write(
    distribution: NextLogProbs,
    prompts: Sequence[Source],
    places: Sequence[int],
    choose: Choice,
    written: _Written,
) -> None:
    """Writes for `prompts`, whose rows are at `places`; finished rows leave the batch.

    Which rows are finished is all that is asked of the device, every few steps: see `_LOOK_EVERY`.
    """
    rows = torch.tensor(places, device=written.device)
    every = _LOOK_EVERY.get(written.device.type, _SELDOM)
    log_probs = distribution.begin(prompts)
    for step in range(written.longest):
        chosen = choose(log_probs, rows, step)
        written.add(rows, step, chosen, log_probs)
        if step == written.longest - 1:
            break
        if (step + 1) % every == 0:
            still_open = written.still_open(rows, step, every)
            if not len(still_open):
                break
            if len(still_open) < len(rows):
                rows, chosen = rows[still_open], chosen[still_open]
                distribution.keep(still_open)
        log_probs = distribution.advance(chosen)
