"""What is learned: after equally many updates, and after equally many minutes of a core.

The bundled arithmetic teacher teaches a student of two of its four layers, which this package has
brought to answer at all; from there everyone goes on alike, all sequences the student's own. A
minute is sixty CPU-seconds of one thread, so that a busy machine favours nobody.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import systems
from benchmarks.peers.measuring import Bench
from benchmarks.peers.preparing import write_ids
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqdistill.assembly.models import model_folder

DATA = "bundled:arithmetic"
START_UPDATES, UPDATES = 200, 60
NUM_TRAIN, NUM_TEST = 4000, 200
PAIR: dict[str, Any] = {
    "train": DATA,
    "batch_tokens": 2000,
    "prompt_tokens": 128,
    "completion_tokens": 120,
    "learning_rate": 5e-4,
    "warmup_updates": 6,
    "warm_up": 3,
    "more": [f"data.max_train_examples={NUM_TRAIN}"],
}
PEER, OURS = "distillation 1", "ours 1"


def measure(bench: Bench, seeds: int) -> None:
    """Trains and measures a student of everyone for every seed."""
    place = bench.folder / "quality"
    _prepare(bench, place)
    _judged(bench, place, "start", place / "student")
    _judged(bench, place, "teacher", place / "teacher")
    for seed in range(1, seeds + 1):
        peer = _trained(bench, place, PEER, "equal-updates", seed, UPDATES)
        ours = _trained(bench, place, OURS, "equal-updates", seed, UPDATES)
        updates = round(UPDATES * peer["cpu_s"] / ours["cpu_s"])
        _trained(bench, place, OURS, "equal-minutes", seed, updates)


def _prepare(bench: Bench, place: Path) -> None:
    limits = {
        "data.train": DATA,
        "data.max_source_tokens": PAIR["prompt_tokens"],
        "data.max_target_tokens": PAIR["completion_tokens"],
    }
    settings = [*(f"{key}={value}" for key, value in limits.items()), *PAIR["more"]]
    if not (place / "teacher").is_dir():
        bundled = model_folder(DATA)
        model = AutoModelForCausalLM.from_pretrained(bundled, dtype="float32")
        model.save_pretrained(place / "teacher")
        AutoTokenizer.from_pretrained(bundled).save_pretrained(place / "teacher")
    start = [
        *settings,
        f"teacher.model={place / 'teacher'}",
        "student.init=teacher_layers",
        "student.decoder_layers=2",
        f"training.steps={START_UPDATES}",
        "training.batch_tokens=2000",
        "training.learning_rate=2.0e-3",
        "training.precision=fp32",
        "training.threads=1",
        "training.trackers=[]",
        f"output_dir={place / 'start'}",
    ]
    command = [sys.executable, "-m", "seqdistill", "train", "supervised_kd", "--resume", *start]
    bench.job("quality/prepare", command, "kept")
    if not (place / "student").exists():
        (place / "student").symlink_to(place / "start" / "student")
    if not (place / "rows.jsonl").is_file():
        write_ids(place, settings)


def pair_of(place: Path) -> dict[str, Any]:
    """The pair, with as many sequences a batch as this package has of its budget of tokens."""
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text("utf-8").splitlines()]
    tokens = sum(len(row["prompt_ids"]) + len(row["target_ids"]) for row in rows)
    return PAIR | {"batch": round(PAIR["batch_tokens"] * len(rows) / tokens)}


def _trained(bench: Bench, place: Path, system: str, what: str, seed: int, updates: int) -> Any:
    name = f"quality/{system.replace(' ', '-')}-{what}/seed-{seed}"
    folder = place / "students" / f"{system.replace(' ', '-')}-{what}-{seed}"
    module, given = systems.settings(
        system, place, pair_of(place), seed=seed, attention="eager", updates=updates
    )
    given |= {"saves": True, "output_dir": str(folder)}
    found = bench.of(name, module, given, "kept")
    student = folder / "student" if module == "ours" else folder
    _judged(bench, place, f"{system.replace(' ', '-')}-{what}/seed-{seed}-judged", student)
    return found


def _judged(bench: Bench, place: Path, name: str, model: Path) -> Any:
    settings = {
        "data.train": DATA,
        "data.test": DATA,
        "data.max_test_examples": NUM_TEST,
        "data.max_source_tokens": PAIR["prompt_tokens"],
        "teacher.model": place / "teacher",
        "student.model": model,
        "evaluation.metrics": "[answer_accuracy]",
        "evaluation.max_new_tokens": 128,
        "training.threads": bench.threads,
    }
    given = {
        "is_peer": False,
        "model": str(model),
        "teacher": str(place / "teacher"),
        "overrides": [f"{key}={value}" for key, value in settings.items()],
    }
    return bench.of(f"quality/{name}", "judge", given, "kept")
