"""Writes a model folder that `from_pretrained` loads: whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from seqdistill.models.loading import LoadedModel
from seqdistill.records import atomic


def save_pair(pair: LoadedModel, folder: Path, *, store: Literal["fp32", "fp16"] = "fp32") -> None:
    """Writes model and tokenizer to `folder`, replacing what was there.

    With fp16 the stored tensors take half the bytes; config.json still says float32, which is what
    `from_pretrained` then gives.
    """
    if folder.exists():
        shutil.rmtree(folder)
    with atomic.new_folder(folder) as aside:
        pair.model.save_pretrained(aside)
        pair.tokenizer.save_pretrained(aside)
        if store == "fp16":
            for file in aside.glob("*.safetensors"):
                halved = {
                    name: tensor.half() if tensor.dtype == torch.float32 else tensor
                    for name, tensor in load_file(file).items()
                }
                save_file(halved, file, metadata={"format": "pt"})
