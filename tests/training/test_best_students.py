"""Choosing by dev scores: early stopping, the k best, their mean, and what is left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import Recorder, make_loop, same, scripted, student, weights
from torch import Tensor, nn

from seqdistill.core.errors import UserError
from seqdistill.training.checkpoint import BestStudents, LoopState, load_parameters


def trained(folder: Path, scores: list[float], **changes: Any) -> tuple[Any, Any, list[Any]]:
    """The student, the result, and the weights as they were at each scoring."""
    seen: list[dict[str, Tensor]] = []
    model = student(dropout=0.1)
    loop = make_loop(
        folder,
        model,
        score_dev=scripted(
            scores,
            lambda _module: seen.append(weights(model)),
            changes.get("eval_metric", "bleu"),
        ),
        **{"steps": 6, "eval_every": 1, **changes},
    )
    return model, loop.run(resume=False), seen


def test_of_an_error_rate_the_lowest_is_best(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_metric": "token_error_rate", "keep_best": 2, "patience": 4}
    model, result, seen = trained(tmp_path, [9.0, 3.0, 5.0, 3.0, 4.0, 6.0], **settings)
    assert result.best == ((3.0, 2), (3.0, 4)), "the lowest first; what is noted is the score"
    assert (result.updates, result.stopped_early) == (6, True)
    assert same(weights(model), seen[1])


@pytest.mark.parametrize(
    ("scores", "updates"),
    [
        ([1.0, 5.0, 3.0, 4.0], 4),
        ([5.0, 3.0, 4.0], 3),  # neither a second best
        ([5.0, 5.0, 5.0], 3),  # nor an equal score is a new best
    ],
)
def test_training_stops_after_so_many_scores_without_a_new_best(
    scores: list[float], updates: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"patience": 2, "keep_best": 3}
    model, result, seen = trained(tmp_path, [*scores, 9.0, 9.0, 9.0], **settings)
    assert (result.updates, result.stopped_early) == (updates, True)
    assert same(weights(model), seen[scores.index(max(scores))])
    again, metrics = student(seed=9), Recorder()
    loop = make_loop(tmp_path, again, metrics=metrics, score_dev=scripted([], print), **settings)
    resumed = loop.run(resume=True)
    assert (resumed.updates, resumed.stopped_early) == (updates, True), "it stays stopped"
    assert same(weights(again), weights(model))
    assert metrics.rows == []


def test_the_mean_of_the_k_best_is_the_mean_of_their_weights(tmp_path: Path) -> None:
    model, result, seen = trained(
        tmp_path, [1.0, 5.0, 3.0, 6.0, 2.0, 4.0], keep_best=3, average_best=True
    )
    assert result.best == ((6.0, 4), (5.0, 2), (4.0, 6))
    for name, parameter in model.named_parameters():
        mean = torch.stack([seen[i][name].double() for i in (1, 3, 5)]).mean(dim=0)
        torch.testing.assert_close(parameter.data, mean.float(), rtol=0, atol=1e-7)


def test_the_last_update_is_scored_even_when_none_is_due(tmp_path: Path) -> None:
    _, result, seen = trained(tmp_path, [1.0, 2.0], steps=5, eval_every=3)
    assert result.best == ((2.0, 5),)
    assert len(seen) == 2


def test_scoring_sees_evaluation_mode_and_training_goes_on_with_dropout(tmp_path: Path) -> None:
    modes: list[bool] = []
    model = student(dropout=0.5)
    model.module.register_forward_hook(lambda module, *_: modes.append(module.training))
    scorer = scripted([1.0, 2.0], lambda module: modes.append(module.training))
    calls: list[bool] = []
    model.register_forward_hook(lambda module, *_: calls.append(module.training))
    make_loop(tmp_path, model, score_dev=scorer, steps=2, eval_every=1).run(resume=False)
    assert modes == [False, False]
    assert calls == [True, True]


def test_only_what_the_saved_state_needs_stays_on_disk(tmp_path: Path) -> None:
    trained(tmp_path, [1.0, 5.0, 3.0, 6.0, 2.0, 4.0], keep_best=2, checkpoint_every=1)
    (tmp_path / "best-3.safetensors.partial").write_bytes(b"torn")
    BestStudents(tmp_path, keep=2, score_key=float).clean(LoopState(best=[(6.0, 4), (5.0, 2)]))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "best-2.safetensors",
        "best-4.safetensors",
        "checkpoint-5",
        "checkpoint-6",
    ]


class Counting(nn.Module):
    """A weight and an integer buffer, as batch norms and position tables have."""

    def __init__(self, weight: float, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.register_buffer("steps", torch.tensor(steps))


def test_integer_buffers_are_not_averaged(tmp_path: Path) -> None:
    best, state = BestStudents(tmp_path, keep=2, score_key=float), LoopState()
    for update, weight in ((1, 1.0), (2, 4.0)):
        state.update = update
        assert best.offer(Counting(weight, 10), float(update), state)
    model = Counting(0.0, 0)
    best.restore(model, state, average=True)
    assert (model.weight.item(), int(model.get_buffer("steps"))) == (2.5, 10)


def test_weights_of_another_student_are_refused() -> None:
    with pytest.raises(UserError, match="differs in 'bias'"):
        load_parameters(nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, where="checkpoint-3")
    with pytest.raises(UserError, match="checkpoint-3 differs in 'weight'"):
        load_parameters(
            nn.Linear(2, 2, bias=False), {"weight": torch.zeros(2, 3)}, where="checkpoint-3"
        )
