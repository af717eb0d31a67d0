"""Checkpoints and best students on disk: safetensors and JSON, written aside and renamed.

A checkpoint is everything that a bit-for-bit continuation needs: weights, which of them are pruned,
the objective's own, what the teacher has become, optimizer, random states, the place in the data,
the loop's own counters. Tensors are stored whole, however many processes shared them, so that any
number of processes can go on. Every file has a checksum, and a checkpoint is resumed from only when
it is whole. No pickle is read or written.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seqdistill.compression.pruning import PruningMask
from seqdistill.core.errors import UserError
from seqdistill.records import atomic
from seqdistill.records.checksums import damage, damage_of, write_checksums
from seqdistill.records.fingerprint import of_file
from seqdistill.records.run_directory import Resume
from seqdistill.teachers.in_process import Teacher
from seqdistill.training.processes import as_sharded, unique_parameters, whole

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "state.json"


@dataclasses.dataclass
class LoopState:
    """The loop's own counters: what it has done and what it has found best."""

    update: int = 0
    tokens: int = 0
    skipped: int = 0
    """Updates in which no position had a weight."""
    best: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    """(dev score, update) of the kept best students, best first."""
    best_sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    """The checksums of their files by name."""
    scored_at: int = 0
    """The update that dev was last scored after."""
    evaluations_without_best: int = 0
    dev_scores: dict[str, float] = dataclasses.field(default_factory=dict)
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Where each process's source was."""
    objective: dict[str, float] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How much of the metrics was logged."""
    alarms: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the watch for collapses has seen."""
    stopped_by: str | None = None
    """The alarm that ended the run."""
    seconds: float = 0.0
    padded: int = 0
    positions: int = 0
    """Padded ones included."""
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of each phase, a mean over the processes."""
    micro_batches: int = 1
    """Of an update, over all processes."""


def optimizer_tensors(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies on the CPU of all that the optimizer remembers, by parameter number and name.

    Collective where they are in shards; a process that does not `keep` them gets none.
    """
    found = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            tensor = whole(torch.as_tensor(value))
            if keep:
                found[f"{index}.{key}"] = tensor
    return _on_cpu(found)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, object]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        # A count that was a Python number, as 8-bit optimizers have, is one again.
        is_number = tensor.ndim == 0 and tensor.dtype == torch.int64
        value = tensor.item() if is_number else as_sharded(tensor, parameters[int(index)])
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states that this process draws its dropout from, by the kind of device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _random_name(rank: int) -> str:
    return "random.safetensors" if rank == 0 else f"random-{rank}.safetensors"


def save_state(
    folder: Path,
    *,
    model: nn.Module,
    mask: PruningMask,
    features: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: LoopState,
    random_by_rank: Sequence[Mapping[str, Tensor]],
) -> Path:
    """Writes `folder/checkpoint-<update>` in one step and removes all but the newest two.

    `features` are the matrices of the objective, `teacher` is its `state_dict`, `optimizer` holds
    `optimizer_tensors`, `random_by_rank` every process's `random_states`. What killed processes
    left half written goes, too. Raises FileExistsError when there is a state of that update
    already.
    """
    path = folder / f"checkpoint-{state.update}"
    folder.mkdir(exist_ok=True)
    with atomic.new_folder(path) as aside:
        save_file(_on_cpu(unique_parameters(model)), aside / "model.safetensors")
        save_file(dict(optimizer), aside / "optimizer.safetensors")
        for name, tensors in (
            ("pruning", mask.state_dict()),
            ("features", features),
            ("teacher", teacher),
        ):
            if tensors:
                save_file(_on_cpu(tensors), aside / f"{name}.safetensors")
        for rank, states in enumerate(random_by_rank):
            save_file(dict(states), aside / _random_name(rank))
        atomic.write_json(aside / _STATE, dataclasses.asdict(state))
        write_checksums(aside)
    for old in [*saved_states(folder)[:-2], *folder.glob("checkpoint-*.partial-*")]:
        shutil.rmtree(old)
    return path


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def saved_states(folder: Path) -> list[Path]:
    """The states in the folder, whole or damaged, the newest last."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def checkpoint_to_resume(folder: Path, resume: Resume) -> Path | None:
    """The latest checkpoint; None when there is none.

    Raises UserError where a file of it, or of a best student that it refers to, is not as it was
    written. With `latest-whole` the newest whole checkpoint is taken instead and the damaged ones
    after it are removed, for training will save them again; where all that is damaged are best
    students, the latest checkpoint is taken and `load_state` gives those up.
    """
    saved = saved_states(folder)
    damaged: dict[Path, str] = {}
    whole_one = None
    for path in reversed(saved):
        in_best = damage_of(folder, _best_of(path))
        if (found := damage(path)) is None and in_best is None:
            whole_one = path
            break
        damaged[path] = f"{path}/{found}" if found else f"{folder}/{in_best}"
    if not damaged:
        return whole_one
    name, what = saved[-1].name, damaged[saved[-1]]
    if resume == "latest-whole":
        chosen = whole_one or next((path for path in damaged if damage(path) is None), None)
        if chosen is not None:
            _LOG.warning("%s is damaged (%s); resuming from %s", name, what, chosen.name)
            for path in saved[saved.index(chosen) + 1 :]:
                shutil.rmtree(path)
            return chosen
    remedy = (
        f"resume from {whole_one.name}, the newest that is whole, by --resume-whole"
        if whole_one is not None
        else "no older one is whole: start again in a new output_dir"
    )
    if whole_one is None and damage(saved[-1]) is None:
        remedy = "go on without that best student by --resume-whole"
    raise UserError(
        f"A run must be resumed from a whole checkpoint, but {what}; restore the file, or {remedy}."
    )


def _best_name(update: int) -> str:
    return f"best-{update}.safetensors"


def _best_of(path: Path) -> dict[str, str]:
    """The names of the best students that a state refers to, and their checksums."""
    try:
        return dict(json.loads((path / _STATE).read_bytes())["best_sha256"])
    except (OSError, ValueError, KeyError):
        return {}  # a damaged state, which nobody will take up


def load_state(
    path: Path,
    *,
    model: nn.Module,
    mask: PruningMask,
    features: nn.Module,
    teacher: Teacher,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    rank: int = 0,
) -> LoopState:
    """The loop's counters; all else is put back in place: model, mask, the objective's features,
    teacher, optimizer, random state.

    A process that was not there when it was saved keeps its own random state. Best students that
    are damaged are given up with a warning. Raises UserError when the state was saved by a model of
    other parameter names or shapes, or by one that was pruned elsewhere or not at all.
    """
    state = TypeAdapter(LoopState).validate_json((path / _STATE).read_bytes())
    for name, sha256 in list(state.best_sha256.items()):
        if (found := damage_of(path.parent, {name: sha256})) is not None:
            _LOG.warning("%s; going on without it among the best", found)
            del state.best_sha256[name]
            state.best = [item for item in state.best if _best_name(item[1]) != name]
    load_parameters(model, _tensors(path, "model"), where=str(path))
    mask.load_state_dict(_tensors(path, "pruning"))
    load_parameters(features, _tensors(path, "features"), where=str(path))
    if changed := _tensors(path, "teacher"):
        teacher.load_state_dict(changed)
    _load_optimizer(optimizer, _tensors(path, "optimizer"))
    if (own := path / _random_name(rank)).exists():
        stored = load_file(own)
        torch.set_rng_state(stored["cpu"])
        if "cuda" in stored and device.type == "cuda":
            torch.cuda.set_rng_state(stored["cuda"], device)
    return state


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Those of a state by that name; none of what was not there when it was saved."""
    file = path / f"{name}.safetensors"
    return load_file(file) if file.exists() else {}


