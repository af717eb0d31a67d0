"""Several processes train one student: what one process would, from the same global batches."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tests.jobs.runs import folder_for
from tests.tiny import tiny_adapter
from tests.training import ranks
from tests.training.small import same, student, weights
from torch import Tensor, nn

import seqdistill
from seqdistill.compression.pruning import PruningMask, prune
from seqdistill.core.errors import UserError
from seqdistill.models.loading import load_pair
from seqdistill.recipe.schema import TrainingSection
from seqdistill.records.run_directory import RunDirectory
from seqdistill.training.optimization import check_trainable
from seqdistill.training.processes import (
    all_gather_object,
    broadcast_from_main,
    check_launch,
    layer_classes,
    make_accelerator,
    prepare,
)

ROOT = Path(__file__).parents[2]
OF_TWO = [f"2-{parallel}" for parallel in ranks.PARALLELS]
RUNS = [*OF_TWO, *(f"3-{parallel}" for parallel in ranks.PARALLELS)]

OF_ONE_PROCESS = ("rollouts", "generation_tokens_per_second", "refresh_seconds")
"""Logged as the mean of a process, or by a clock."""
OF_MICRO_BATCHES = ("padded_fraction",)
"""Of rollouts, which each process regroups by length for itself."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every number of processes left weights, rows and refusals."""
    folder = tmp_path_factory.mktemp("ranks")
    source = Path(seqdistill.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{source}"}
    (folder / "job").mkdir()
    folder_for(folder / "job", "mbart")
    words = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = Accelerator(cpu=True)
    rows = ranks.trainings(folder / "one", alone)
    (folder / "one" / "facts-0.json").write_text(json.dumps({"rows": rows}))
    ranks.gone_on(folder / "one", folder / ranks.BEGUN, alone)
    model = student(dtype=torch.float64)
    ranks.train(folder / "whole", alone, model, optimizer="sgd", schedule="constant")
    save_file(weights(model), folder / "one" / "uninterrupted-0.safetensors")
    return folder


def left(folder: Path, name: str, training: str, rank: int = 0) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / name / f"{training}-{rank}.safetensors")
    return found


