"""What generation must know of a model: its start and end tokens, its vocabulary, its positions.

Of a generation config it reads where sequences start and end, and nothing else: no other choice of
a model's author for decoding may change what the model's own distribution is. Does not decode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, ModelError, RecipeError
from seqdistill.core.source import Source, SourceInputs
from seqdistill.data.marks import end_ids
from seqdistill.models.adapters import decoder_prefix_ids, decoder_start_id
from seqdistill.models.loading import LoadedModel
from seqdistill.models.modalities import Modality, modality_of


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """The facts of one model with its tokenizer."""

    kind: Kind
    vocab_size: int
    """Rows of the output layer."""
    end_ids: tuple[int, ...]
    """The tokens that end a sequence; the first is what targets are closed with."""
    start_id: int | None
    """What a decoder reads first; None for decoder-only models, which start from a prompt."""
    prefix_ids: tuple[int, ...]
    """What a decoder reads next, often nothing: given, never written or scored, and no part of an
    output."""
    suppressed_ids: tuple[int, ...]
    """Symbols that are no outputs: their logits count as -inf."""
    max_positions: int | None
    """How many positions the model can tell apart; None when there is no limit."""
    max_steps: int | None
    """The same of a source that is not text."""
    reads_text: bool
    """Whether sources are token ids."""

    @property
    def end_id(self) -> int:
        """The token that targets are closed with."""
        return self.end_ids[0]

    def length(self, token_ids: Sequence[int]) -> int:
        """The length that a length penalty sees: the prefix counts, in both engines, but not that
        of models of other modalities, which `generate` takes for a prompt."""
        return len(token_ids) + (len(self.prefix_ids) if self.reads_text else 0)

    def is_finished(self, token_ids: Sequence[int]) -> bool:
        """Whether an output ends with one of the end tokens."""
        return bool(token_ids) and token_ids[-1] in self.end_ids


def facts_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, kind: Kind
) -> ModelFacts:
    """The facts of `model`.

    The first end token is the tokenizer's, since it is what training targets end with; the others
    are those that `data.endings` finds, as far as the model has a row for them. Raises ModelError
    when a needed token is unknown or lies outside the vocabulary.
    """
    config = model.config if kind == "seq2seq" else model.config.get_text_config()
    config = getattr(config, "decoder", config)  # T5Gemma has one for each side
    vocab_size: int = model.get_output_embeddings().weight.shape[0]
    ends = end_ids(tokenizer, declared_ends(model))
    start_id = decoder_start_id(model) if kind == "seq2seq" else None
    if kind == "seq2seq":
        _require_token("decoder_start_token_id of the model's config", start_id, vocab_size)
    _require_token("the tokenizer's eos_token_id", ends[0], vocab_size)
    prefix_ids = decoder_prefix_ids(model)
    for token_id in prefix_ids:
        _require_token("what the decoder is given after its start", token_id, vocab_size)
    modality = modality_of(model) if kind == "seq2seq" else Modality()
    positions = "max_position_embeddings" if modality.reads_text else "max_target_positions"
    return ModelFacts(
        kind=kind,
        vocab_size=vocab_size,
        end_ids=tuple(token_id for token_id in ends if 0 <= token_id < vocab_size),
        start_id=start_id,
        prefix_ids=prefix_ids,
        suppressed_ids=(vocab_size - 1,) if has_mute_last_row(model) else (),
        max_positions=getattr(config, positions, None),
        max_steps=modality.max_steps,
        reads_text=modality.reads_text,
    )


def pair_facts(pair: LoadedModel) -> ModelFacts:
    """As `facts_of`, of a model with its tokenizer."""
    return facts_of(pair.model, pair.tokenizer, kind=pair.kind)


def declared_ends(model: PreTrainedModel) -> int | list[int] | None:
    """What the model's folder says that sequences end with, as transformers' `generate` reads it.

    The generation config decides; the configuration where there is none.
    """
    declared: int | list[int] | None = None
    if model.generation_config is not None:
        declared = model.generation_config.eos_token_id
    if declared is None:
        declared = getattr(model.config.get_text_config(decoder=True), "eos_token_id", None)
    return declared


def declare_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, kind: Kind) -> None:
    """Puts every end token where plain transformers reads it: into the generation config."""
    ends = facts_of(model, tokenizer, kind=kind).end_ids
    if model.generation_config is not None:
        model.generation_config.eos_token_id = list(ends) if len(ends) > 1 else ends[0]


def writing_below(facts: ModelFacts, vocab_size: int | None) -> ModelFacts:
    """The facts of the same model where only ids below `vocab_size` are outputs; None means all.

    Rows beyond are padding that others may not have: nobody could read what was written there.
    Raises ModelError when the end token would be no output.
    """
    if vocab_size is None or vocab_size >= facts.vocab_size:
        return facts
    _require_token("the end token of what is written", facts.end_id, vocab_size)
    beyond = {*facts.suppressed_ids, *range(vocab_size, facts.vocab_size)}
    return dataclasses.replace(
        facts,
        end_ids=tuple(token_id for token_id in facts.end_ids if token_id < vocab_size),
        suppressed_ids=tuple(sorted(beyond)),
    )


def _require_token(name: str, token_id: object, vocab_size: int) -> None:
    if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
        raise ModelError(
            f"{name} must be one id below the model's vocabulary of {vocab_size}, "
            f"got {token_id!r}; set it in the model folder"
        )


def has_mute_last_row(model: PreTrainedModel) -> bool:
    """True for a Marian model as its original toolkit trains it: its last symbol is no output.

    Such models come with a pad token added at the end of the vocabulary by the transformers
    conversion, its embedding and bias zero: the zero vector is what the decoder starts from, and
    the symbol was never in the softmax. A Marian model trained in transformers with a pad row
    that has moved is an ordinary encoder-decoder, pad in its softmax.
    """
    if model.config.model_type != "marian":
        return False
    head = model.get_output_embeddings()
    bias = model.final_logits_bias
    last = head.weight.shape[0] - 1
    return bool(
        model.config.pad_token_id == last
        and model.config.decoder_start_token_id == last
        and not model.get_input_embeddings().weight[last].any()
        and not head.weight[last].any()
        and not bias[0, last].any()
    )


def check_output_length(
    max_new_tokens: int, *, facts: ModelFacts, key: str = "max_new_tokens"
) -> None:
    """Raises RecipeError for outputs beyond a decoder's positions; `key` is what the user set."""
    if facts.max_positions is None or facts.kind != "seq2seq":
        return
    limit = facts.max_positions - len(facts.prefix_ids)
    if max_new_tokens > limit:
        given = " less those of the decoder's prefix" if facts.prefix_ids else ""
        raise RecipeError(
            f"{key} must be at most the model's {limit} positions{given}, got {max_new_tokens}; "
            "lower it"
        )


