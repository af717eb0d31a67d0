"""Which weights go, against plain NumPy, and that they stay exactly zero while a model trains."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from scipy.optimize import bisect
from tests.tiny import tiny_model
from torch import Tensor, nn

from seqdistill.compression.pruning import (
    SCHEMES,
    PruningMask,
    Scheme,
    bit_patterns,
    nonzero_count,
    prunable_weights,
    prune,
)
from seqdistill.core.errors import ModelError

SHARES = (0.0, 0.3, 0.5, 0.8, 0.97)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def classes(*, levels: int | None = None) -> dict[str, Float[Tensor, "rows columns"]]:
    """Three matrices of very different spread; with `levels`, of few different magnitudes."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"narrow": (13, 7, 0.02), "wide": (11, 9, 3.0), "middle": (6, 21, 0.4)}
    made = {
        name: spread * torch.randn(rows, columns, generator=generator)
        for name, (rows, columns, spread) in shapes.items()
    }
    if levels is not None:
        made = {name: (weight * levels).round() / levels for name, weight in made.items()}
    return made


def model_of(weights: dict[str, Tensor]) -> nn.Module:
    model = nn.Module()
    for name, weight in weights.items():
        model.register_parameter(name, nn.Parameter(weight.clone()))
    return model


def flat(weights: Iterable[Tensor]) -> Float[np.ndarray, " weights"]:
    """All classes after each other."""
    return np.concatenate([weight.detach().double().numpy().ravel() for weight in weights])


def pruned(scheme: Scheme, weights: dict[str, Tensor], share: float) -> Bool[np.ndarray, " _"]:
    return ~np.concatenate(
        [part.numpy().ravel() for part in SCHEMES[scheme](weights, share).values()]
    )


def earliest_least(weights: Iterable[Tensor], count: int) -> Bool[np.ndarray, " weights"]:
    magnitudes = np.abs(flat(weights))
    least = np.zeros(len(magnitudes), dtype=bool)
    least[np.argsort(magnitudes, kind="stable")[:count]] = True
    return least


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("share", SHARES)
def test_class_blind_and_uniform_prune_what_a_stable_sort_puts_first(
    share: float, levels: int | None
) -> None:
    weights = classes(levels=levels)

    def expected(values: list[Tensor]) -> Bool[np.ndarray, " weights"]:
        numbers = flat(values)
        return earliest_least(values, max(round(share * len(numbers)), int((numbers == 0).sum())))

    found = pruned("class_blind", weights, share)
    np.testing.assert_array_equal(found, expected([*weights.values()]))
    found = pruned("class_uniform", weights, share)
    np.testing.assert_array_equal(found, np.concatenate([expected([w]) for w in weights.values()]))


@pytest.mark.parametrize("share", SHARES[1:])
def test_class_distribution_prunes_below_lambda_deviations_with_lambda_found_by_bisection(
    share: float,
) -> None:
    weights = classes()
    count = round(share * len(flat(weights.values())))

    def below(factor: float) -> Bool[np.ndarray, " weights"]:
        arrays = [flat([weight]) for weight in weights.values()]
        return np.concatenate([np.abs(array) < factor * np.std(array) for array in arrays])

    solved = bisect(lambda factor: below(factor).sum() - count + 0.5, 0.0, 10.0)
    expected = below(solved + 1e-9)  # the count jumps at the root
    assert expected.sum() == count
    np.testing.assert_array_equal(pruned("class_distribution", weights, share), expected)


def test_class_distribution_prunes_a_class_of_equal_weights_last_but_for_zeros() -> None:
    weights = {"equal": torch.full((5, 5), 1e-4), **classes(), "zeros": torch.zeros(4, 4)}
    kept = SCHEMES["class_distribution"](weights, 0.9)
    assert bool(kept["equal"].all()) and not bool(kept["zeros"].any())
    found = pruned("class_distribution", weights, 0.9)
    assert found.sum() == round(0.9 * len(found))