def facts(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / f"facts-{rank}.json").read_text())
    return found


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_several_processes_equal_one_with_their_global_batch(trained: Path, name: str) -> None:
    assert facts(trained, name)["kind"].endswith("FSDP" if "fsdp2" in name else "MULTI_CPU")
    # Adam divides by what may be near its epsilon, which widens rounding.
    limits = {"adam": 1e-8, "distilled": 1e-12, "on-policy": 1e-12}
    if name == "2-ddp":
        limits["features"] = 1e-12
    for training, limit in limits.items():
        expected = left(trained, "one", training)
        assert difference(left(trained, name, training), expected) < limit, training
        rows = facts(trained, name)["rows"][training]
        for row, one in zip(rows, facts(trained, "one")["rows"][training], strict=True):
            left_out = OF_ONE_PROCESS + (OF_MICRO_BATCHES if "rollouts" in one else ())
            compared = {key: value for key, value in one.items() if key not in left_out}
            assert {key: row[key] for key in compared} == pytest.approx(compared, rel=1e-9)
    first, second = facts(trained, name)["rows"]["on-policy"]
    assert first["student_fraction"] == 0.5 != second["student_fraction"]
    assert first["beta"] == 0.5 != second["beta"]
    assert not same(left(trained, "one", "distilled"), weights(student(dtype=torch.float64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TWO)
def test_only_the_main_process_logs_and_all_end_alike(trained: Path, name: str) -> None:
    told = {facts(trained, name, rank)["poisoned"] for rank in (0, 1)}
    assert len(told) == 1, "a loss that is not finite stops all processes with one error"
    assert "the term nll is nan for the examples e" in told.pop()
    assert not any(facts(trained, name, rank=1)["rows"].values())
    for training in ("distilled", "on-policy", "whole", "resumed"):
        assert same(*(left(trained, name, training, rank) for rank in (0, 1))), training


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TWO)
def test_every_processs_dropout_is_resumed(trained: Path, name: str) -> None:
    state = trained / name / "half-run" / "checkpoint-1"
    states = [load_file(state / file) for file in ("random.safetensors", "random-1.safetensors")]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert same(left(trained, name, "resumed"), left(trained, name, "whole"))
    assert not same(left(trained, name, "resumed"), left(trained, name, "half"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "2-fsdp2", "3-ddp", "3-fsdp2"])
def test_any_number_of_processes_goes_on_with_a_checkpoint_of_two(trained: Path, name: str) -> None:
    expected = left(trained, "one", "uninterrupted")
    assert difference(left(trained, name, "continued"), expected) < 1e-12


@pytest.mark.slow
def test_two_processes_run_one_job_in_shards(trained: Path) -> None:
    told = (trained / "job" / "told-0.txt").read_text()
    assert "2 processes train one student together" in told
    run = RunDirectory.open(trained / "job" / "runs" / "run")
    assert run.is_finished and load_pair(str(run.student_path)).kind == "seq2seq"


@pytest.mark.slow
def test_processes_that_would_train_apart_are_refused(trained: Path) -> None:
    expected = "" if torch.cuda.is_available() else "All 2 launched processes must train one model"
    for rank in (0, 1):
        assert facts(trained, "2-ddp", rank)["refusal"].startswith(expected)


def test_one_process_is_left_as_it_is_and_of_a_launch_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, accelerator = nn.Linear(2, 2), Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters())
    assert prepare(model, optimizer, accelerator) == (model, optimizer)
    assert broadcast_from_main("value", accelerator) == "value"
    assert all_gather_object("value") == ["value"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"All 2 launched .* joined 1 and wrapped it as Linear"):
        prepare(model, optimizer, accelerator)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="fsdp_version: 2"):
        make_accelerator("auto", on_cpu=True)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mbart", ["MBartDecoderLayer", "MBartEncoderLayer"]),
        ("t5", ["T5Block"]),
        ("llama-tied", ["LlamaDecoderLayer"]),
    ],
)
def test_layers_are_sharded_whole(name: str, layers: list[str]) -> None:
    assert layer_classes(tiny_adapter(name)) == layers


@pytest.mark.parametrize(
    ("sharded", "settings", "pruned", "named"),
    [
        (True, {}, True, "fsdp2 must be left out with pruning"),
        (True, {"optimizer": "adamw_8bit"}, False, "fsdp2 must be left out with .*8bit"),
        (False, {"gradient_checkpointing": True}, False, "gradient_checkpointing"),
        (False, {}, True, None),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
    sharded: bool,
    settings: dict[str, Any],
    pruned: bool,
    named: str | None,
) -> None:
    monkeypatch.setattr(Accelerator, "is_fsdp2", sharded)
    monkeypatch.setattr("seqdistill.training.optimization.check_optimizer", lambda settings: None)
    model = student()
    model.module.supports_gradient_checkpointing = False
    mask = PruningMask.of_nothing()
    if pruned:
        mask = prune(model.module, pruned_share=0.5, scheme="class_blind")
    told = pytest.raises(UserError, match=named) if named else contextlib.nullcontext()
    with told:
        check_trainable(model, mask, TrainingSection(**settings), Accelerator(cpu=True))


# What accelerate 1.15 sets for `launch --cpu --num_processes 2`, beside which it starts one.
ALONE = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (ALONE, True),
        ({**ALONE, "WORLD_SIZE": "2"}, False),
        ({**ALONE, "PMI_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),
        ({**ALONE, "MASTER_ADDR": "node17"}, False),
        ({"MASTER_ADDR": "127.0.0.1"}, False),
    ],
    ids=["alone", "torchrun", "mpi", "one process", "launched in a cluster", "no launcher"],
)
def test_one_process_where_several_were_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], refused: bool
) -> None:
    for name in ("WORLD_SIZE", "PMI_SIZE", *ALONE):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    told = pytest.raises(UserError, match="torchrun --nproc_per_node 2 -m seqdistill train")
    with told if refused else contextlib.nullcontext():
        check_launch()