def check_lengths(sources: Sequence[Source], *, max_new_tokens: int, facts: ModelFacts) -> None:
    """Nothing, when every source and its longest output fit the model's positions.

    Raises DataError for a source that is empty, too long or has ids outside the vocabulary, and
    RecipeError for a `max_new_tokens` beyond the decoder's positions.
    """
    check_output_length(max_new_tokens, facts=facts)
    limit = facts.max_positions
    room = max_new_tokens if facts.kind == "causal" else 0
    for index, source in enumerate(sources):
        if not len(source):
            raise DataError(
                f"every source must hold at least one token, but number {index + 1} has none"
            )
        if isinstance(source, SourceInputs):
            if facts.max_steps is not None and len(source) > facts.max_steps:
                raise DataError(
                    f"every source must be at most the {facts.max_steps} steps long that the model "
                    f"reads, but number {index + 1} is longer; shorten it"
                )
        elif limit is not None and len(source) + room > limit:
            beside = f" with {room} new ones beside it (max_new_tokens)" if room else ""
            raise DataError(
                f"every source must fit the model's {limit} positions{beside}, but number "
                f"{index + 1}, empty ones not counted, has {len(source)} tokens; shorten it"
                + (", or lower max_new_tokens" if room else "")
                + " (in a recipe: data.max_source_tokens)"
            )
