"""Model folders whose weights are stored without their zeros, and the way back to the model.

A sparse folder is an ordinary one (config.json, tokenizer) but for `model.sparse.safetensors`,
which takes the place of model.safetensors: a plain safetensors file with two tensors, values and
positions, for each weight that is smaller so, and the others as they are. No transformers loader
reads it: `load_sparse_pair` does, and `load_stored_pair` where a folder may be of either kind.
Which weights are zero is none of its business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
)

from seqdistill.compression.sparse_code import SparseTensor, to_dense, to_sparse
from seqdistill.core.errors import ModelError, first_line
from seqdistill.models.loading import LoadedModel, fitting, load_config, load_pair, load_tokenizer
from seqdistill.models.placement import ON_CPU, Placement
from seqdistill.models.saving import save_pair
from seqdistill.records import atomic
from seqdistill.records.checksums import check_model_folder, write_checksums

SPARSE_WEIGHTS = "model.sparse.safetensors"

_DENSE_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_FORMAT = "seqdistill-sparse-1"
_POSITIONS, _VALUES = "positions of ", "values of "

Tensors = dict[str, Shaped[Tensor, "*_shape"]]


def save_sparse_pair(
    pair: LoadedModel, folder: Path, *, save_dtype: Literal["fp32", "fp16"] = "fp32"
) -> None:
    """Writes model and tokenizer to `folder`, weights without their zeros; replaces what was there.

    `save_dtype` as in `save_pair`, whose ModelError for weights beyond fp16 it shares. What was in
    `folder` goes only when all is written.
    """
    with atomic.replaced_folder(folder) as aside:
        save_pair(pair, aside, save_dtype=save_dtype)
        dense = [path for pattern in _DENSE_WEIGHTS for path in aside.glob(pattern)]
        tensors: Tensors = {}
        for path in dense:
            if path.suffix == ".safetensors":
                tensors.update(load_file(path))
        write_sparse_file(aside / SPARSE_WEIGHTS, tensors)
        for path in dense:
            path.unlink()
        write_checksums(aside)


def load_sparse_pair(name: str, *, trust_remote_code: bool = False) -> LoadedModel:
    """The fp32 model, in eval mode, and the tokenizer that `save_sparse_pair` wrote to a folder.

    The model equals what `load_pair` gives of the same pair under `save_pair`, bit for bit. Raises
    ModelError for a folder without one of its files, for a damaged file, and for weights that are
    not those of the configuration beside them.
    """
    check_model_folder(name)
    return fitting(
        LoadedModel(
            _load_model(Path(name), trust_remote_code=trust_remote_code),
            load_tokenizer(name, trust_remote_code=trust_remote_code),
            name,
        )
    )


def load_stored_pair(
    name: str, *, trust_remote_code: bool = False, placement: Placement = ON_CPU
) -> LoadedModel:
    """The model, in eval mode, and the tokenizer of a folder, sparse or ordinary, or hub name.

    Raises ModelError as `load_sparse_pair` and `load_pair` do.
    """
    if not (Path(name) / SPARSE_WEIGHTS).is_file():
        return load_pair(name, trust_remote_code=trust_remote_code, placement=placement)
    pair = load_sparse_pair(name, trust_remote_code=trust_remote_code)
    pair.model.to(placement.device, placement.dtype_of(pair.model.config))
    return pair


def _load_model(folder: Path, *, trust_remote_code: bool) -> PreTrainedModel:
    config = load_config(str(folder), trust_remote_code=trust_remote_code)
    tensors = read_sparse_file(folder / SPARSE_WEIGHTS)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):  # only to learn its class, which alone takes weights from memory
        architecture = type(auto.from_config(config, trust_remote_code=trust_remote_code))
    try:
        model, found = architecture.from_pretrained(
            None,
            config=config,
            generation_config=GenerationConfig.from_pretrained(folder),
            state_dict=tensors,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except OSError as error:
        raise ModelError(
            f"A sparse model folder must hold generation_config.json, but {folder} has none that "
            "loads; write the folder again from the model."
        ) from error
    missing, unknown = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    misshapen = sorted(key for key, *_ in found["mismatched_keys"])
    if missing or unknown or misshapen:
        raise ModelError(
            f"{folder / SPARSE_WEIGHTS} must hold the weights of the config.json beside it, but "
            f"missing are {missing[:3]}, unknown {unknown[:3]}, of another shape {misshapen[:3]}; "
            "write the folder again from the model."
        )
    whole: PreTrainedModel = model.eval()
    return whole


def write_sparse_file(path: Path, tensors: Mapping[str, Shaped[Tensor, "*_shape"]]) -> None:
    """Replaces the file at `path` in one step with the sparse form of the named tensors."""
    atomic.write_bytes(path, sparse_content(tensors))


def sparse_content(tensors: Mapping[str, Shaped[Tensor, "*_shape"]]) -> bytes:
    """What a file with the sparse form of the named tensors holds.

    A tensor that its zeros do not make smaller is stored as it is.
    """
    stored: Tensors = {}
    layout: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        sparse = to_sparse(tensor)
        if sparse.num_bytes < tensor.nbytes:
            stored[_POSITIONS + name], stored[_VALUES + name] = sparse.positions, sparse.values
            layout[name] = {"code": sparse.code, "shape": sparse.shape}
        else:
            stored[name] = tensor.detach().cpu().contiguous()
    described = json.dumps(layout, sort_keys=True)
    about = {"layout": described, "sha256": _digest(stored, described)}
    # Under one key, since safetensors writes several in any order: equal weights, equal files.
    content: bytes = save(stored, metadata={_FORMAT: json.dumps(about)})
    return content


def read_sparse_file(path: Path) -> Tensors:
    """The named tensors that `write_sparse_file` was given, bit for bit.

    Raises ModelError for a file that is missing, damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            stored: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, first_line(error)) from error
    if _FORMAT not in metadata:
        raise _unreadable(path, f"its format is {metadata.get('format')!r} and not {_FORMAT!r}")
    try:
        about = json.loads(metadata[_FORMAT])
        if about["sha256"] != _digest(stored, about["layout"]):
            raise _unreadable(path, "its content has changed since it was written")
        return _unfolded(stored, json.loads(about["layout"]))
    except (KeyError, ValueError) as error:
        raise _unreadable(path, f"its parts contradict each other ({error})") from error


def _unfolded(stored: Tensors, layout: Mapping[str, Mapping[str, Any]]) -> Tensors:
    tensors = dict(stored)
    for name, form in layout.items():
        positions, values = tensors.pop(_POSITIONS + name), tensors.pop(_VALUES + name)
        sparse = SparseTensor(tuple(form["shape"]), form["code"], positions, values)
        tensors[name] = to_dense(sparse)
    return tensors


def _digest(stored: Mapping[str, Tensor], described: str) -> str:
    """A SHA-256 in hex: one flipped bit in a code of positions would shift all weights after it."""
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(stored.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _unreadable(path: Path, found: str) -> ModelError:
    return ModelError(
        f"{path} must be a file of sparse weights, whole and as it was written, but: {found}. "
        "Write the folder again from the model."
    )
