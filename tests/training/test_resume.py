"""A resumed training equals an uninterrupted one, bit for bit, dropout and metrics included."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tests.training.small import (
    SETTINGS,
    Recorder,
    make_loop,
    same,
    scripted,
    stored,
    student,
    weights,
)
from torch import Tensor, nn

from seqdistill.compression.pruning import PruningMask
from seqdistill.core.errors import UserError
from seqdistill.records.checksums import CHECKSUMS
from seqdistill.records.run_directory import Resume
from seqdistill.sources.stored import PrefetchedSource
from seqdistill.teachers.in_process import NoTeacher
from seqdistill.training.checkpoint import checkpoint_to_resume, load_state, saved_states
from seqdistill.training.optimization import make_optimizer

SCORES = [3.0, 9.0, 4.0]


def train(folder: Path, metrics: Recorder, *, resume: Resume = False, left: int = 3) -> Any:
    """Six updates with dropout, a state every second and a dev score every second."""
    # A student that is put back from a state may have started from anything.
    model = student(dropout=0.3, seed=1 if saved_states(folder) else 0)
    loop = make_loop(
        folder,
        model,
        metrics=metrics,
        score_dev=scripted(SCORES[-left:], lambda _module: None),
        checkpoint_every=2,
        eval_every=2,
        keep_best=2,
        average_best=True,
    )
    loop.run(resume=resume)
    return model


class Run(NamedTuple):
    """A training that ended: its weights, its log and its states."""

    weights: dict[str, Tensor]
    metrics: Recorder
    folder: Path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    metrics, folder = Recorder(), tmp_path_factory.mktemp("whole")
    return Run(weights(train(folder, metrics)), metrics, folder)


def stopped_at_five(folder: Path) -> Recorder:
    metrics = Recorder(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        train(folder, metrics)
    metrics.stop_at = None
    return metrics


FILES = ["model", "optimizer", "random", "state", "checksums", "best"]


def damaged(folder: Path, what: str, how: str) -> Path:
    """A file of checkpoint-4, or the best student only it refers to, spoilt."""
    if what == "best":
        path = folder / "best-4.safetensors"
    else:
        (path,) = (folder / "checkpoint-4").glob(f"{what}.*")
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return path
    content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "truncated" else content)
    return path


@pytest.mark.parametrize(
    ("what", "how"),
    [
        *((what, "flipped") for what in FILES),
        ("model", "truncated"),
        ("checksums", "missing"),
        ("best", "missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_taken_when_asked(
    what: str,
    how: str,
    uninterrupted: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = stopped_at_five(tmp_path)
    assert [path.name for path in saved_states(tmp_path)] == ["checkpoint-2", "checkpoint-4"]
    path = damaged(tmp_path, what, how)
    named = "" if what == "checksums" else path.name  # a digit of them is another file's
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"{named}.* from checkpoint-2, .*whole"):
        train(tmp_path, metrics, resume=True, left=2)
    assert sorted(tmp_path.rglob("*")) == before
    torn = tmp_path / "checkpoint-99.partial-123"
    torn.mkdir()
    model = train(tmp_path, metrics, resume="latest-whole", left=2)
    assert not torn.exists()
    assert "checkpoint-4 is damaged" in caplog.text and named in caplog.text
    assert same(weights(model), uninterrupted.weights)
    assert metrics.without_timings == uninterrupted.metrics.without_timings


@pytest.mark.parametrize("resume", [True, "latest-whole"])
def test_without_a_whole_checkpoint_nothing_is_trained_or_removed(
    resume: Resume, tmp_path: Path
) -> None:
    metrics = stopped_at_five(tmp_path)
    damaged(tmp_path, "model", "flipped")
    (tmp_path / "checkpoint-2" / CHECKSUMS).unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"checkpoint-4/model\.saf.*no older one is whole"):
        train(tmp_path, metrics, resume=resume, left=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_best_student_damaged_while_training_goes_on_is_not_taken(tmp_path: Path) -> None:
    model = student()

    def damage_the_first(_module: object) -> None:
        if (path := tmp_path / "best-2.safetensors").exists():
            path.write_bytes(path.read_bytes()[:-1])

    score_dev = scripted([9.0, 1.0, 1.0], damage_the_first)
    loop = make_loop(tmp_path, model, score_dev=score_dev, eval_every=2)
    with pytest.raises(UserError, match=r"best-2\.safetensors does not match its checksum"):
        loop.run(resume=False)


def test_what_is_read_ahead_is_not_lost_when_a_run_resumes() -> None:
    ahead, plain = PrefetchedSource(stored(), torch.device("cpu")), stored()
    for number in range(50):
        if number % 7 == 3:  # a place that is taken up by another process, then by this one again
            state = ahead.state_dict()
            assert state == plain.state_dict()
            ahead = PrefetchedSource(stored(), torch.device("cpu"))
            ahead.load_state_dict(state)
            ahead.next_batch()
            ahead.load_state_dict(state)
        found, expected = ahead.next_batch(), plain.next_batch()
        assert found.example_ids == expected.example_ids
        assert torch.equal(found.target_ids, expected.target_ids)


def test_a_finished_run_that_is_resumed_gives_its_student_again(
    uninterrupted: Run, tmp_path: Path
) -> None:
    metrics, folder = Recorder(), tmp_path / "again"
    shutil.copytree(uninterrupted.folder, folder)
    assert same(weights(train(folder, metrics, resume=True, left=1)), uninterrupted.weights)
    assert metrics.rows == []
    with pytest.raises(FileExistsError):  # a new run does not take up old states
        train(folder, Recorder())
    (folder / "checkpoint-x").mkdir()
    (folder / "checkpoint-10").mkdir()
    names = [path.name for path in saved_states(folder)]
    assert names == ["checkpoint-4", "checkpoint-6", "checkpoint-10"]
    assert checkpoint_to_resume(folder / "nowhere", True) is None


def test_a_state_holds_tied_weights_once_and_every_counter(uninterrupted: Run) -> None:
    path, model = uninterrupted.folder / "checkpoint-6", student(seed=1)
    stored = load_file(path / "model.safetensors")
    assert {name for name in stored if "shared" in name or "embed_tokens" in name} == {
        "module.model.shared.weight"
    }
    optimizer = make_optimizer(model, SETTINGS)
    state = load_state(
        path,
        model=model,
        mask=PruningMask.of_nothing(),
        features=nn.ModuleList(),
        teacher=NoTeacher(),
        optimizer=optimizer,
        device=torch.device("cpu"),
    )
    assert (state.update, state.best) == (6, [(9.0, 4), (4.0, 6)])
    assert state.evaluations_without_best == 1
    steps = {float(slots["step"]) for slots in optimizer.state_dict()["state"].values()}
    assert steps == {6.0}


def test_an_old_best_student_that_is_damaged_can_be_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores, metrics = [9.0, 1.0, 2.0], Recorder()

    def run(resume: Resume) -> Any:
        loop = make_loop(
            tmp_path,
            student(),
            metrics=metrics,
            score_dev=scripted(scores, lambda _module: None),
            eval_every=2,
            checkpoint_every=1,
        )
        return loop.run(resume=resume)

    run(False)
    best = tmp_path / "best-2.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"best-2.* go on without that best student"):
        run(True)
    assert run("latest-whole").best == ()
    assert "best-2.safetensors does not match its checksum; going on without it" in caplog.text
