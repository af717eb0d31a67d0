"""Dropout of a transformers model: sets every rate of it, and tells whether there is any.

Architectures keep rates in dropout layers, in plain attributes of other layers
(`attention_dropout`, `activation_dropout`) and in configurations, some of which are read anew at
every pass. A rate is known here by its name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig, PreTrainedModel

# attention_dropout, attn_pdrop, dropout_rate, hidden_dropout_prob, ...
_DROPOUT = re.compile(r"dropout|pdrop|^drop$")
# Whole layers or paths left out by chance.
_LAYER_DROP = re.compile(r"layer_?drop|drop_?path|drop_prob")
_BY_CHANCE = re.compile(f"{_DROPOUT.pattern}|{_LAYER_DROP.pattern}")
# Noise on what a router of experts reads: the name in layers, and in their configuration. Some
# layers keep a number of the latter name that is no chance but part of what they compute.
_NOISE, _NOISE_IN_CONFIGURATION = "jitter_noise", "router_jitter_noise"
# Heads that classify: configurations of language models, which have none, give them rates too.
_OF_CLASSIFIERS = re.compile(r"classif|summary|pooler")


def set_dropout(model: PreTrainedModel, rate: float) -> None:
    """Every dropout rate in the model's layers and configurations becomes `rate`, in place.

    At 0 nothing is left to chance: the leaving out of whole layers (`layerdrop`) and noise in
    routers of experts end too. At other rates those stay as they are: they drop no activations.
    """
    noisy = any(_NOISE in vars(module) for module in model.modules())
    noises = (_NOISE, _NOISE_IN_CONFIGURATION) if noisy else ()
    for holder, name, _ in _numbers(model):
        is_dropout = isinstance(holder, _DropoutNd) or _DROPOUT.search(name)
        if is_dropout or (rate == 0.0 and (_LAYER_DROP.search(name) or name in noises)):
            setattr(holder, name, rate)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block; afterwards every submodule is in the mode it was in."""
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in were_training:
            module.training = True


def has_dropout(model: nn.Module) -> bool:
    """Whether passes in training and in evaluation mode can differ: some rate is above 0.

    Layers left out by chance and noise in routers count as well as dropout, and so do layers that
    were put into the model later, such as LoRA's. Rates that a configuration gives to heads for
    classification do not, where the model has no such layer.
    """
    return any(
        number > 0.0
        and (isinstance(holder, _DropoutNd) or name == _NOISE or _BY_CHANCE.search(name))
        and not (isinstance(holder, PreTrainedConfig) and _OF_CLASSIFIERS.search(name))
        for holder, name, number in _numbers(model)
    )


def _numbers(model: nn.Module) -> Iterator[tuple[nn.Module | PreTrainedConfig, str, float]]:
    """Every number in [0, 1) that a layer or configuration of the model holds, with its name."""
    modules = list(model.modules())
    configs: dict[int, PreTrainedConfig] = {}
    for module in modules:
        _collect(vars(module).get("config"), configs)
    for holder in (*modules, *configs.values()):
        for name, value in list(vars(holder).items()):
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
                yield holder, name, float(value)


def _collect(found: object, configs: dict[int, PreTrainedConfig]) -> None:
    """Adds a configuration and those inside it."""
    if isinstance(found, PreTrainedConfig) and id(found) not in configs:
        configs[id(found)] = found
        for inner in vars(found).values():
            _collect(inner, configs)
