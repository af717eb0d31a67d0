"""The code of positions: exact both ways, as small as it says, and refused when it lies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqdistill.compression.bit_patterns import bit_patterns
from seqdistill.compression.sparse_code import CODES, SparseTensor, to_dense, to_sparse

_WIDTHS = {"gaps2": 2, "gaps4": 4, "gaps8": 8}


def random_sparse(
    density: float, *, rows: int = 37, columns: int = 29, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    kept = torch.rand(rows, columns, generator=generator) < density
    values = torch.randn(rows, columns, generator=generator)
    return torch.where(kept, values, 0.0).to(dtype)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(bit_patterns(found), bit_patterns(expected))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0])
def test_every_tensor_comes_back_bit_for_bit(density: float, dtype: torch.dtype) -> None:
    tensor = random_sparse(density, dtype=dtype)
    assert_same_bits(to_dense(to_sparse(tensor)), tensor)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5), (7,)])
def test_every_shape_comes_back(shape: tuple[int, ...]) -> None:
    for fill in (0.0, 1.5):
        tensor = torch.full(shape, fill)
        assert_same_bits(to_dense(to_sparse(tensor)), tensor)


def test_only_positive_zero_is_left_out() -> None:
    tensor = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-45, 0.0, 2.0])
    sparse = to_sparse(tensor)
    assert len(sparse.values) == 6
    assert_same_bits(to_dense(sparse), tensor)


def test_a_window_into_a_tensor_is_stored_as_it_looks() -> None:
    window = random_sparse(0.3).T[3:9, ::2]
    assert_same_bits(to_dense(to_sparse(window)), window.contiguous())


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("gap", [0, 1, 2, 3, 4, 6, 14, 15, 16, 29, 30, 31, 254, 255, 256, 510, 511])
def test_every_code_reads_back_gaps_around_its_escape(code: str, gap: int) -> None:
    positions = np.cumsum(np.array([gap, 1, gap + 1, gap + 1, 1], dtype=np.int64))
    for after in (1, 2, 700):  # numbers up to the end
        count = int(positions[-1]) + after
        written = CODES[code].write(positions, count)
        np.testing.assert_array_equal(CODES[code].read(written, count), positions)


@pytest.mark.parametrize("code", sorted(_WIDTHS))
@pytest.mark.parametrize("density", [0.003, 0.05, 0.4])
def test_gaps_mean_what_a_reader_symbol_by_symbol_understands(code: str, density: float) -> None:
    flat = random_sparse(density).flatten()
    expected = [place for place, value in enumerate(flat.tolist()) if value != 0]
    written = CODES[code].write(np.array(expected, dtype=np.int64), len(flat))
    width, found, place = _WIDTHS[code], [], 0
    for byte in written.tolist():
        for shift in range(0, 8, width):
            symbol = (byte >> shift) % 2**width
            place += symbol
            if symbol < 2**width - 1:
                found.append(place)
                place += 1
    assert found == expected


@pytest.mark.parametrize("density", [0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5])
def test_positions_take_little_more_than_their_entropy(density: float) -> None:
    tensor = random_sparse(density, rows=300, columns=300)
    share = float((tensor != 0).double().mean())
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    bits = 8 * to_sparse(tensor).positions.nbytes / tensor.numel()
    assert entropy <= bits <= entropy + 0.11


@pytest.mark.parametrize("density", [0.005, 0.1, 0.25, 0.6])
def test_the_smallest_code_is_taken(density: float) -> None:
    tensor = random_sparse(density, rows=100, columns=100)
    sparse = to_sparse(tensor)
    positions = np.flatnonzero(tensor.numpy())
    sizes = {name: code.write(positions, tensor.numel()).nbytes for name, code in CODES.items()}
    assert sparse.positions.nbytes == min(sizes.values()) == sizes[sparse.code]
    expected = {0.005: "gaps8", 0.1: "gaps4", 0.25: "gaps2", 0.6: "bits"}
    assert sparse.code == expected[density]
    assert sparse.num_bytes == sparse.positions.nbytes + 4 * len(positions)


@pytest.mark.parametrize("density", [0.1, 0.6])
def test_parts_that_contradict_each_other_are_refused(density: float) -> None:
    sparse = to_sparse(random_sparse(density))
    lies: list[SparseTensor] = [
        dataclasses.replace(sparse, values=sparse.values[:-1]),
        dataclasses.replace(sparse, shape=(3, 5)),
        dataclasses.replace(sparse, positions=sparse.positions[:-9]),
        dataclasses.replace(sparse, code="gaps3"),
    ]
    for lie in lies:
        with pytest.raises(ValueError, match=r"must|expected"):
            to_dense(lie)
