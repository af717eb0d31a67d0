"""Model folders stored without the zeros of pruning: one bit a weight, and the other values.

`model.sparse.safetensors` takes the place of model.safetensors, for storing and sending;
`unpack_folder` gives the model folder back, bit for bit, and only that one is loaded.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqdistill.compression.pruning import bit_patterns
from seqdistill.core.errors import ModelError, first_line
from seqdistill.models.loading import SPARSE_WEIGHTS
from seqdistill.records import atomic
from seqdistill.records.checksums import CHECKSUMS, check_model_folder, write_checksums

Tensors = dict[str, Shaped[Tensor, "*_shape"]]
_DENSE_WEIGHTS = "model.safetensors"
_SHAPES = "shapes"
_MASK, _VALUES = ".mask", ".values"


def pack_folder(folder: Path, output: Path) -> None:
    """Writes the sparse copy of a model folder with safetensors files to the new folder `output`.

    Raises FileExistsError for an `output` that already exists and is not empty.
    """
    tensors: Tensors = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors.update(load_file(file))
    with atomic.new_folder(output) as aside:
        _copy_others(folder, aside)
        save_sparse(aside / SPARSE_WEIGHTS, tensors)
        write_checksums(aside)


def unpack_folder(folder: Path, output: Path) -> None:
    """Writes the model folder that `pack_folder` was given to the new folder `output`.

    Raises ModelError for a damaged file, and FileExistsError as `pack_folder` does.
    """
    check_model_folder(folder)
    tensors = load_sparse(folder / SPARSE_WEIGHTS)
    with atomic.new_folder(output) as aside:
        _copy_others(folder, aside)
        save_file(tensors, aside / _DENSE_WEIGHTS, metadata={"format": "pt"})
        write_checksums(aside)


def save_sparse(path: Path, tensors: Mapping[str, Shaped[Tensor, "*_shape"]]) -> None:
    """Writes one safetensors file; a tensor that its zeros do not make smaller is stored as it is.

    Only +0.0 is left out: -0.0, NaN and infinities are values, so that the copy is exact. Of a
    tensor `w`, `w.mask` holds one bit a number in row-major order, and `w.values` those that are
    set.
    """
    stored: Tensors = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().flatten()
        nonzero = bit_patterns(flat) != 0
        mask, values = torch.from_numpy(np.packbits(nonzero.numpy())), flat[nonzero]
        if mask.nbytes + values.nbytes < flat.nbytes:
            stored[name + _MASK], stored[name + _VALUES] = mask, values
            shapes[name] = list(tensor.shape)
        else:
            stored[name] = flat.view(tensor.shape)
    save_file(stored, path, metadata={_SHAPES: json.dumps(shapes, sort_keys=True)})


def load_sparse(path: Path) -> Tensors:
    """The tensors that `save_sparse` was given, bit for bit.

    Raises ModelError for a file that is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes: dict[str, list[int]] = json.loads(file.metadata()[_SHAPES])
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, shape in shapes.items():
            mask, values = tensors.pop(name + _MASK), tensors.pop(name + _VALUES)
            nonzero = torch.from_numpy(np.unpackbits(mask.numpy(), count=math.prod(shape))).bool()
            tensors[name] = torch.zeros(len(nonzero), dtype=values.dtype)
            tensors[name][nonzero] = values
            tensors[name] = tensors[name].view(shape)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} must be a whole file of sparse weights, but cannot be read: "
            f"{first_line(error)}; export the model again."
        ) from error
    return tensors


def _copy_others(folder: Path, aside: Path) -> None:
    weights = shutil.ignore_patterns("model*.safetensors*", CHECKSUMS)
    shutil.copytree(folder, aside, ignore=weights, dirs_exist_ok=True)