@pytest.mark.parametrize("name", ["mbart", "marian", "t5-untied", "llama-tied", "gpt2"])
@every_scheme
def test_models_lose_the_count_asked_for_from_their_matrices_and_tied_ones_stay_tied(
    name: str, scheme: Scheme
) -> None:
    model, before = tiny_model(name), tiny_model(name)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    mask = prune(model, pruned_share=0.8, scheme=scheme)
    trained = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    assert mask.num_weights == sum(weight.numel() for weight in trained)
    rounding = len(trained) / 2 if scheme == "class_uniform" else 0.5
    assert abs(mask.num_weights * 0.2 - mask.num_kept) <= rounding
    kept = mask.kept()
    assert mask.num_kept == sum(int(part.sum()) for part in kept.values())
    zeros_before = sum(int((before.get_parameter(key) == 0).sum()) for key in kept)
    gone = mask.num_weights - mask.num_kept - zeros_before
    assert nonzero_count(before) - nonzero_count(model) == gone
    for (key, now), was in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, torch.where(kept[key], was, 0.0) if key in kept else was), key
    assert len(kept) == len(trained), "a tied weight is one class"
    assert model.get_output_embeddings().weight is head
    assert model.get_input_embeddings().weight is embedding
    if scheme == "class_uniform":
        assert float((embedding == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


def test_excluded_weights_are_left_alone_under_any_of_their_names() -> None:
    model, before = tiny_model("mbart"), tiny_model("mbart")
    mask = prune(
        model, pruned_share=0.9, scheme="class_blind", exclude=["lm_head.*", "*.fc?.weight"]
    )
    left_out = {"model.shared.weight"} | {
        key for key in prunable_weights(before) if key.endswith(("fc1.weight", "fc2.weight"))
    }
    assert set(mask.densities()) == set(prunable_weights(before)) - left_out
    for key in left_out:
        assert torch.equal(model.get_parameter(key), before.get_parameter(key))
    assert mask.density == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("again", SCHEMES)
@every_scheme
def test_pruning_further_keeps_every_zero_and_asking_for_less_warns(
    scheme: Scheme, again: Scheme, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(classes())
    first = prune(model, pruned_share=0.5, scheme=scheme).kept()
    with torch.no_grad():  # retraining leaves some of the others tiny
        for name, parameter in model.named_parameters():
            parameter.mul_(torch.where(torch.rand_like(parameter) < 0.5, 1e-6, 1.0))
            assert torch.equal(parameter != 0, first[name])
    mask = prune(model, pruned_share=0.8, scheme=again)
    assert not any(bool((mask.kept()[name] & ~first[name]).any()) for name in first)
    if again != "class_uniform":  # a class with more zeros than its share keeps them there
        assert mask.num_weights - mask.num_kept == round(0.8 * mask.num_weights)
        assert not caplog.text
    less = prune(model, pruned_share=0.2, scheme=again)
    assert less.num_kept == mask.num_kept
    assert "were zero already" in caplog.text


def test_what_cannot_be_pruned_is_refused() -> None:
    def refused(message: str, model: nn.Module, *patterns: str) -> None:
        with pytest.raises(ModelError, match=message):
            prune(model, pruned_share=0.5, scheme="class_blind", exclude=patterns)

    model = tiny_model("llama-tied")
    misspelt = "model.embed_token.weight"
    refused(rf"'{misspelt}' matches none; .* Did you", model, misspelt)
    refused("it has none", nn.LayerNorm(4))
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 3] = torch.nan
    refused(r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN", model)


def has_only_positive_zeros(values: Tensor) -> bool:
    return not bool(bit_patterns(values).any())


@pytest.mark.parametrize("optimizer_name", ["AdamW", "SGD", "RMSprop"])
def test_enforced_after_each_update_pruned_weights_and_momentum_are_exactly_zero(
    optimizer_name: str,
) -> None:
    """Updates equal to those of a plain loop: see the tests of training."""
    model = tiny_model("llama-tied").train()
    settings = {"lr": 0.01} | ({} if optimizer_name == "AdamW" else {"momentum": 0.9})
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), **settings)
    mask = PruningMask.of_nothing()
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        if step == 3:  # with momentum from before
            mask = prune(model, pruned_share=0.8, scheme="class_uniform")
            before = copy.deepcopy(model.state_dict())
            mask.zero_gradients()  # there are none yet
        ids = torch.randint(4, 40, (4, 6), generator=generator)
        torch.autograd.backward(model(input_ids=ids, labels=ids).loss)
        gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        kept = mask.kept()
        mask.zero_gradients()
        for key, gradient in gradients.items():
            expected = torch.where(kept[key], gradient, 0.0) if key in kept else gradient
            found = model.get_parameter(key).grad
            assert found is not None and torch.equal(found, expected)
        optimizer.step()
        optimizer.zero_grad()
        if step == 3:
            values = [model.get_parameter(key).detach()[~part] for key, part in kept.items()]
            assert all(part.any() for part in values), "remembered momentum moves them"
        mask.enforce(optimizer)
        for key, part in kept.items():
            weight = model.get_parameter(key)
            assert has_only_positive_zeros(weight.detach()[~part])
            remembered = [s for s in optimizer.state[weight].values() if isinstance(s, Tensor)]
            slots = [slot for slot in remembered if slot.shape == weight.shape]
            assert slots and all(has_only_positive_zeros(slot[~part]) for slot in slots)
    now = model.state_dict()
    assert all(not torch.equal(now[key], before[key]) for key in mask.kept()), "the rest trains"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_mask_zeroes_whatever_is_there_in_whatever_precision(dtype: torch.dtype) -> None:
    model = nn.Linear(8, 8)
    mask = prune(model, pruned_share=0.5, scheme="class_blind")
    assert mask.densities() == {"weight": 0.5}
    model.to(dtype)
    kept = mask.kept()["weight"]
    with torch.no_grad():
        for there in (-1.0, torch.nan, torch.inf):
            model.weight.copy_(torch.where(kept, -2.0, there))
            mask.zero_weights()
            assert has_only_positive_zeros(model.weight.detach()[~kept])
            assert (model.weight[kept] == -2.0).all()


def test_a_stored_mask_knows_pruned_zeros_from_accidental_ones(tmp_path: Path) -> None:
    def of_zeros(model: nn.Module) -> PruningMask:
        return prune(model, pruned_share=0.0, scheme="class_blind")

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
    larger = tiny_model("mbart", vocab_size=64)
    for other, name in ((tiny_model("llama"), "lm_head"), (larger, "model.shared")):
        with pytest.raises(ModelError, match=rf"differs in '{name}\.weight'"):
            mask.load_state_dict(of_zeros(other).state_dict())
