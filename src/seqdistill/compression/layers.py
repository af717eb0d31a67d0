"""A smaller model of copies of some of a larger one's layers: same width and vocabulary."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqdistill.core.errors import ModelError
from seqdistill.models.architectures import auto_class

# Configuration keys for the depth of each stack, by architecture.
_ENCODER_KEYS = ("encoder_layers", "num_layers")
_DECODER_KEYS = ("decoder_layers", "num_decoder_layers")
_LAYER_DROP_KEYS = ("encoder_layerdrop", "decoder_layerdrop", "layerdrop")
_STACKED = re.compile(r"^(?P<stack>.*?\b(?:layers|block|h))\.(?P<index>\d+)\.(?P<rest>.+)$")


def evenly_spaced(total: int, keep: int) -> tuple[int, ...]:
    """Which of `total` layers to keep: `keep` of them, evenly spaced, the first and last included.

    One kept layer is the first, which in T5 also holds the position bias of the whole stack.
    Raises ModelError unless 1 <= keep <= total.

    Source: Shleifer and Rush 2020, sec. 3.2 (shrink and fine-tune).
    """
    if not 1 <= keep <= total:
        raise ModelError(
            f"A student can keep from 1 to {total} of the teacher's {total} layers, but {keep} "
            "were asked for; change student.encoder_layers or student.decoder_layers."
        )
    if keep == 1:
        return (0,)
    return tuple(round(i * (total - 1) / (keep - 1)) for i in range(keep))


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model's parameters hold, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def keep_layers(
    model: PreTrainedModel, *, encoder_layers: int | None, decoder_layers: int | None
) -> PreTrainedModel:
    """A new fp32 model with copies of evenly spaced layers; None keeps a whole stack.

    A model that was trained with layers dropped at random (Fan et al. 2020) is ready to lose some;
    the copy drops no more of them while it trains. Decoder-only models have `decoder_layers`
    alone.

    Raises ModelError for more layers than there are, or for an encoder that does not exist.
    """
    config = copy.deepcopy(model.config)
    if config.is_encoder_decoder:
        kept = {
            "encoder": _shorten(config, _ENCODER_KEYS, encoder_layers),
            "decoder": _shorten(config, _DECODER_KEYS, decoder_layers),
        }
    else:
        if encoder_layers is not None:
            raise ModelError(
                f"student.encoder_layers is for encoder-decoder models, but {config.model_type} "
                "has no encoder; set student.decoder_layers alone."
            )
        kept = {"decoder": _shorten(config, ("num_hidden_layers",), decoder_layers)}
    for key in _LAYER_DROP_KEYS:
        if key in config.to_dict():
            setattr(config, key, 0.0)
    smaller = random_like(model, config)
    smaller.load_state_dict(_renumbered(model.state_dict(), kept))
    return smaller


def random_like(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """An fp32 model of that configuration, in eval mode, its weights random, that generates as
    `model` does."""
    with torch.random.fork_rng():
        made: PreTrainedModel = auto_class(config).from_config(config, dtype=torch.float32)
    _untie_like(model, made)
    if model.generation_config is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    return made.eval()


def _untie_like(model: PreTrainedModel, smaller: PreTrainedModel) -> None:
    """Gives `smaller` an output layer of its own where `model` has one.

    The configuration does not tell: transformers 5 says of every T5 that its embeddings are tied,
    and loads an output layer of its own all the same where the folder holds one.
    """
    head, embedding = smaller.get_output_embeddings(), smaller.get_input_embeddings()
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if head.weight is embedding.weight and not is_tied:
        head.weight = nn.Parameter(embedding.weight.detach().clone())


def _shorten(config: PreTrainedConfig, keys: tuple[str, ...], keep: int | None) -> tuple[int, ...]:
    """The kept indices of one stack; the configuration is changed to their number."""
    key = next((key for key in keys if isinstance(getattr(config, key, None), int)), None)
    if key is None:
        raise ModelError(
            f"The configuration of {config.model_type} must name its number of layers as one of "
            f"{', '.join(keys)}, but it has none of them; use student.init: pretrained."
        )
    total = int(getattr(config, key))
    chosen = evenly_spaced(total, total if keep is None else keep)
    setattr(config, key, len(chosen))
    layer_types = getattr(config, "layer_types", None)
    if isinstance(layer_types, list) and len(layer_types) == total:
        config.layer_types = [layer_types[i] for i in chosen]
    return chosen


def _renumbered(weights: dict[str, Tensor], kept: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights of the kept layers under their new numbers, and all that is in no layer."""
    renumbered: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        found = _STACKED.match(name)
        if found is None:
            renumbered[name] = tensor
            continue
        stack = "encoder" if "encoder" in found["stack"].split(".") else "decoder"
        index = int(found["index"])
        if index in kept[stack]:
            renumbered[f"{found['stack']}.{kept[stack].index(index)}.{found['rest']}"] = tensor
    return renumbered
