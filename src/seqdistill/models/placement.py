"""Where a model runs, in which arithmetic, and with which kernels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Literal

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from seqdistill.core.errors import UserError, first_line

Precision = Literal["fp32", "bf16"]
"""The arithmetic of matrix products while training."""
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names in torch.cpu.get_capabilities, of x86 and ARM."""
_BF16_TILES = "amx_bf16"
"""That of the ones with which Intel's CPUs are faster than in fp32."""
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model lies, the dtype of its weights, and its attention kernel.

    `auto` is fp32 on CPUs and the dtype that the weights are stored in on GPUs, so that no weight
    is rounded; as attention it is transformers' own choice. Inference engines run where the model
    lies.
    """

    device: torch.device
    dtype: Dtype = "auto"
    attention: str = "auto"

    def dtype_of(self, config: PreTrainedConfig) -> torch.dtype:
        """The dtype in which to load the model of this configuration."""
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        stored = getattr(config, "dtype", None)
        keeps = self.device.type != "cpu" and stored in (torch.float16, torch.bfloat16)
        return stored if keeps and stored is not None else torch.float32


ON_CPU = Placement(torch.device("cpu"))
"""In fp32, on the CPU."""


def device_of(
    wanted: Literal["auto", "cpu", "cuda"], *, key: str = "training.device"
) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Of several processes on a machine each gets a GPU of its own. Raises UserError, which names
    `key`, for a GPU that is not there.
    """
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise UserError(f"{key}=cuda needs a GPU that torch can use, found none; use auto or cpu")
    if wanted == "cpu" or not found:
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % max(1, torch.cuda.device_count()))


def precision_of(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The arithmetic of that name; `auto` is bf16 where that is faster on the device.

    That is where it has instructions for it, but for Intel's CPUs without AMX: a core of a Xeon
    with AVX512-BF16 makes 83 GFLOP/s of products in bf16 and 146 in fp32 (torch 2.13), while AMD's
    are twice as fast in bf16.
    """
    if wanted == "auto":
        return "bf16" if multiplies_bf16(device) and not _is_intel_without_amx(device) else "fp32"
    return wanted


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bf16 numbers.

    Without them such products are put together from others, and take many times as long as those
    of fp32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(bool(_capabilities().get(name)) for name in _BF16_INSTRUCTIONS)


def _is_intel_without_amx(device: torch.device) -> bool:
    found = _capabilities()
    is_intel = device.type == "cpu" and str(found.get("cpu_name", "")).startswith("Intel")
    return is_intel and not found.get(_BF16_TILES)


def _capabilities() -> Mapping[str, object]:
    # Not all releases of torch that are supported can tell; what is not known is not there.
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def use_fast_attention(model: PreTrainedModel, device: torch.device) -> None:
    """Chooses the attention that trains fastest on the device, in place; the function is the same.

    On CPUs the backward pass of torch's fused attention is slow for sequences of a sentence's
    length.
    """
    if device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def set_attention(model: PreTrainedModel, kernel: str) -> None:
    """Chooses the kernel of that name. Raises UserError where the model cannot run it here."""
    try:
        model.set_attn_implementation(kernel)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"training.attention={kernel} must be a kernel that {type(model).__name__} can run "
            f"here, but: {first_line(error)} Leave it out to take what works."
        ) from error
