"""Which targets are these? A number for each sequence of token ids, for whole batches at once.

Not for secrets: it tells accidents, such as states of other outputs under the same example id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def sequence_checksums(ids: Integers, lengths: Integers) -> Integers:
    """A 64-bit number for each sequence, sum_t mix(id_t + t * golden) modulo 2^64.

    The sequences stand one after another in `ids`; none may be empty. Tokens, their order and
    their number all count.

    Source: Steele, Lea and Flood 2014, fig. 16 (the mixing function of SplitMix64).
    """
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    mixed = ids.astype(np.uint64) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    return np.add.reduceat(mixed, starts).view(np.int64)
