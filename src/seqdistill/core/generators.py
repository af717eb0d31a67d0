"""Named random generators: every random number of a run comes from one of these.

A name and a seed give the same stream everywhere, independent of those of other names. Dropout
alone draws from torch's own generators, which the training loop seeds and saves.
"""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, name: str) -> int:
    """A 63-bit seed that depends on both the run's seed and the stream's name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def named_generator(seed: int, name: str) -> torch.Generator:
    """A fresh CPU generator for the stream `name` of the run seeded with `seed`."""
    generator = torch.Generator()
    generator.manual_seed(derived_seed(seed, name))
    return generator
