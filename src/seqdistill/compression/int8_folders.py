"""CTranslate2 folders whose weights are stored without their zero bytes, and the way back.

A packed folder is a copy but for `model.bin.safetensors`, which takes the place of model.bin: its
bytes that are not zero and a code of where they are. In int8 nearly every byte is a weight, so a
model that was pruned before it was converted shrinks as it does in fp16. CTranslate2 does not read
it: `unpack_folder` gives the folder back, bit for bit. What the bytes mean is not known here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from seqdistill.compression.sparse_files import read_sparse_file, sparse_content
from seqdistill.core.errors import ModelError
from seqdistill.records import atomic

MODEL = "model.bin"
PACKED_MODEL = "model.bin.safetensors"


def pack_folder(folder: Path, output: Path) -> None:
    """Writes the packed copy of a CTranslate2 folder to the new folder `output`.

    Raises FileExistsError for an `output` that is there already and not empty.
    """
    content = (folder / MODEL).read_bytes()
    with atomic.new_folder(output) as aside:
        _copy_others(folder, aside)
        atomic.write_bytes(aside / PACKED_MODEL, packed_content(content))


def unpack_folder(folder: Path, output: Path) -> None:
    """Writes the folder that `pack_folder` was given to the new folder `output`, byte for byte.

    Raises ModelError for a damaged file, and FileExistsError as `pack_folder` does.
    """
    path = folder / PACKED_MODEL
    tensors = read_sparse_file(path)
    if tensors.keys() != {MODEL}:
        raise ModelError(
            f"{path} must hold {MODEL} and nothing else, but it holds {sorted(tensors)[:3]}; pack "
            "the folder again."
        )
    with atomic.new_folder(output) as aside:
        _copy_others(folder, aside)
        atomic.write_bytes(aside / MODEL, tensors[MODEL].numpy().tobytes())


def packed_content(content: bytes) -> bytes:
    """What the packed file of a model.bin with this `content` holds."""
    return sparse_content({MODEL: torch.frombuffer(bytearray(content), dtype=torch.uint8)})


def _copy_others(folder: Path, aside: Path) -> None:
    without = shutil.ignore_patterns(MODEL, PACKED_MODEL)
    shutil.copytree(folder, aside, ignore=without, dirs_exist_ok=True)
