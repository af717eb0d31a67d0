"""Sequences written while a student trains: samples of a distribution and their log-probabilities.

    uniforms: one number a prompt and step, drawn at once    so that samples depend on the seed and
    for each batch of prompts of similar length:             a prompt's place, not on these batches
        probabilities of the next token of every row
        token = where the row's uniform falls in the cumulative distribution
        rows that wrote an end token leave the batch

Nothing is inherited from a generation config. It does not tokenize, search beams, or know what a
sample is for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
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

from seqdistill.core.batch import Kind
from seqdistill.core.batches import padded_batches
from seqdistill.core.completions import Completions
from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import named_generator
from seqdistill.core.source import Source
from seqdistill.generation.model_facts import (
    ModelFacts,
    check_lengths,
    facts_of,
    writing_below,
)
from seqdistill.generation.scoring import CachedModel
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.modalities import modality_of
from seqdistill.recipe.sequences_schema import Decoding

Precision = Literal["fp32", "bf16"]
_LOOK_EVERY = {"cpu": 1}
"""After how many steps finished rows are looked for, by the kind of device: an answer is free on
the CPU, and a GPU would wait for it at each step. Elsewhere `_SELDOM`."""
_SELDOM = 8
_KEPT_ENDED = 0.1
"""The part of a batch that may have ended and stays in it: to take rows out copies the others."""
_MAX_LOGITS = 2**24
"""Logits of next tokens that are held at once: 2 ** 24 fp32 values are 64 MiB."""


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

    def sample_all(
        self, groups: Sequence[Sequence[Source]], *, seeds: Sequence[int]
    ) -> Completions:
        """The same for several groups of prompts at once, one after another, a seed for each.

        An engine that draws every sequence's numbers by themselves writes what `sample` does for
        each group with its seed; with another it depends on all that is asked for together.
        """


def prove_steps(model: PreTrainedModel, facts: ModelFacts) -> None:
    """Nothing, when the model's head is read right and it can write step by step, or ModelError.

    Its modes stay as they are.
    """
    with evaluation_mode(model), writing(model.device, "fp32"):
        SequenceModel(model)
        tried = [facts.end_id] if facts.kind == "causal" else modality_of(model).tiny(model)
        CachedModel(model, facts).begin([tried])


@dataclasses.dataclass(eq=False)
class TransformersSampler:
    """A `Sampler` over a live transformers model; no refresh is needed to see its weights.

    At temperature 1 with top_k 0 and top_p 1 it samples from the model's own distribution.
    `mode: beam` with beam_size 1 is greedy. Several times faster on small models than
    transformers' `generate`, whose draws and bookkeeping cost more than the model does.

    Raises ModelError for a model without a start or end token, with a head of an unknown form, of
    another kind, or without a cache.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _: dataclasses.KW_ONLY
    kind: Kind
    decoding: Decoding
    vocab_size: int | None = None
    """Samples come from the softmax over the ids below it, and log-probabilities are that
    softmax's: the rows beyond, which others may not have, are cut off before it. None means all."""
    precision: Precision = "fp32"
    """The arithmetic of the forward passes; log-probabilities are in fp32."""

    def __post_init__(self) -> None:
        for model, _ in self._models():
            prove_steps(model, self._facts(model))

    def _models(self) -> list[tuple[PreTrainedModel, float]]:
        """What is sampled from, each with its fraction."""
        return [(self.model, 1.0)]

    def refresh(self) -> None:
        """Nothing: models are read as they are at every call."""

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`."""
        return self.sample_all([prompts], seeds=[seed])

    def sample_all(
        self, groups: Sequence[Sequence[Source]], *, seeds: Sequence[int]
    ) -> Completions:
        """See `Sampler.sample_all`: what is asked for together changes no sequence."""
        prompts = [prompt for group in groups for prompt in group]
        if self.decoding.mode == "beam":
            return self._written(prompts, None, None)
        steps, found = self.decoding.max_new_tokens, list[Tensor]()
        for group, seed in zip(groups, seeds, strict=True):
            random = named_generator(seed, "rollouts")
            found.append(torch.rand(len(group), steps, dtype=torch.float64, generator=random))
        return self._written(prompts, torch.cat(found), None)

    def greedy_after_wrong_token(
        self, prompts: Sequence[Source], places: Sequence[int]
    ) -> Completions:
        """The greedy sequence of every prompt, but for one token that is forced to be another.

        At its place, from 0, stands the second likeliest token; it is chosen among those that end
        nothing, since no sequence goes on from an end. What follows is greedy again. Nothing is
        forced at a place of -1, or one beyond the sequence's end. `decoding` must be greedy.
        """
        assert self.decoding.mode == "beam", "samples are not forced"
        return self._written(prompts, None, places)

    def _written(
        self,
        prompts: Sequence[Source],
        uniforms: Float[Tensor, "prompts steps"] | None,
        wrong_at: Sequence[int] | None,
    ) -> Completions:
        decoding, device = self.decoding, self.model.device
        every = [(model, self._facts(model), share) for model, share in self._models()]
        with contextlib.ExitStack() as stack:
            for model, facts, _ in every:
                check_lengths(prompts, max_new_tokens=decoding.max_new_tokens, facts=facts)
                stack.enter_context(evaluation_mode(model))
            stack.enter_context(writing(device, self.precision))
            models = [(CachedModel(m, facts), share) for m, facts, share in every if share]
            mixture = _Mixture(models, decoding, self.vocab_size)
            ends = every[0][1].end_ids
            max_rows = max(1, _MAX_LOGITS // max(facts.vocab_size for _, facts, _ in every))
            written = _Written(mixture, prompts, ends, uniforms, device, wrong_at, max_rows)
            return written.completions()

    def _facts(self, model: PreTrainedModel) -> ModelFacts:
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        return writing_below(facts, self.vocab_size)


@dataclasses.dataclass(eq=False, kw_only=True)
class TeacherMixedSampler(TransformersSampler):
    """A `Sampler` of the mixture teacher_fraction p + (1 - teacher_fraction) q at every token.

    p is the teacher and q the student, each over its first `vocab_size` symbols (the tail beyond
    is padding and is cut off before the softmax) and at the temperature, top_k and top_p of
    `decoding`. Log-probabilities are the mixture's: the objective corrects for the teacher's share
    by the weights q / mixture. A fraction of 0 is the student alone, 1 the teacher alone.

    `model` and `tokenizer` are the student's; token ids mean the same to both models. Raises
    RecipeError for greedy decoding.

    Source: Gu et al. 2023 (MiniLLM), sec. 2.2, teacher-mixed sampling, teacher_fraction 0.2.
    """

    teacher: PreTrainedModel
    teacher_fraction: float = 0.2

    def __post_init__(self) -> None:
        if self.decoding.mode != "sample":
            raise RecipeError("A mixture of teacher and student must be sampled; use mode: sample")
        super().__post_init__()

    def _models(self) -> list[tuple[PreTrainedModel, float]]:
        fraction = self.teacher_fraction
        return [(self.model, 1.0 - fraction), (self.teacher, fraction)]


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


def decoding_probs(
    logits: Float[Tensor, "rows vocab"], decoding: Decoding
) -> Float[Tensor, "rows vocab"]:
    """The probabilities of logits divided by the sampling temperature, then cut to top_k and
    top_p."""
    cuts = LogitsProcessorList()
    if decoding.top_k:
        cuts.append(TopKLogitsWarper(top_k=min(decoding.top_k, logits.shape[1])))
    if decoding.top_p < 1.0:
        cuts.append(TopPLogitsWarper(top_p=decoding.top_p))
    # The processors want token ids, which these do not read.
    ids = torch.empty(0, dtype=torch.long)
    if decoding.sampling_temperature != 1.0:
        logits = logits / decoding.sampling_temperature
    kept: Float[Tensor, "rows vocab"] = cuts(ids, logits)
    return kept.softmax(dim=-1)


_BLOCK = 64
"""Symbols whose masses are added up before one of them is looked for."""


def drawn(
    masses: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """A token a row, each as likely as its share of the row's mass: where the uniform in [0, 1)
    falls in the cumulative distribution.

    Of many symbols only the masses of blocks are accumulated, and of the block that is hit.
    """
    rows, vocab = masses.shape
    if vocab <= 4 * _BLOCK:
        cumulative = masses.cumsum(dim=-1, dtype=torch.float64)
        # In (0, whole mass]: the first symbol that reaches it has a mass above zero.
        level = (1.0 - uniforms)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, level)[:, 0]
    whole = vocab - vocab % _BLOCK
    sums = masses[:, :whole].view(rows, -1, _BLOCK).sum(dim=-1)
    sums = torch.cat([sums, masses[:, whole:].sum(dim=-1, keepdim=True)], dim=1)
    ends = sums.cumsum(dim=-1, dtype=torch.float64)
    level = (1.0 - uniforms)[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, level)
    symbols = block * _BLOCK + torch.arange(_BLOCK, device=masses.device)
    inside = masses.gather(1, symbols.clamp(max=vocab - 1)).masked_fill(symbols >= vocab, 0.0)
    inside = inside.cumsum(dim=-1, dtype=torch.float64)
    # Above zero, as the level is above the end of the block before; a rounding beyond this one.
    rest = level - torch.nn.functional.pad(ends, (1, 0)).gather(1, block)
    place = torch.searchsorted(inside, rest.minimum(inside[:, -1:]))
    return symbols.gather(1, place)[:, 0]


@dataclasses.dataclass(frozen=True)
class _Mixture:
    """What models say of the next token: probabilities at the sampler's settings, mixed; the
    logits of one where the likeliest is taken."""

    models: Sequence[tuple[CachedModel, float]]
    """Each with its share."""
    decoding: Decoding
    vocab_size: int | None

    def begin(self, prompts: Sequence[Source]) -> Float[Tensor, "batch vocab"]:
        """Of each row's first token."""
        return self._mixed([model.begin(prompts) for model, _ in self.models])

    def advance(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Each row has written this token: of its next one."""
        return self._mixed([model.advance(token_ids) for model, _ in self.models])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """The batch goes on with these rows alone, in this order."""
        for model, _ in self.models:
            model.keep(rows)

    def _mixed(self, logits: Sequence[Tensor]) -> Float[Tensor, "batch vocab"]:
        known = [of_one[:, : self.vocab_size] for of_one in logits]
        if self.decoding.mode == "beam":
            (of_one,) = known
            return of_one
        parts = [decoding_probs(of_one, self.decoding) for of_one in known]
        if len(parts) == 1:
            return parts[0]
        shares = (share for _, share in self.models)
        return torch.stack([p * share for p, share in zip(parts, shares, strict=True)]).sum(dim=0)


class _Written:
    """One sample of a distribution a prompt, in their order, decoded sorted by length."""

    def __init__(
        self,
        distribution: _Mixture,
        prompts: Sequence[Source],
        end_ids: Sequence[int],
        uniforms: Float[Tensor, "prompts steps"] | None,
        device: torch.device,
        wrong_at: Sequence[int] | None,
        max_rows: int,
    ) -> None:
        decoding = distribution.decoding
        shape = (len(prompts), decoding.max_new_tokens)
        # A number a prompt and step to draw by; None for greedy.
        self.uniforms = None if uniforms is None else uniforms.to(device)
        # Where each row's token is forced to be another; None for nowhere.
        self.wrong_at = None if wrong_at is None else torch.tensor(wrong_at, device=device)
        self.ends = torch.tensor(end_ids, device=device)
        self.token_ids = torch.full(shape, -1, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        widths = [decoding.width(len(prompt)) for prompt in prompts]
        for batch in padded_batches(widths, batch_tokens=decoding.batch_tokens, max_rows=max_rows):
            rows = torch.tensor(batch, device=device)
            self._write(distribution, [prompts[i] for i in batch], rows)

    def _write(
        self, distribution: _Mixture, prompts: Sequence[Source], rows: Int[Tensor, " batch"]
    ) -> None:
        """Writes for `prompts`, whose places are `rows`; finished rows leave the batch.

        Which rows are finished is all that is asked of the device, every few steps: see
        `_LOOK_EVERY`. What follows an end meanwhile is cut off later.
        """
        every, last = _LOOK_EVERY.get(rows.device.type, _SELDOM), self.token_ids.shape[1] - 1
        said, is_open = distribution.begin(prompts), torch.ones_like(rows, dtype=torch.bool)
        for step in range(last + 1):
            chosen = self._chosen(said, rows, step)
            self.token_ids[rows, step] = chosen
            if self.uniforms is not None:
                self.log_probs[rows, step] = said.gather(1, chosen[:, None])[:, 0].log()
            if step == last:
                break
            if (step + 1) % every == 0:
                new = self.token_ids[rows, step + 1 - every : step + 1]
                is_open &= ~torch.isin(new, self.ends).any(dim=1)
                still_open = is_open.nonzero()[:, 0]
                if not len(still_open):
                    break
                if len(rows) - len(still_open) > _KEPT_ENDED * len(rows):
                    rows, chosen = rows[still_open], chosen[still_open]
                    is_open = is_open[still_open]
                    distribution.keep(still_open)
            said = distribution.advance(chosen)

    def _chosen(
        self, said: Float[Tensor, "batch vocab"], rows: Int[Tensor, " batch"], step: int
    ) -> Int[Tensor, " batch"]:
        """The likeliest tokens, or tokens drawn by inverting the cumulative distribution."""
        if self.uniforms is None:
            likeliest = said.argmax(dim=-1)
            if self.wrong_at is None:
                return likeliest
            others = said.scatter(1, likeliest[:, None], -torch.inf)
            others.index_fill_(1, self.ends, -torch.inf)
            return torch.where(self.wrong_at[rows] == step, others.argmax(dim=-1), likeliest)
        return drawn(said, self.uniforms[rows, step])

    def completions(self) -> Completions:
        """All that was written; greedy tokens are not drawn and have no log-probabilities."""
        width = int((self.token_ids >= 0).any(dim=0).sum())
        ids, nats = self.token_ids[:, :width], self.log_probs[:, :width]
        is_end = torch.isin(ids, self.ends)
        # Up to the first end, or as far as there is anything.
        real = (ids >= 0) & (is_end.cumsum(dim=1) - is_end.long() == 0)
        return Completions(
            torch.where(real, ids, 0),
            real.sum(dim=1),
            is_end.any(dim=1),
            None if self.uniforms is None else torch.where(real, nats, 0.0),
        )
