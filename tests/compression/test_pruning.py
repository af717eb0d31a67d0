"""Which weights go: the three schemes against plain NumPy, exact counts, tied weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float
from scipy.optimize import bisect
from tests.tiny import tiny_model
from torch import Tensor, nn

from seqdistill.compression.pruning import SCHEMES, Scheme, prune
from seqdistill.compression.pruning_mask import nonzero_count, prunable_weights
from seqdistill.core.errors import ModelError

_SCHEMES: tuple[Scheme, ...] = tuple(SCHEMES)
_EVERY_SCHEME = pytest.mark.parametrize("scheme", _SCHEMES)
_MODELS = pytest.mark.parametrize("name", ["mbart", "marian", "t5-untied", "llama-tied", "gpt2"])


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


def pruned(kept: dict[str, Bool[Tensor, "*_shape"]]) -> Bool[np.ndarray, " weights"]:
    """All classes after each other."""
    return np.concatenate([~part.numpy().ravel() for part in kept.values()])


def flat(weights: Iterable[Tensor]) -> Float[np.ndarray, " weights"]:
    return np.concatenate([weight.detach().double().numpy().ravel() for weight in weights])


def earliest_least(magnitudes: Float[np.ndarray, " weights"], count: int) -> set[int]:
    return set(np.argsort(magnitudes, kind="stable")[:count].tolist())


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.97])
def test_class_blind_prunes_what_a_stable_sort_puts_first(share: float, levels: int | None) -> None:
    weights = classes(levels=levels)
    magnitudes = np.abs(flat(weights.values()))
    zeros = int((magnitudes == 0).sum())
    found = pruned(SCHEMES["class_blind"](weights, share))
    expected = max(round(share * len(magnitudes)), zeros)
    assert set(np.flatnonzero(found).tolist()) == earliest_least(magnitudes, expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.97])
def test_class_uniform_prunes_the_same_share_of_every_class(share: float) -> None:
    weights = classes()
    kept = SCHEMES["class_uniform"](weights, share)
    for name, weight in weights.items():
        found = set(np.flatnonzero(~kept[name].numpy().ravel()).tolist())
        assert found == earliest_least(np.abs(flat([weight])), round(share * weight.numel()))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.97])
def test_class_distribution_prunes_below_lambda_deviations_with_lambda_found_by_bisection(
    share: float,
) -> None:
    weights = classes()
    total = sum(weight.numel() for weight in weights.values())

    def below(factor: float) -> Bool[np.ndarray, " weights"]:
        return np.concatenate(
            [
                np.abs(flat([weight])) < factor * np.std(flat([weight]))
                for weight in weights.values()
            ]
        )

    solved = bisect(lambda factor: below(factor).sum() - round(share * total) + 0.5, 0.0, 10.0)
    expected = below(solved + 1e-9)  # the count jumps at the root
    assert expected.sum() == round(share * total)
    np.testing.assert_array_equal(pruned(SCHEMES["class_distribution"](weights, share)), expected)


@_MODELS
@_EVERY_SCHEME
def test_models_lose_the_count_asked_for_from_their_matrices_alone(
    name: str, scheme: Scheme
) -> None:
    model, before = tiny_model(name), tiny_model(name)
    mask = prune(model, pruned_share=0.8, scheme=scheme)
    trained = {
        parameter.data_ptr(): parameter
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.ndim > 1
    }
    assert mask.num_weights == sum(weight.numel() for weight in trained.values())
    rounding = len(trained) / 2 if scheme == "class_uniform" else 0.5
    assert abs(mask.num_weights * 0.2 - mask.num_kept) <= rounding
    assert mask.num_kept == sum(int((weight != 0).sum()) for weight in trained.values())
    kept = mask.kept()
    zeros_before = sum(int((before.get_parameter(key) == 0).sum()) for key in kept)
    gone = mask.num_weights - mask.num_kept - zeros_before
    assert nonzero_count(before) - nonzero_count(model) == gone
    for (key, now), was in zip(model.named_parameters(), before.parameters(), strict=True):
        expected = torch.where(kept[key], was, 0.0) if key in kept else was
        assert torch.equal(now, expected), key
    assert len(kept) == len(trained)


@_MODELS
def test_a_tied_weight_is_one_class_and_stays_tied(name: str) -> None:
    model = tiny_model(name)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    is_tied = embedding is head
    classes_of_both = {
        id(parameter)
        for parameter in prunable_weights(model).values()
        if parameter is embedding or parameter is head
    }
    names_of_both = {
        key
        for key, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is embedding or parameter is head
    }
    mask = prune(model, pruned_share=0.8, scheme="class_uniform")
    assert len(names_of_both & set(mask.kept())) == len(classes_of_both) == (1 if is_tied else 2)
    assert model.get_output_embeddings().weight is head
    assert (model.get_input_embeddings().weight is head) == is_tied
    assert float((embedding == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


def test_patterns_exclude_a_tied_weight_under_any_of_its_names() -> None:
    model, before = tiny_model("mbart"), tiny_model("mbart")
    mask = prune(
        model, pruned_share=0.9, scheme="class_blind", exclude=["lm_head.*", "*.fc?.weight"]
    )
    assert "model.shared.weight" in prunable_weights(before)
    left_out = {"model.shared.weight"} | {
        key for key in prunable_weights(before) if key.endswith(("fc1.weight", "fc2.weight"))
    }
    assert set(mask.densities()) == set(prunable_weights(before)) - left_out
    for key in left_out:
        assert torch.equal(model.get_parameter(key), before.get_parameter(key))
    assert mask.density == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("again", _SCHEMES)
@_EVERY_SCHEME
def test_pruning_further_keeps_every_zero(scheme: Scheme, again: Scheme) -> None:
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


def test_class_distribution_prunes_a_class_of_equal_weights_last_but_for_zeros() -> None:
    weights = {"equal": torch.full((5, 5), 1e-4), **classes(), "zeros": torch.zeros(4, 4)}
    kept = SCHEMES["class_distribution"](weights, 0.9)
    assert bool(kept["equal"].all()) and not bool(kept["zeros"].any())
    assert pruned(kept).sum() == round(0.9 * len(pruned(kept)))


def test_what_cannot_be_pruned_is_refused() -> None:
    def refused(message: str, model: nn.Module, share: float = 0.5, *patterns: str) -> None:
        with pytest.raises(ModelError, match=message):
            prune(model, pruned_share=share, scheme="class_blind", exclude=patterns)

    model = tiny_model("llama-tied")
    for share in (-0.1, 1.0, float("nan")):
        refused("at least 0 and below 1", model, share)
    refused(r"'model\.embed_token\.weight' matches none; .* Did you", model, 0.5,
            "model.embed_token.weight")  # fmt: skip
    refused(r"\*norm\*", model, 0.5, "*norm*")  # no matrix
    refused("every one is excluded", model, 0.5, "*")
    refused("it has none", nn.LayerNorm(4))
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 3] = torch.nan
    refused(r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN", model)


def test_asking_for_less_than_what_is_pruned_changes_nothing_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = model_of(classes())
    before = prune(model, pruned_share=0.8, scheme="class_blind")
    after = prune(model, pruned_share=0.4, scheme="class_blind")
    assert after.num_kept == before.num_kept
    assert "were zero already" in caplog.text
