"""What is said on screen while a student trains."""

from __future__ import annotations

import pytest
import torch

from seqdistill.core.errors import UserError
from seqdistill.core.token_sum import TokenSum
from seqdistill.training.note import Note, dev_line
from seqdistill.training.processes import StepStats, check_launch


def work(loss: float, **written: float) -> StepStats:
    def mean(value: float) -> TokenSum:
        return TokenSum(torch.tensor(2.0 * value), torch.tensor(2.0))

    two = torch.tensor(2.0)
    return StepStats(mean(loss), {}, {name: mean(value) for name, value in written.items()}, two)


def test_the_loss_on_screen_is_the_mean_of_the_last_updates() -> None:
    note = Note()
    note.add(work(4.0))
    assert note.text == "loss 4.000"
    note.add(work(2.0))
    assert note.text == f"loss {(0.95 * 4 + 2) / 1.95:.3f}"
    for _ in range(200):
        note.add(work(1.0))
    assert note.text == "loss 1.000"


def test_a_reward_is_on_screen_where_there_is_one() -> None:
    note = Note()
    note.add(work(1.0, reward=0.25, finished=1.0))
    assert note.text == "loss 1.000, reward 0.250"


def test_a_score_on_dev_is_a_line() -> None:
    scores = {"bleu": 12.3456, "loss_nats": 2.0}
    line = "dev at update 1,300: bleu 12.35, loss_nats 2"
    assert dev_line(1300, scores, is_best=False) == line
    assert dev_line(1300, scores, is_best=True) == f"{line} (best so far)"


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
        ({}, False),
    ],
    ids=[
        "alone",
        "torchrun",
        "mpi",
        "one process",
        "launched in a cluster",
        "a cluster",
        "no launcher",
    ],
)
def test_one_process_where_several_were_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], refused: bool
) -> None:
    for name in ("WORLD_SIZE", "PMI_SIZE", *ALONE):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if not refused:
        check_launch()
        return
    with pytest.raises(UserError, match="torchrun --nproc_per_node 2 -m seqdistill train"):
        check_launch()
