"""Several processes that train one student: what they share, and that they do share it.

Knows accelerate's collectives and nothing of batches or losses.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from seqdistill.core.errors import UserError
from seqdistill.core.token_sum import TokenSum

Shared = TypeVar("Shared")
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun and the programs of MPI say how many processes there are."""


@dataclasses.dataclass(frozen=True)
class StepStats:
    """What one update has seen: the loss and its parts, its sequences, how many targets counted."""

    loss: TokenSum
    parts: dict[str, TokenSum]
    written: dict[str, TokenSum]
    """What the source tells of the sequences."""
    num_targets: int


def check_launch() -> None:
    """Raises UserError where several processes were asked for and this one was started alone.

    `accelerate launch --num_processes 2` does so without GPUs, with --cpu or not: it sets where the
    processes would meet, and starts one that is told of no other.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and not any(name in os.environ for name in _SIZES) and not _is_from_cluster():
        raise UserError(
            "accelerate launch must start as many processes as --num_processes says, but without "
            "GPUs it starts one, which would train alone; use torchrun --nproc_per_node 2 "
            "-m seqdistill train ..., or --num_processes 1"
        )


def _is_from_cluster() -> bool:
    """Whether the launcher itself was told where processes meet, and passed that on unchanged.

    False where that cannot be known: without /proc, and in a child of what was launched.
    """
    try:
        said = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    launcher = dict(entry.partition(b"=")[::2] for entry in said)
    return b"ACCELERATE_MIXED_PRECISION" not in launcher and all(
        launcher.get(name) == os.environb.get(name) for name in (b"MASTER_ADDR", b"MASTER_PORT")
    )


def joined(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model as all processes train it together: as it is when there is only one.

    Raises UserError where each process would silently train a model of its own.
    """
    wrapped: nn.Module = accelerator.prepare_model(model)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and (accelerator.num_processes != launched or wrapped is model):
        raise UserError(
            f"All {launched} launched processes must train one model, but accelerate joined "
            f"{accelerator.num_processes} and wrapped it as {type(wrapped).__name__}; on a CPU set "
            "training.device=cpu."
        )
    return wrapped


def over_processes(own: StepStats, accelerator: Accelerator) -> StepStats:
    """The sums over all processes: what one process would have seen with all the batches."""
    if accelerator.num_processes == 1:
        return own
    sums = [own.loss, *own.parts.values(), *own.written.values()]
    numbers = [float(own.num_targets)]
    numbers += [float(number) for part in sums for number in (part.total, part.count)]
    summed = accelerator.reduce(
        torch.tensor(numbers, dtype=torch.float64, device=accelerator.device), reduction="sum"
    ).cpu()
    loss, *others = (TokenSum(summed[i], summed[i + 1]) for i in range(1, len(numbers), 2))
    parts, written = others[: len(own.parts)], others[len(own.parts) :]
    return StepStats(
        loss,
        dict(zip(own.parts, parts, strict=True)),
        dict(zip(own.written, written, strict=True)),
        int(summed[0]),
    )


def broadcast_from_main(value: Shared, accelerator: Accelerator) -> Shared:
    """The main process's value, on every process."""
    if accelerator.num_processes == 1:
        return value
    shared: list[Shared] = broadcast_object_list([value])
    return shared[0]


def all_gather_object(value: Shared) -> list[Shared]:
    """Every process's value, by rank, on every process."""
    values: list[Shared] = gather_object([value])
    return values
