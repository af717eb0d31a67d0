"""Sparse model folders: the identical folder comes back, the bytes are fewer, damage is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import character_tokenizer, tiny_model
from torch import Tensor

from seqdistill.compression.pruning import bit_patterns, prune
from seqdistill.compression.sparse import load_sparse, pack_folder, save_sparse, unpack_folder
from seqdistill.core.errors import ModelError
from seqdistill.models.loading import SPARSE_WEIGHTS, LoadedModel, load_pair
from seqdistill.models.saving import save_pair
from seqdistill.records.checksums import CHECKSUMS


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """The folder of a pruned model."""
    model = tiny_model("llama-tied", vocab_size=5_000)
    prune(model, pruned_share=0.8, scheme="class_blind")
    save_pair(LoadedModel(model, character_tokenizer(), "tiny"), tmp_path / "dense")
    return tmp_path / "dense"


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(bit_patterns(found), bit_patterns(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_every_tensor_comes_back_bit_for_bit(
    density: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(11)
    kept = torch.rand(37, 29, generator=generator) < density
    matrix = torch.where(kept, 9 * torch.randn(37, 29, generator=generator).abs(), 0.0).to(dtype)
    given = {
        "matrix": matrix,
        "window": matrix.T[3:9, ::2],
        "scalar": torch.tensor(3, dtype=dtype),
        "empty": torch.zeros(3, 0, 2, dtype=dtype),
        "zeros": torch.zeros(2, 3, 50, dtype=dtype),
    }
    save_sparse(tmp_path / "w", given)
    found = load_sparse(tmp_path / "w")
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert_same_bits(found[name], tensor.contiguous())


def test_only_positive_zero_is_left_out(tmp_path: Path) -> None:
    numbers = [0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-45, 0.0, 2.0, *[0.0] * 8]
    save_sparse(tmp_path / "w", {"w": torch.tensor(numbers)})
    stored = load_file(tmp_path / "w")
    assert len(stored["w.values"]) == 6
    assert stored["w.mask"].tolist() == [0b01111101, 0]
    assert_same_bits(load_sparse(tmp_path / "w")["w"], torch.tensor(numbers))


def test_a_folder_goes_there_and_back_file_by_file(dense: Path, tmp_path: Path) -> None:
    pack_folder(dense, tmp_path / "sparse")
    unpack_folder(tmp_path / "sparse", tmp_path / "back")
    names = {path.name for path in dense.iterdir()}
    sparse = {path.name for path in (tmp_path / "sparse").iterdir()}
    assert sparse == names - {"model.safetensors"} | {SPARSE_WEIGHTS}
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (dense / name).read_bytes()
    num_weights = sum(t.numel() for t in load_file(dense / "model.safetensors").values())
    found = (tmp_path / "sparse" / SPARSE_WEIGHTS).stat().st_size
    assert found < num_weights * (0.2 * 4 + 1 / 8) + 20_000  # values, a bit each, norms and header
    with pytest.raises(ModelError, match="--format dense"):
        load_pair(str(tmp_path / "sparse"))


def test_a_damaged_or_foreign_file_is_refused_and_nothing_is_written(
    dense: Path, tmp_path: Path
) -> None:
    pack_folder(dense, tmp_path / "sparse")
    path = tmp_path / "sparse" / SPARSE_WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    with pytest.raises(Exception, match="does not match its checksum"):
        unpack_folder(tmp_path / "sparse", tmp_path / "out")
    (tmp_path / "sparse" / CHECKSUMS).unlink()
    save_file({"w": torch.zeros(3)}, tmp_path / "foreign", metadata={"format": "pt"})
    for content in (b"", whole[:60], whole[:-1], (tmp_path / "foreign").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="must be a whole file of sparse weights"):
            unpack_folder(tmp_path / "sparse", tmp_path / "out")
    path.unlink()
    with pytest.raises(ModelError, match="No such file"):
        unpack_folder(tmp_path / "sparse", tmp_path / "out")
    assert not (tmp_path / "out").exists()
