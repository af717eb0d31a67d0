"""Several processes train one student: what one process would, from the same global batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.training.small import Recorder, make_loop, same, scripted, student, weights
from torch import Tensor, nn

import seqdistill
from seqdistill.core.errors import UserError
from seqdistill.training.processes import all_gather_object, broadcast_from_main, joined

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left their weights, rows and refusals."""
    folder = tmp_path_factory.mktemp("two")
    source = Path(seqdistill.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{source}"}
    script = Path(__file__).with_name("two_processes.py")
    # As torchrun would start them, without the seconds that it takes to start itself.
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def by_two(folder: Path, name: str, rank: int = 0) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / f"{name}-{rank}.safetensors")
    return found


def facts(folder: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"facts-{rank}.json").read_text())
    return found


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_micro_batches(
    trained_by_two: Path, tmp_path: Path
) -> None:
    model, metrics = student(dtype=torch.float64), Recorder()
    start = weights(model)
    make_loop(
        tmp_path,
        model,
        metrics=metrics,
        score_dev=scripted([2.0], lambda _module: None),
        gradient_accumulation_steps=4,
        steps=4,
    ).run(resume=False)
    found = by_two(trained_by_two, "exact")
    for name, parameter in weights(model).items():
        torch.testing.assert_close(found[name], parameter, rtol=0, atol=1e-8)
    assert not same(weights(model), start)
    rows = facts(trained_by_two)["rows"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4]
    for row, expected in zip(rows, metrics.without_timings, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_only_the_main_process_logs_and_all_end_alike(trained_by_two: Path) -> None:
    assert facts(trained_by_two, rank=1)["rows"] == []
    for name in ("exact", "whole", "resumed"):
        assert same(by_two(trained_by_two, name, 0), by_two(trained_by_two, name, 1)), name


@pytest.mark.slow
def test_every_ranks_dropout_is_resumed(trained_by_two: Path) -> None:
    state = trained_by_two / "half" / "checkpoint-2"
    states = [load_file(state / name) for name in ("random.safetensors", "random-1.safetensors")]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert same(by_two(trained_by_two, "resumed"), by_two(trained_by_two, "whole"))
    assert not same(by_two(trained_by_two, "resumed"), by_two(trained_by_two, "half"))


@pytest.mark.slow
def test_processes_that_would_train_apart_are_refused(trained_by_two: Path) -> None:
    expected = "" if torch.cuda.is_available() else "All 2 launched processes must train one model"
    for rank in (0, 1):
        assert facts(trained_by_two, rank)["refusal"].startswith(expected)


def test_one_process_is_left_as_it_is() -> None:
    model, accelerator = nn.Linear(2, 2), Accelerator(cpu=True)
    assert joined(model, accelerator) is model
    assert broadcast_from_main("value", accelerator) == "value"
    assert all_gather_object("value") == ["value"]


def test_a_launch_that_accelerate_did_not_join_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"All 2 launched .* joined 1 and wrapped it as Linear"):
        joined(nn.Linear(2, 2), accelerator)
