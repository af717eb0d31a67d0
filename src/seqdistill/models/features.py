"""What single layers compute, read by hooks while a model runs: nothing else is kept in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.core.errors import ModelError
from seqdistill.core.families import Stack
from seqdistill.core.features import Layer, Wanted

_LAYERS = ("layers", "block", "h")
_SELF_ATTENTION = ("self_attn", "SelfAttention", "attn", "attention", "self_attention")
_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))
"""What architectures call the layers that make queries, keys and values."""
_PROJECTED = ("queries", "keys", "values")
Found = dict[Layer, dict[str, Tensor]]


def network_of(model: PreTrainedModel, stack: Stack) -> nn.Module:
    """The stack as the model runs it: up to its last hidden states."""
    network: nn.Module = model.base_model
    if model.config.is_encoder_decoder:
        network = model.get_encoder() if stack == "encoder" else model.get_decoder()
    return network


def layers_of(model: PreTrainedModel, stack: Stack) -> nn.ModuleList:
    """Its layers. Raises ModelError for an architecture that keeps them elsewhere."""
    for name, module in network_of(model, stack).named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in _LAYERS:
            return module
    raise ModelError(
        f"A model must keep the layers of its {stack} as one of {', '.join(_LAYERS)}, but "
        f"{type(model).__name__} does not; use another architecture."
    )


@contextlib.contextmanager
def tapped(model: PreTrainedModel, wanted: Wanted) -> Iterator[Found]:
    """Inside the block what the model computes of `wanted` is put into the mapping, with its graph.

    Raises ModelError for what the architecture does not tell.
    """
    found: Found = {layer: {} for layer in wanted}
    with contextlib.ExitStack() as hooks:
        for (stack, number), names in wanted.items():
            layers = layers_of(model, stack)
            for name in names:
                if name != "hidden":
                    module, read = _of_attention(layers[number - 1], name)
                elif number == len(layers):
                    module, read = network_of(model, stack), _last_state
                else:
                    module, read = layers[number - 1], _first
                hooks.callback(_hook(module, found[stack, number], name, read).remove)
        yield found


def _hook(
    module: nn.Module, found: dict[str, Tensor], name: str, read: Callable[[Any], Tensor]
) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found[name] = read(output)

    return module.register_forward_hook(keep)


def _last_state(output: Any) -> Tensor:
    state: Tensor = output.last_hidden_state
    return state


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _of_attention(layer: nn.Module, name: str) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    """The module of a layer whose output tells of its self-attention, and how."""
    modules = ((n.rpartition(".")[2], module) for n, module in layer.named_modules())
    attention = next((module for last, module in modules if last in _SELF_ATTENTION), None)
    if attention is not None and name == "attention":
        return attention, _weights
    children = {} if attention is None else dict(attention.named_children())
    place = _PROJECTED.index(name) if name in _PROJECTED else 0
    for names in _PROJECTIONS:
        if names[place] in children:
            return children[names[place]], _first
    if "c_attn" in children:  # GPT-2 makes all three at once
        return children["c_attn"], lambda output: output.chunk(3, dim=-1)[place]
    raise ModelError(
        f"A model must tell the {name} of its self-attention, but {type(layer).__name__} has "
        f"none by a name that is known; compare hidden states, or use another architecture."
    )


def _weights(output: Any) -> Tensor:
    weights = output[-1] if isinstance(output, tuple) else None
    if not isinstance(weights, Tensor) or weights.ndim != 4:
        raise ModelError(
            "A model must tell the weights of its self-attention, but it gives none beside the "
            "output; compare hidden states or attention_relations, or use another architecture."
        )
    return weights
