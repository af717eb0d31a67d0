"""Started twice by `test_processes.py`: trains on two ranks and writes what came out."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from tests.training.small import (
    SETTINGS,
    PlainObjective,
    Recorder,
    scripted,
    stored,
    student,
    weights,
)
from torch import nn

from seqdistill.compression.pruning_mask import PruningMask
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.teachers.in_process import NoTeacher
from seqdistill.training.loop import TrainingLoop
from seqdistill.training.processes import joined


def train(
    folder: Path,
    accelerator: Accelerator,
    model: Any,
    *,
    resume: bool = False,
    dev_score: float = 2.0,
    **changes: Any,
) -> list[dict[str, Any]]:
    """The rows logged by a training of `model`, of which each rank sees its share."""
    metrics = Recorder()
    TrainingLoop(
        model=model,
        source=stored(rank=accelerator.process_index, world_size=accelerator.num_processes),
        teacher=NoTeacher(),
        objective=PlainObjective(),
        mask=PruningMask.of_nothing(),
        settings=dataclasses.replace(
            SETTINGS, **{"gradient_accumulation_steps": 2, "updates": 4, **changes}
        ),
        accelerator=accelerator,
        folder=folder,
        metrics=metrics,
        progress=NoProgress(),
        score_dev=scripted([dev_score], lambda _module: None),
    ).run(resume=resume)
    return metrics.without_timings


def main(folder: Path) -> None:
    """Everything that needs several processes, in one go: starting them is what costs."""
    torch.set_num_threads(1)
    try:
        joined(nn.Linear(2, 2), Accelerator())
        refusal = "" if torch.cuda.is_available() else "nothing was refused"
    except UserError as error:
        refusal = str(error)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index

    exact = student(dtype=torch.float64)
    rows = train(folder / "exact", accelerator, exact)

    whole, half = student(dropout=0.3), student(dropout=0.3)
    resumed = student(dropout=0.3, seed=1)
    train(folder / "whole", accelerator, whole)
    train(folder / "half", accelerator, half, updates=2, dev_score=1.0)
    train(folder / "half", accelerator, resumed, resume=True)
    named = {"exact": exact, "whole": whole, "half": half, "resumed": resumed}
    for name, model in named.items():
        save_file(weights(model), folder / f"{name}-{rank}.safetensors")
    (folder / f"facts-{rank}.json").write_text(json.dumps({"rows": rows, "refusal": refusal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
