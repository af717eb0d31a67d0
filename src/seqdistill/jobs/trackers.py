"""Where metrics go besides the run directory: accelerate's trackers, named by `training.trackers`.

Everything that they write to disk lies in the run directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from seqdistill.core.errors import UserError
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory

_PROJECT = "seqdistill"


def check_trackers(trackers: Sequence[str]) -> None:
    """Raises UserError for a tracker whose package, of the same name, is not installed."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"training.trackers={name} needs the package {name}, which is not installed; run "
                f"pip install {name}, or remove it from training.trackers"
            )


@contextlib.contextmanager
def trackers_started(accelerator: Accelerator, recipe: Recipe, run: RunDirectory) -> Iterator[None]:
    """While open, `accelerator.log` of the main process reaches the trackers it was made with."""
    if not (accelerator.is_main_process and recipe.training.trackers):
        yield
        return
    name, folder = run.path.resolve().name, str(run.path.resolve())
    places = {"MLFLOW_TRACKING_URI": f"file://{folder}/mlruns", "TRACKIO_DIR": f"{folder}/trackio"}
    ours = {name: place for name, place in places.items() if name not in os.environ}
    os.environ.update(ours)
    accelerator.init_trackers(
        _PROJECT,
        init_kwargs={
            "wandb": {"name": name, "dir": folder},
            "trackio": {"name": name},
            "mlflow": {"run_name": name},
        },
    )
    try:
        yield
    finally:
        # Not accelerator.end_training, which ends the processes' group, too.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers.clear()
        for events in run.tensorboard_path.rglob("events.*"):  # without the machine's name
            events.rename(events.with_name(events.name.replace(f".{socket.gethostname()}.", ".")))
        for key in ours:
            del os.environ[key]
