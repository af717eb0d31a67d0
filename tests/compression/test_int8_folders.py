"""Packed folders: every byte comes back, zeros cost next to nothing, damage is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from seqdistill.compression.int8_folders import (
    MODEL,
    PACKED_MODEL,
    pack_folder,
    packed_content,
    unpack_folder,
)
from seqdistill.compression.sparse_files import write_sparse_file
from seqdistill.core.errors import ModelError


def random_bytes(count: int, *, zero_share: float, seed: int = 0) -> bytes:
    draw = np.random.default_rng(seed)
    values = draw.integers(1, 256, count).astype(np.uint8)
    values[draw.random(count) < zero_share] = 0
    return values.tobytes()


def folder_with(path: Path, content: bytes) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / MODEL).write_bytes(content)
    (path / "config.json").write_text("{}")
    (path / "deep" / "empty").write_bytes(b"")
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"\0",
        b"\x80",
        bytes(range(256)) * 3,
        bytes(1000),
        random_bytes(10_001, zero_share=0.9),
        random_bytes(10_001, zero_share=0.0),
    ],
    ids=["zero", "one", "all bytes", "zeros", "pruned", "dense"],
)
def test_what_is_packed_comes_back_byte_for_byte(content: bytes, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "int8", content)
    pack_folder(folder, tmp_path / "packed")
    assert not (tmp_path / "packed" / MODEL).exists()
    unpack_folder(tmp_path / "packed", tmp_path / "back")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    back = tmp_path / "back"
    assert files == sorted(p.relative_to(back) for p in back.rglob("*") if p.is_file())
    for name in files:
        assert (back / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize(("zero_share", "bits"), [(0.5, 1.0), (0.8, 0.8), (0.9, 0.5), (0.0, 0.0)])
def test_a_zero_byte_costs_less_than_a_bit(zero_share: float, bits: float) -> None:
    content = random_bytes(200_000, zero_share=zero_share)
    nonzero = sum(byte != 0 for byte in content)
    packed = len(packed_content(content))
    assert packed <= nonzero + 1.1 * bits / 8 * len(content) + 1000


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    pack_folder(folder_with(tmp_path / "int8", random_bytes(999, zero_share=0.5)), tmp_path / "p")
    path = tmp_path / "p" / PACKED_MODEL
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="has changed since it was written"):
        unpack_folder(tmp_path / "p", tmp_path / "back")
    path.write_bytes(whole[:-9])
    with pytest.raises(ModelError, match="whole and as it was written"):
        unpack_folder(tmp_path / "p", tmp_path / "back")
    save_file({MODEL: np.zeros(3)}, path)
    with pytest.raises(ModelError, match="its format is None"):
        unpack_folder(tmp_path / "p", tmp_path / "back")
    write_sparse_file(path, {"weights": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"must hold model\.bin and nothing else"):
        unpack_folder(tmp_path / "p", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "int8", b"abc")
    with pytest.raises(FileExistsError):
        pack_folder(folder, folder)
    assert (folder / MODEL).read_bytes() == b"abc"