def load_parameters(model: nn.Module, tensors: dict[str, Tensor], *, where: str) -> None:
    """Copies stored parameters into the model. Raises UserError when names or shapes differ."""
    own = unique_parameters(model)
    if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
        differing = sorted(own.keys() ^ tensors.keys()) or [
            name for name in own if own[name].shape != tensors[name].shape
        ]
        raise UserError(
            f"A checkpoint must hold the recipe's own student, but {where} differs in "
            f"{differing[0]!r}; resume with the recipe that wrote it."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


@dataclasses.dataclass(frozen=True)
class BestStudents:
    """Keeps the weights of the k best updates under `folder/best-<update>.safetensors`.

    `score_key` says how good a dev score is, more being better.
    """

    folder: Path
    _: dataclasses.KW_ONLY
    keep: int
    score_key: Callable[[float], float]

    def path(self, update: int) -> Path:
        """The file of that update's weights."""
        return self.folder / _best_name(update)

    def offer(self, model: nn.Module, score: float, state: LoopState) -> bool:
        """True when `score` is a new best. Keeps the weights if they are among the k best."""
        is_best = not state.best or self.score_key(score) > self.score_key(state.best[0][0])
        # An equal score keeps the earlier update.
        ranked = sorted(
            [*state.best, (score, state.update)],
            key=lambda item: (-self.score_key(item[0]), item[1]),
        )
        state.best, sums = ranked[: self.keep], dict(state.best_sha256)
        if (score, state.update) in state.best:
            self.folder.mkdir(exist_ok=True)
            path = self.path(state.update)
            with atomic.new_file(path) as aside:
                save_file(_on_cpu(unique_parameters(model)), aside)
            sums[path.name] = of_file(path)
        names = [self.path(update).name for _, update in state.best]
        state.best_sha256 = {name: sums[name] for name in names}
        return is_best

    def clean(self, state: LoopState) -> None:
        """Removes torn files and weights that neither `state` nor a saved state refers to."""
        kept = {self.path(update).name for _, update in state.best}
        for saved in saved_states(self.folder):
            kept |= _best_of(saved).keys()
        for path in self.folder.glob("best-*.safetensors*"):
            if path.name not in kept:
                path.unlink()

    def restore(self, model: nn.Module, state: LoopState, *, average: bool) -> None:
        """Puts the best weights into the model, or the mean of all that are kept.

        Raises UserError when a file of them is not as it was written.
        """
        if (found := damage_of(self.folder, state.best_sha256)) is not None:
            raise UserError(
                f"{self.folder} must hold the best students as they were saved, but {found}; "
                "restore the file, or train on from a checkpoint before it by --resume."
            )
        updates = [update for _, update in (state.best if average else state.best[:1])]
        mean: dict[str, Tensor] = {}
        for update in updates:
            for name, tensor in load_file(self.path(update)).items():
                if tensor.is_floating_point():
                    share = tensor.double() / len(updates)
                    mean[name] = mean[name] + share if name in mean else share
                else:
                    mean[name] = tensor  # counters and the like: the last, not a mean
        load_parameters(model, mean, where=str(self.folder))
