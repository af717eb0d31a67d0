"""Pruned weights stay at exactly zero while the model trains, whatever the optimizer remembers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.compression.pruning import prune
from seqdistill.compression.pruning_mask import PruningMask
from seqdistill.core.errors import ModelError

MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

_OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


def of_zeros(model: nn.Module) -> PruningMask:
    """The mask that prunes what is zero already."""
    return prune(model, pruned_share=0.0, scheme="class_blind")


def loss_of(model: PreTrainedModel, ids: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
    named = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    logits = model(input_ids=ids, use_cache=False, **named).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1, dims=1).flatten())


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    mask: PruningMask | None = None,
) -> None:
    """One update on random ids: a different batch at each step."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(4, 40, (4, 6), generator=generator)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss_of(model, ids))
    if mask is not None:
        mask.zero_gradients()
    optimizer.step()


def pruned_values(mask: PruningMask, model: nn.Module) -> Tensor:
    return torch.cat(
        [model.get_parameter(name).detach()[~kept] for name, kept in mask.kept().items()]
    )


def has_only_positive_zeros(values: Tensor) -> bool:
    return not bool(values.view(torch.int32).any())


@pytest.mark.parametrize(
    ("name", "optimizer_name"),
    [("mbart", "adamw-fused"), ("t5", "adamw"), *(("llama-tied", o) for o in sorted(_OPTIMIZERS))],
)
def test_enforced_after_each_update_pruned_weights_and_momentum_are_exactly_zero(
    name: str, optimizer_name: str
) -> None:
    model = tiny_model(name).train()
    optimizer = _OPTIMIZERS[optimizer_name](model.parameters())
    for step in range(3):  # momentum from before the pruning
        update(model, optimizer, step)
    mask = prune(model, pruned_share=0.8, scheme="class_uniform")
    before = copy.deepcopy(model.state_dict())
    for step in range(3, 6):
        update(model, optimizer, step)
        assert bool(pruned_values(mask, model).any()), "without the mask they would move"
        mask.enforce(optimizer)
        assert has_only_positive_zeros(pruned_values(mask, model))
        for key, kept in mask.kept().items():
            weight = model.get_parameter(key)
            remembered = [s for s in optimizer.state[weight].values() if isinstance(s, Tensor)]
            slots = [slot for slot in remembered if slot.shape == weight.shape]
            assert bool(slots) == (optimizer_name != "sgd")
            assert all(has_only_positive_zeros(slot[~kept]) for slot in slots)
    moved = [key for key, was in before.items() if not torch.equal(model.state_dict()[key], was)]
    assert set(mask.kept()) <= set(moved), "what is kept must train"


@pytest.mark.parametrize("optimizer_name", ["adamw", "momentum", "sgd"])
def test_kept_weights_train_as_if_the_others_were_constants(optimizer_name: str) -> None:
    torch.manual_seed(2)
    start, inputs, targets = torch.randn(6, 5), torch.randn(9, 5), torch.randn(9, 6)
    model = nn.Linear(5, 6, bias=False)
    with torch.no_grad():
        model.weight.copy_(start)
    mask = prune(model, pruned_share=0.5, scheme="class_blind")
    kept = mask.kept()["weight"]
    # The other way to say it: a vector of the kept weights alone, put in their places.
    vector = nn.Parameter(start[kept].clone())
    optimizer = _OPTIMIZERS[optimizer_name](model.parameters())
    of_vector = _OPTIMIZERS[optimizer_name](iter([vector]))
    for _ in range(8):
        optimizer.zero_grad()
        torch.autograd.backward((inputs @ model.weight.T - targets).square().mean())
        optimizer.step()
        mask.enforce(optimizer)
        of_vector.zero_grad()
        placed = torch.zeros(6, 5).masked_scatter(kept, vector)
        torch.autograd.backward((inputs @ placed.T - targets).square().mean())
        of_vector.step()
        torch.testing.assert_close(model.weight[kept], vector, rtol=0, atol=1e-6)


def test_gradients_of_kept_weights_and_of_biases_are_left_alone() -> None:
    model = tiny_model("mbart")
    mask = prune(model, pruned_share=0.8, scheme="class_blind")
    mask.zero_gradients()  # there are none yet
    ids = torch.arange(4, 12)[None]
    torch.autograd.backward(loss_of(model, ids))
    before = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    mask.zero_gradients()
    kept = mask.kept()
    for key, gradient in before.items():
        expected = torch.where(kept[key], gradient, 0.0) if key in kept else gradient
        found = model.get_parameter(key).grad
        assert found is not None
        assert torch.equal(found, expected)


def test_zeroing_fixes_what_a_product_with_zero_would_not() -> None:
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]))
    mask = of_zeros(model)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, torch.nan, 2.0], [-4.0, torch.inf, 3.0]]))
    mask.zero_weights()
    assert model.weight.tolist() == [[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]
    assert has_only_positive_zeros(pruned_values(mask, model))


def test_a_stored_mask_knows_pruned_zeros_from_accidental_ones(tmp_path: Path) -> None:
    model = tiny_model("mbart")
    mask = prune(model, pruned_share=0.77, scheme="class_blind")
    save_file(mask.state_dict(), tmp_path / "mask.safetensors")
    key, kept = next(iter(mask.kept().items()))
    with torch.no_grad():  # an update that ends at zero
        model.get_parameter(key)[tuple(kept.nonzero()[0])] = 0.0
    again = of_zeros(model)
    assert again.num_kept == mask.num_kept - 1
    again.load_state_dict(load_file(tmp_path / "mask.safetensors"))
    assert all(torch.equal(again.kept()[key], kept) for key, kept in mask.kept().items())
    stored = sum(bits.nbytes for bits in mask.state_dict().values())
    assert stored <= mask.num_weights / 8 + len(mask.kept())


def test_a_stored_mask_of_another_model_is_refused() -> None:
    mask = of_zeros(tiny_model("mbart"))
    with pytest.raises(ModelError, match=r"differs in 'lm_head\.weight'"):
        mask.load_state_dict(of_zeros(tiny_model("llama")).state_dict())
    larger = of_zeros(tiny_model("mbart", vocab_size=64))
    with pytest.raises(ModelError, match=r"differs in 'model\.shared\.weight'"):
        mask.load_state_dict(larger.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_mask_follows_a_model_that_changes_its_precision(dtype: torch.dtype) -> None:
    model = nn.Linear(8, 8)
    mask = prune(model, pruned_share=0.5, scheme="class_blind")
    assert mask.densities() == {"weight": 0.5}
    model.to(dtype)
    with torch.no_grad():
        model.weight.fill_(-1.0)
    mask.zero_weights()
    assert torch.equal(model.weight != 0, mask.kept()["weight"])
    assert int((model.weight == -1).sum()) == 32
