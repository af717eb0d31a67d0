"""A narrowed model: what stays is what matters most, and computes what a masked teacher does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import EOS, collator, random_examples, tiny_model
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from transformers import PreTrainedModel

from seqdistill.compression.width import Width, keep_width, role_of
from seqdistill.core.errors import ModelError
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import kind_of

NAMES = ("bart", "mbart", "marian", "t5", "mt5", "llama", "llama-tied", "qwen2", "gemma", "gpt2")
FOUR_HEADS = {
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "num_heads": 4, "n_head": 4},
}
EXAMPLES = random_examples(6)
Values = dict[str, Tensor]
Kept = dict[str, Tensor]


def model_of(name: str) -> PreTrainedModel:
    return tiny_model(name, seed=4, **FOUR_HEADS)


def narrowed(model: PreTrainedModel, width: Width) -> PreTrainedModel:
    """On padded batches of three."""
    batch = collator(kind_of(model))
    return keep_width(model, width, [batch(EXAMPLES[:3]), batch(EXAMPLES[3:])])


@torch.no_grad()
def logits_of(model: PreTrainedModel, example: EncodedExample) -> Tensor:
    if not model.config.is_encoder_decoder:
        ids = torch.tensor([[*example.source_ids, *example.target_ids[:-1]]])
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits
    ids = torch.tensor([[EOS, *example.target_ids[:-1]]])
    source = torch.tensor([example.source_ids])
    logits = model(input_ids=source, decoder_input_ids=ids, use_cache=False).logits
    return logits


def seen(model: PreTrainedModel, chosen: Callable[[str, nn.Module], bool], out: bool) -> Values:
    """What goes into, or comes out of, the chosen modules: one example after another, unpadded."""
    found: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            found.setdefault(path, []).append((output if out else inputs[0])[0])

        return hook

    named = [(path, module) for path, module in model.named_modules() if chosen(path, module)]
    hooks = [module.register_forward_hook(keep(path)) for path, module in named]
    for example in EXAMPLES:
        logits_of(model, example)
    for each in hooks:
        each.remove()
    return {path: torch.cat(tensors).double() for path, tensors in found.items()}


def matrix(model: PreTrainedModel, path: str) -> Tensor:
    module: Any = model.get_submodule(path)
    weight: Tensor = module.weight.detach().double()
    return weight.T if type(module).__name__ == "Conv1D" else weight


def most(values: Tensor, count: int) -> Tensor:
    return torch.tensor(sorted(sorted(range(len(values)), key=lambda i: -float(values[i]))[:count]))


def neurons(model: PreTrainedModel, count: int) -> Kept:
    """By the mean norm of what each adds, an outer product of its activation and its column."""
    kept = {}
    for path, given in seen(model, lambda path, _: role_of(path) == "down", False).items():
        added = given[:, :, None] * matrix(model, path).T[None]
        kept[path] = most(added.norm(dim=-1).mean(dim=0), count)
    return kept


def heads(model: PreTrainedModel, count: int, sharing: int, size: int) -> Kept:
    """Columns of the layers that heads go into."""
    added: Values = {}
    for path, given in seen(model, lambda path, _: role_of(path) == "out", False).items():
        groups = given.shape[1] // (sharing * size)
        each = given.view(len(given), groups, sharing * size)
        weight = matrix(model, path).view(-1, groups, sharing * size)
        added[path] = torch.einsum("tgi,ogi->tgo", each, weight).norm(dim=-1).sum(dim=0)
    if model.config.model_type in ("t5", "mt5"):
        for stack in ("encoder", "decoder"):
            paths = [p for p in added if p.startswith(stack) and "SelfAttention" in p]
            together = torch.stack([added[path] for path in paths]).sum(dim=0)
            added |= dict.fromkeys(paths, together)
    width = sharing * size
    return {
        path: torch.cat(
            [torch.arange(width) + int(g) * width for g in most(values, count // sharing)]
        )
        for path, values in added.items()
    }


def masking(kept: Tensor) -> Any:
    def hook(_module: nn.Module, inputs: Any) -> Any:
        masked = torch.zeros_like(inputs[0])
        masked[..., kept] = inputs[0][..., kept]
        return (masked, *inputs[1:])

    return hook


def masked(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """A copy in which what goes into these layers is zero but for what is kept."""
    copied = copy.deepcopy(model)
    for path, columns in kept.items():
        copied.get_submodule(path).register_forward_pre_hook(masking(columns))
    return copied


def assert_same_logits(one: PreTrainedModel, other: PreTrainedModel) -> None:
    for example in EXAMPLES:
        found, expected = logits_of(one, example), logits_of(other, example)
        near = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=near)


def assert_loads_again(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in loaded.state_dict().items())
    assert_same_logits(loaded, model)  # other addresses may round otherwise


@pytest.mark.parametrize("name", NAMES)
def test_the_neurons_that_add_most_are_kept(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    smaller = narrowed(model, Width(ffn_size=20))
    assert torch.equal(torch.get_rng_state(), state)
    size = 64 if name == "gpt2" else 32
    kept = neurons(model, 20)
    assert {matrix(model, path).shape[1] for path in kept} == {size}
    assert {matrix(smaller, path).shape[1] for path in kept} == {20}
    assert_same_logits(smaller, masked(model, kept))
    assert_loads_again(smaller, tmp_path)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("name", "sharing", "size"),
    [("llama", 2, 8), ("llama-tied", 2, 8), ("qwen2", 2, 4), ("gemma", 2, 8), ("t5", 1, 8)],
)
def test_the_heads_that_add_most_are_kept_with_the_keys_they_share(
    name: str, sharing: int, size: int, tmp_path: Path
) -> None:
    model = model_of(name)
    smaller = narrowed(model, Width(attention_heads=2))
    assert_same_logits(smaller, masked(model, heads(model, 2, sharing, size)))
    assert_loads_again(smaller, tmp_path)


def is_norm(path: str, module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def only(kept: Tensor, module: Any) -> Any:
    """The norm over the kept channels alone."""

    def forward(hidden: Tensor) -> Tensor:
        of_kept, out = hidden[..., kept], torch.zeros_like(hidden)
        weight = module.weight[kept]
        if isinstance(module, nn.LayerNorm):
            normed = layer_norm(of_kept, (len(kept),), weight, module.bias[kept], module.eps)
        else:
            square = of_kept.square().mean(dim=-1, keepdim=True)
            normed = weight * of_kept * torch.rsqrt(square + module.variance_epsilon)
        out[..., kept] = normed
        return out

    return forward


@pytest.mark.parametrize("name", ["llama", "qwen2", "mt5", "bart", "mbart", "marian"])
def test_the_channels_that_norms_make_largest_are_kept(name: str, tmp_path: Path) -> None:
    """With neurons and, where heads share the width out, heads besides."""
    model = model_of(name)
    bart_like = name in ("bart", "mbart", "marian")
    width = Width(ffn_size=24, hidden_size=12, attention_heads=3 if bart_like else None)
    smaller = narrowed(model, width)
    assert smaller.get_input_embeddings().weight.shape[1] == 12
    assert_loads_again(smaller, tmp_path)
    if name == "marian":  # whose table of positions is another one at another width
        return
    sums = [tensor.abs().sum(dim=0) for tensor in seen(model, is_norm, True).values()]
    kept = most(torch.stack(sums).sum(dim=0), 12)
    columns = neurons(model, 24) | (heads(model, 3, 1, 4) if bart_like else {})
    plain = masked(model, columns)
    for path, module in plain.named_modules():
        if is_norm(path, module):
            module.forward = only(kept, module)
    assert_same_logits(smaller, with_channels(plain, kept))


def with_channels(model: PreTrainedModel, kept: Tensor) -> PreTrainedModel:
    """Nothing is embedded in, or added to, the other channels; the head reads none of them."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        out = torch.zeros_like(output)
        out[..., kept] = output[..., kept]
        return out

    for path, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding) and module.embedding_dim == 16
        if is_table or role_of(path) in ("down", "out"):
            module.register_forward_hook(hook)
    return model


@pytest.mark.parametrize(
    ("name", "width", "told"),
    [
        (
            "llama",
            Width(ffn_size=33),
            "student.ffn_size must be at most the teacher's 32, but is 33",
        ),
        ("llama", Width(attention_heads=3), "must be a multiple of the 2 heads that share keys"),
        ("bart", Width(attention_heads=2), "must be 4 times student.attention_heads for bart"),
        ("marian", Width(hidden_size=12), r"are 12 and 4; set student\.hidden_size=16"),
        ("gpt2", Width(hidden_size=12, attention_heads=3), "must be as those of Llama, BART or T5"),
    ],
)
def test_what_cannot_be_cut_is_refused(name: str, width: Width, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        narrowed(model_of(name), width)


def test_models_of_layers_unlike_each_other_are_refused() -> None:
    model = tiny_model("bart", encoder_ffn_dim=24)
    with pytest.raises(ModelError, match=r"one feed-forward size .* has \[24, 32\]"):
        narrowed(model, Width(ffn_size=8))
