"""Named streams: the same everywhere, independent of each other and of torch's own state."""

from __future__ import annotations

import hashlib

import pytest
import torch

from seqdistill.core.generators import derived_seed, named_generator


def draws(seed: int, name: str, count: int = 4000) -> torch.Tensor:
    return torch.randn(count, generator=named_generator(seed, name))


@pytest.mark.parametrize(("seed", "name"), [(1, "dropout"), (2, "batches"), (1, "batches ")])
def test_another_seed_or_name_gives_an_unrelated_stream(seed: int, name: str) -> None:
    pair = torch.stack([draws(1, "batches"), draws(seed, name)])
    # 4,000 independent pairs: a correlation of 0.1 is more than six standard deviations.
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.1


def test_drawing_from_one_stream_moves_no_other() -> None:
    one, other = named_generator(7, "one"), named_generator(7, "other")
    torch.rand(100, generator=one)
    assert torch.equal(torch.rand(5, generator=other), draws_uniform(7, "other"))


def draws_uniform(seed: int, name: str) -> torch.Tensor:
    return torch.rand(5, generator=named_generator(seed, name))


def test_seeds_are_the_first_63_bits_of_the_digest() -> None:
    digest = hashlib.sha256(b"5:dropout/rank-0").hexdigest()
    assert derived_seed(5, "dropout/rank-0") == int(digest[:16], 16) // 2
