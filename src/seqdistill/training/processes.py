"""Several processes that train one student: what they tell each other, weights whole or in shards.

Reducing, gathering and scattering are collective: all processes call them together.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from seqdistill.core.errors import UserError
from seqdistill.core.token_sum import TokenSum
from seqdistill.models.adapters import SequenceModel

Shared = TypeVar("Shared")
Parallel = Literal["auto", "ddp", "fsdp2"]
_FSDP = "ACCELERATE_USE_FSDP"
"""Set by `accelerate launch` where its configuration shards."""
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun and the programs of MPI say how many processes there are."""


@dataclasses.dataclass(frozen=True)
class StepStats:
    """What one update has seen: the loss and its parts, its sequences, how many targets counted."""

    loss: TokenSum
    parts: Mapping[str, TokenSum]
    source: Mapping[str, TokenSum]
    """What the source tells of the sequences."""
    num_targets: Tensor
    padding: TokenSum
    """Padded positions of all that were computed."""


def check_launch() -> None:
    """Raises UserError where several processes were asked for and this one was started alone.

    `accelerate launch --num_processes 2` does so without GPUs, with --cpu or not: it sets where the
    processes would meet, and starts one that is told of no other.
    """
    # A cluster that says where its processes meet names a machine.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    together = launched and os.environ.get("MASTER_ADDR") == "127.0.0.1"
    if together and not any(name in os.environ for name in _SIZES):
        raise UserError(
            "accelerate launch must start as many processes as --num_processes says, but without "
            "GPUs it starts one, which would train alone; use torchrun --nproc_per_node 2 "
            "-m seqdistill train ..., or --num_processes 1"
        )


def make_accelerator(
    parallel: Parallel, *, on_cpu: bool, trackers: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:
    """The accelerator of this process; `auto` shards where accelerate's own configuration does.

    One process alone neither copies nor shards. Raises UserError for FSDP of the first version.
    """
    configured = os.environ.get(_FSDP, "false").lower() == "true"
    if parallel == "ddp":
        os.environ[_FSDP] = "false"
    sharded = parallel == "fsdp2" or (parallel == "auto" and configured)
    plugin = None
    if sharded:
        version = int(os.environ.get("FSDP_VERSION", "1")) if parallel == "auto" else 2
        if version != 2:
            raise UserError(
                f"Sharded training must use FSDP2, but accelerate is configured for version "
                f"{version}; set fsdp_version: 2 in its configuration, or training.parallel=ddp"
            )
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,  # every process has loaded the weights
        )
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no",
        fsdp_plugin=plugin,
        log_with=list(trackers) or None,
        project_dir=folder,
    )
    if sharded and accelerator.use_distributed:
        # On CPUs accelerate itself does not shard, though what it calls for it works there. And a
        # second accelerator of this process would keep the first one's choice of layers.
        for state in (PartialState(), accelerator.state):
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def prepare(
    model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer as all processes train them together.

    Raises UserError where each process would silently train a model of its own.
    """
    wrapped, prepared = accelerator.prepare(model, optimizer)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    alone = wrapped is model and not accelerator.is_fsdp2
    if launched > 1 and (accelerator.num_processes != launched or alone):
        raise UserError(
            f"All {launched} launched processes must train one model, but accelerate joined "
            f"{accelerator.num_processes} and wrapped it as {type(wrapped).__name__}; on a CPU set "
            "training.device=cpu."
        )
    register_fsdp_forward_method(wrapped, "measured")  # of a model in shards: it reads them, too
    return wrapped, prepared.optimizer


def over_processes(own: StepStats, accelerator: Accelerator) -> StepStats:
    """The sums over all processes, on the CPU: what one would have seen with all the batches.

    The one place where an update waits for its device.
    """
    sums = [own.loss, own.padding, *own.parts.values(), *own.source.values()]
    numbers = [own.num_targets] + [number for part in sums for number in (part.total, part.count)]
    device = accelerator.device
    stacked = torch.stack([number.to(device, torch.float64) for number in numbers])
    summed = accelerator.reduce(stacked, reduction="sum").cpu()
    loss, padding, *others = (TokenSum(summed[i], summed[i + 1]) for i in range(1, len(numbers), 2))
    return StepStats(
        loss,
        dict(zip(own.parts, others, strict=False)),
        dict(zip(own.source, others[len(own.parts) :], strict=True)),
        summed[0],
        padding,
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


def unique_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of every parameter and persistent buffer, shared ones once."""
    seen: set[int] = set()
    unique: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor.detach()
    return unique


def layer_classes(model: SequenceModel) -> list[str]:
    """The classes whose modules are sharded one by one: the outermost ones transformers names."""
    return sorted({type(layer).__name__ for layer in _layers(model)})


def _layers(model: SequenceModel) -> list[nn.Module]:
    wanted = set(getattr(model.module, "_no_split_modules", None) or ())
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():  # parents come before their children
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if type(module).__name__ in wanted and not inside:
            found[name] = module
    return list(found.values())


def shard_frozen(model: SequenceModel) -> None:
    """Shards a model that is not trained, in place: its layers are gathered one after the other.

    Embeddings and head stay whole after the first pass, since losses read the head after it.
    """
    for layer in _layers(model):
        fully_shard(layer)
    fully_shard(model, reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered if it is in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """The whole tensor, in shards if `like`, which has its shape, is."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def gather_weights(sharded: nn.Module, plain: nn.Module) -> None:
    """Copies the weights of a sharded model into its plain twin, parameter by parameter."""
    own = unique_parameters(plain)
    for name, tensor in unique_parameters(sharded).items():
        own[name].copy_(whole(tensor))


@torch.no_grad()
def scatter_weights(plain: nn.Module, sharded: nn.Module) -> None:
    """Copies the weights of a plain model into its sharded twin."""
    own = unique_parameters(plain)
    for name, tensor in unique_parameters(sharded).items():
        tensor.copy_(as_sharded(own[name], tensor))
