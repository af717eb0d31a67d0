"""kill -9 at any moment, then --resume: the run directory ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.jobs.runs import QUICK, folder_for, texts
from tests.training.small import without_timings

import seqdistill
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.training import train_student
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory

UPDATES = 12

_TRAIN = """
import sys
from seqdistill.jobs.training import train_student
from seqdistill.core.progress import NoProgress
from seqdistill.recipe.schema import Recipe
with open(sys.argv[1], encoding="utf-8") as file:
    train_student(Recipe.model_validate_json(file.read()), progress=NoProgress())
"""


def recipe_for(folder: Path) -> Recipe:
    """A tiny mBART with dropout, dev scores, states and an average of the best."""
    folder_for(folder, "mbart")
    given = {
        **QUICK,
        "seed": 3,
        "output_dir": str(folder / "run"),
        "data.train": str(folder / "train.tsv"),
        "data.dev": str(folder / "test.tsv"),
        "student.model": str(folder / "student"),
        "training.steps": UPDATES,
        "training.gradient_accumulation_steps": 2,
        "training.learning_rate": 0.01,
        "training.dropout": 0.2,
        "training.precision": "bf16",
        "training.log_every": 1,
        "training.eval_every": 3,
        "training.eval_metric": "chrf",
        "training.checkpoint_every": 2,
        "training.keep_best": 2,
        "training.average_best": True,
    }
    return load_recipe("baseline", texts(given))


def trained(run: RunDirectory) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Final weights, metrics without timings, and the files of the last states."""
    weights = load_file(run.student_path / "model.safetensors")
    rows = without_timings(run.read_metrics())
    return weights, rows, sorted(path.name for path in run.checkpoints_path.iterdir())


def kill_while_training(recipe: Recipe, *, rows: int, delay_s: float) -> None:
    """Trains in another process until it has logged so many rows, and a little longer."""
    folder = Path(recipe.output_dir)
    description = folder.with_suffix(".json")
    description.write_text(recipe.model_dump_json(), encoding="utf-8")
    source = str(Path(seqdistill.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(description)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    metrics, give_up = folder / "metrics.jsonl", time.monotonic() + 300
    try:
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= rows):
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                pytest.fail(f"training ended too early: {process.communicate()[1].decode()}")
            time.sleep(0.002)
        time.sleep(delay_s)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run worth comparing: it scored dev, kept the best, and learned something."""
    recipe = recipe_for(tmp_path_factory.mktemp("whole"))
    run = train_student(recipe, progress=NoProgress())
    _, rows, files = trained(run)
    losses = [row["loss_nats"] for row in rows if "loss_nats" in row]
    assert len(losses) == UPDATES and losses[-1] < losses[0]
    assert [row["step"] for row in rows if "dev_chrf" in row] == [3, 6, 9, 12]
    assert sum(name.startswith("best-") for name in files) >= 2
    assert load_pair(str(run.student_path)).model.config.dropout == 0.2
    assert json.loads(run.manifest_path.read_text())["finished"] is True
    return run


@pytest.mark.slow
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    uninterrupted: RunDirectory, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4))  # any moment: the one test whose seed is not fixed
    drawn = random.Random(seed)
    moment = {"rows": drawn.randint(1, UPDATES - 4), "delay_s": drawn.random() * 0.1}
    recipe = recipe_for(tmp_path)
    kill_while_training(recipe, rows=int(moment["rows"]), delay_s=moment["delay_s"])

    run = RunDirectory.open(tmp_path / "run")
    # What a kill in the middle of a write leaves behind:
    torn = run.checkpoints_path / "checkpoint-999.partial-1"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half a state")
    (run.checkpoints_path / "best-999.safetensors.partial").write_bytes(b"half a student")
    with run.metrics_path.open("a", encoding="utf-8") as file:
        file.write('{"step": 99')

    train_student(recipe, progress=NoProgress(), resume=True)
    weights, rows, files = trained(run)
    expected_weights, expected_rows, expected_files = trained(uninterrupted)
    assert weights.keys() == expected_weights.keys()
    for name, tensor in expected_weights.items():
        assert tensor.equal(weights[name]), f"{name} differs when killed at {moment}"
    assert rows == expected_rows, f"metrics differ when killed at {moment}"
    assert files == expected_files
