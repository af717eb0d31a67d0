"""Writes a model folder that `from_pretrained` loads, whole or not at all; in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqdistill.core.errors import ModelError
from seqdistill.models.loading import LoadedModel
from seqdistill.records import atomic
from seqdistill.records.checksums import write_checksums


def save_pair(pair: LoadedModel, folder: Path, *, store: Literal["fp32", "fp16"] = "fp32") -> None:
    """Writes model and tokenizer to `folder`; what was there goes only when all is written.

    With fp16 the stored tensors take half the bytes; config.json still says float32, which is what
    `from_pretrained` then gives. Raises ModelError for weights beyond what fp16 can hold.
    """
    with atomic.replaced_folder(folder) as aside:
        pair.model.save_pretrained(aside)
        pair.tokenizer.save_pretrained(aside)
        if store == "fp16":
            for file in aside.glob("*.safetensors"):
                save_file(_halved(file), file, metadata={"format": "pt"})
        write_checksums(aside)


def _halved(file: Path) -> dict[str, Tensor]:
    # Cloned, because what is loaded may be a window into the file that is about to be replaced.
    halved = {
        name: tensor.half() if tensor.dtype == torch.float32 else tensor.clone()
        for name, tensor in load_file(file).items()
    }
    for name, tensor in halved.items():
        if bool(tensor.isinf().any()):
            raise ModelError(
                f"Weights stored as fp16 must be below 65,504 in size, but {name!r} is not; use "
                "student.store=fp32."
            )
    return halved


def stored_precision(folder: Path) -> Literal["fp32", "fp16"]:
    """fp16 where every floating-point tensor of the folder's safetensors files is, else fp32."""
    kinds: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            kinds |= {file.get_slice(name).get_dtype() for name in names}
    floating = {kind for kind in kinds if kind.startswith(("F", "BF"))}
    return "fp16" if floating == {"F16"} else "fp32"
