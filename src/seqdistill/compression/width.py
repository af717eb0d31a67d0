"""A narrower model of a larger one's weights: fewer neurons, attention heads, hidden channels.

What is kept adds most to the residual stream on some sequences. As deep as before; weights that
stay are not changed, so the model is to be trained.

Source: Muralidharan et al. 2024 (Minitron), sec. 2.2, importance from activations.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seqdistill.compression.layers import random_like
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.models.dropout import evaluation_mode

Role = Literal["up", "down", "query", "key_value", "out"]
_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("fc1", "gate_proj", "up_proj", "wi", "wi_0", "wi_1", "mlp.c_fc"), "up"),
    **dict.fromkeys(("fc2", "down_proj", "wo", "mlp.c_proj"), "down"),
    **dict.fromkeys(("q_proj", "q"), "query"),
    **dict.fromkeys(("k_proj", "v_proj", "k", "v"), "key_value"),
    **dict.fromkeys(("o_proj", "out_proj", "o"), "out"),
}
_FFN_KEYS = ("encoder_ffn_dim", "decoder_ffn_dim", "intermediate_size", "d_ff", "n_inner")
_HEAD_KEYS = (
    *("encoder_attention_heads", "decoder_attention_heads"),
    *("num_attention_heads", "num_heads", "n_head"),
)
_WIDTH_KEYS = ("d_model", "hidden_size", "n_embd")
Kept = Int[Tensor, " kept"]


@dataclasses.dataclass(frozen=True)
class Width:
    """How much is kept of each layer; None, all of it."""

    ffn_size: int | None = None
    attention_heads: int | None = None
    hidden_size: int | None = None


def keep_width(
    model: PreTrainedModel, width: Width, batches: Iterable[SequenceBatch]
) -> PreTrainedModel:
    """A new fp32 model, on the CPU, that keeps what matters most on `batches`, with its weights.

    A neuron's importance is the mean norm of what it adds to the residual stream, and so is that of
    heads, which leave together with the keys and values that they share; a channel's is the mean
    size of what norms make of it. Only real tokens count. Heads keep their width. Neurons and heads
    are chosen layer by layer, the heads of T5, which share a bias of positions, for a whole stack.

    Raises ModelError for more than there is, for heads that cannot leave by themselves, and for
    architectures whose layers have other names.
    """
    shapes = _Shapes.of(model)
    shapes.check(width)
    scores = _scores(model, shapes, batches)
    kept = _kept(scores, shapes, width)
    smaller = _made(model, shapes, width)
    state = {name: _cut(name, tensor, model, shapes, kept) for name, tensor in _stored(model)}
    wanted = smaller.state_dict()
    for name, tensor in state.items():
        if name not in wanted or wanted[name].shape != tensor.shape:
            found = f"{name!r} would be {tuple(tensor.shape)}"
            raise ModelError(
                f"The layers of a model whose width is cut must be as those of Llama, BART or T5, "
                f"but in {type(model).__name__} {found}; keep its width."
            )
    smaller.load_state_dict(state, strict=False)  # but for tables of sinusoids
    return smaller


def role_of(path: str) -> Role | None:
    """What a linear layer of that name does; None for one that is neither attention nor FFN."""
    words = path.split(".")
    return _ROLES.get(".".join(words[-2:])) or _ROLES.get(words[-1])


@dataclasses.dataclass(frozen=True)
class _Shapes:
    """How wide a model is."""

    model_type: str
    hidden: int
    ffn: int
    heads: int
    head_width: int
    sharing: int
    """How many query heads share keys and values."""
    is_free: bool
    """Whether the width of heads is a number of its own, or the hidden width shared out."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Shapes:
        config = model.config
        hidden = int(config.hidden_size)
        heads = int(config.num_attention_heads)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
        is_free = hasattr(config, "num_key_value_heads") or hasattr(config, "d_kv")
        own = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
        down = [m for path, m in model.named_modules() if role_of(path) == "down"]
        sizes = {_matrix(module).shape[1] for module in down}
        known = config.to_dict()
        numbers = {known[key] for key in _HEAD_KEYS if key in known}
        for what, found in (("feed-forward size", sizes), ("number of heads", numbers)):
            if len(found) != 1:
                raise ModelError(
                    f"A model whose width is cut must have one {what} in all layers, by a name "
                    f"that is known, but {type(model).__name__} has {sorted(found) or 'none'}; "
                    "keep its width."
                )
        width, (ffn,) = int(own or hidden // heads), sizes
        return cls(config.model_type, hidden, ffn, heads, width, heads // groups, is_free)

    def check(self, width: Width) -> None:
        """Raises ModelError for a width that this model cannot be cut to."""
        for name, wanted, there in (
            ("ffn_size", width.ffn_size, self.ffn),
            ("attention_heads", width.attention_heads, self.heads),
            ("hidden_size", width.hidden_size, self.hidden),
        ):
            if wanted is not None and wanted > there:
                raise ModelError(
                    f"student.{name} must be at most the teacher's {there}, but is {wanted}; "
                    "lower it."
                )
        heads = width.attention_heads or self.heads
        if heads % self.sharing:
            raise ModelError(
                f"student.attention_heads must be a multiple of the {self.sharing} heads that "
                f"share keys and values in the teacher, but is {heads}; change it."
            )
        hidden = width.hidden_size or self.hidden
        if not self.is_free and hidden != heads * self.head_width:
            raise ModelError(
                f"student.hidden_size must be {self.head_width} times student.attention_heads for "
                f"{self.model_type}, whose heads keep their width and share the hidden one out, "
                f"but they are {hidden} and {heads}; set student.hidden_size="
                f"{heads * self.head_width}."
            )


def _matrix(module: nn.Module) -> Tensor:
    """(out, in), whatever way the layer stores it."""
    weight = module.get_parameter("weight").detach()
    return weight.T if isinstance(module, Conv1D) else weight


def _is_norm(module: nn.Module, hidden: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and tuple(weight.shape) == (hidden,)


@torch.no_grad()
def _scores(
    model: PreTrainedModel, shapes: _Shapes, batches: Iterable[SequenceBatch]
) -> dict[str, Tensor]:
    """Importance: of neurons and of groups of heads by the path of the layer that they go into, of
    channels by the empty path. Sums over real tokens, in fp64."""
    scores: dict[str, Tensor] = {}
    masks: dict[bool, Tensor] = {}

    def add(path: str, values: Callable[[Tensor], Tensor], given: Tensor) -> None:
        mask = masks["encoder" in path.split(".")]
        found = values(given[mask].float()).double().sum(dim=0).cpu()
        place = "" if _is_norm(modules[path], shapes.hidden) else path
        scores[place] = scores.get(place, torch.zeros_like(found)) + found

    def of_neurons(path: str) -> Callable[[Tensor], Tensor]:
        norms = _matrix(modules[path]).float().norm(dim=0)
        return lambda given: given.abs() * norms

    def of_heads(path: str) -> Callable[[Tensor], Tensor]:
        size = shapes.sharing * shapes.head_width
        parts = torch.split(_matrix(modules[path]).float(), size, dim=1)

        def added(given: Tensor) -> Tensor:
            pairs = zip(torch.split(given, size, dim=1), parts, strict=True)
            return torch.stack([(each @ part.T).norm(dim=1) for each, part in pairs], dim=1)

        return added

    modules, adapter = dict(model.named_modules()), SequenceModel(model)
    with contextlib.ExitStack() as hooks:
        for path, module in modules.items():
            if (role := role_of(path)) in ("down", "out") and hasattr(module, "weight"):
                values = of_neurons(path) if role == "down" else of_heads(path)
                before = _before(add, path, values)
                hooks.callback(module.register_forward_pre_hook(before).remove)
            elif _is_norm(module, shapes.hidden):
                hooks.callback(module.register_forward_hook(_after(add, path)).remove)
        with evaluation_mode(model):
            for batch in batches:
                placed = batch.to(model.device)
                masks[False] = placed.decoder_mask
                if placed.source is not None:
                    masks[True] = placed.source.mask
                hidden_states(adapter, placed)
    return scores


Add = Callable[[str, Callable[[Tensor], Tensor], Tensor], None]


def _before(add: Add, path: str, values: Callable[[Tensor], Tensor]) -> Any:
    return lambda _module, inputs: add(path, values, inputs[0])


def _after(add: Add, path: str) -> Any:
    return lambda _module, _inputs, output: add(path, torch.abs, output)


def _kept(scores: Mapping[str, Tensor], shapes: _Shapes, width: Width) -> dict[str, Kept]:
    """The indices that stay: of neurons and groups by the path of what holds their layers."""
    kept: dict[str, Kept] = {}
    if width.hidden_size is not None:
        kept[""] = _most(scores[""], width.hidden_size)
    stacks: dict[bool, Tensor] = {}
    for path, found in scores.items():
        if path.endswith(".SelfAttention.o"):
            in_encoder = "encoder" in path.split(".")
            stacks[in_encoder] = stacks.get(in_encoder, torch.zeros_like(found)) + found
    for path, found in scores.items():
        role, holder = role_of(path), path.rpartition(".")[0]
        if role == "down" and width.ffn_size is not None:
            kept[f"{holder}/ffn"] = _most(found, width.ffn_size)
        if role == "out" and width.attention_heads is not None:
            if path.endswith(".SelfAttention.o"):
                found = stacks["encoder" in path.split(".")]
            kept[f"{holder}/heads"] = _most(found, width.attention_heads // shapes.sharing)
    return kept


def _most(scores: Tensor, count: int) -> Kept:
    """The indices of the largest, in order; of equal ones the first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def _stored(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        holder = model.get_submodule(name.rpartition(".")[0])
        if "Sinusoidal" not in type(holder).__name__:  # of another width it is another table
            yield name, tensor.detach().to("cpu", torch.float32)


def _cut(
    name: str,
    tensor: Tensor,
    model: PreTrainedModel,
    shapes: _Shapes,
    kept: Mapping[str, Kept],
) -> Tensor:
    """What stays of a stored tensor."""
    path, _, leaf = name.rpartition(".")
    module, holder, role = model.get_submodule(path), path.rpartition(".")[0], role_of(path)
    hidden, neurons, groups = (kept.get(key) for key in ("", f"{holder}/ffn", f"{holder}/heads"))
    rows: Kept | None
    columns: Kept | None
    if role is None:
        if "relative_attention_bias" in path:
            return _at(tensor, 1, groups)
        is_table = isinstance(module, nn.Embedding) or module is model.get_output_embeddings()
        if is_table and leaf == "weight":
            return _at(tensor, 1, hidden)
        return _at(tensor, 0, hidden) if _is_norm(module, shapes.hidden) else tensor
    of_groups = _spread(groups, shapes.head_width)
    of_queries = _spread(groups, shapes.sharing * shapes.head_width)
    rows, columns = {
        "up": (neurons, hidden),
        "down": (hidden, neurons),
        "query": (of_queries, hidden),
        "key_value": (of_groups, hidden),
        "out": (hidden, of_queries),
    }[role]
    if tensor.ndim == 1:
        return _at(tensor, 0, rows)
    if isinstance(module, Conv1D):
        rows, columns = columns, rows
    return _at(_at(tensor, 0, rows), 1, columns)


def _at(tensor: Tensor, dim: int, kept: Kept | None) -> Tensor:
    return tensor if kept is None else tensor.index_select(dim, kept)


def _spread(kept: Kept | None, size: int) -> Kept | None:
    """The rows of the kept blocks, each of `size` rows."""
    if kept is None:
        return None
    return (kept[:, None] * size + torch.arange(size)).flatten()


def _made(model: PreTrainedModel, shapes: _Shapes, width: Width) -> PreTrainedModel:
    """A model of that shape, its weights random."""
    config = copy.deepcopy(model.config)
    heads = width.attention_heads
    changed: list[tuple[Sequence[str], int | None]] = [
        (_FFN_KEYS, width.ffn_size),
        (_WIDTH_KEYS, width.hidden_size),
        (_HEAD_KEYS, heads),
        (("num_key_value_heads",), heads and heads // shapes.sharing),
    ]
    known = config.to_dict()
    for keys, value in changed:
        for key in keys if value is not None else ():
            if key in known:
                setattr(config, key, value)
    if hasattr(config, "num_key_value_heads"):
        config.head_dim = shapes.head_width
    return random_like(model, config)
