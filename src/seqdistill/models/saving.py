"""Writes a model folder that `from_pretrained` loads, whole or not at all; in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.core.errors import ModelError, first_line
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.proof import EXACT, HALVED, difference, probe_logits
from seqdistill.records import atomic
from seqdistill.records.checksums import write_checksums


def save_pair(
    pair: LoadedModel,
    folder: Path,
    *,
    save_dtype: Literal["fp32", "fp16"] = "fp32",
    said: Float[Tensor, "1 time vocab"] | None = None,
) -> None:
    """Writes model and tokenizer to `folder`; what was there goes only when all is written.

    With fp16 the stored tensors take half the bytes; config.json still says float32, which is what
    `from_pretrained` then gives. Before the folder takes its place it is loaded and compared with
    `said`, the `probe_logits` of the model as it was trained; when None, as it is now.

    Raises ModelError for weights beyond what fp16 can hold, for a model that transformers does not
    save, and for a folder that does not say the same.
    """
    if said is None:
        said = probe_logits(pair.model)
    with atomic.replaced_folder(folder) as aside:
        try:
            pair.model.save_pretrained(aside)
            pair.tokenizer.save_pretrained(aside)
            if pair.extractor is not None:
                pair.extractor.save_pretrained(aside)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ModelError(
                f"The model must be one that transformers saves, but save_pretrained of a "
                f"{type(pair.model).__name__} says: {first_line(error)} Fix its "
                "configuration or generation_config.json."
            ) from error
        if save_dtype == "fp16":
            for file in aside.glob("*.safetensors"):
                save_file(_halved(file), file, metadata={"format": "pt"})
        _check_same(pair.model, said, aside, EXACT if save_dtype == "fp32" else HALVED)
        write_checksums(aside)


def _check_same(model: PreTrainedModel, said: Tensor, folder: Path, most: float) -> None:
    # Code of its own runs in this process already where the model is of such a class.
    trusted = type(model).__module__.startswith("transformers_modules")
    stored = load_pair(str(folder), trust_remote_code=trusted).model
    apart = difference(said, probe_logits(stored))
    if not apart <= most:
        raise ModelError(
            "A stored model must say what it said before it was stored, but the logits of this "
            f"{type(model).__name__} differ by {apart:.2g} of the largest, where {most:g} is "
            "rounding: transformers ties or leaves out weights that differ. Nothing was stored; "
            "checkpoints stay. Use an architecture that from_pretrained gives back."
        )


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
                "student.save_dtype=fp32."
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
