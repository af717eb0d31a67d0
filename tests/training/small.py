"""What a training test needs: a plain objective, a recording log, and loops over tiny models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tests.tiny import collator, random_examples, tiny_adapter
from torch import Tensor
from torch.nn.functional import cross_entropy

from seqdistill.compression.pruning import PruningMask
from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.phases import PREFIX
from seqdistill.core.progress import NoProgress
from seqdistill.core.scores import TeacherScores
from seqdistill.core.terms import Reduction, Term
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.placement import Precision
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Weights
from seqdistill.recipe.schema import TrainingSection
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import SequenceSource
from seqdistill.sources.stored import StoredSequences
from seqdistill.teachers.in_process import NoTeacher, Teacher
from seqdistill.training.loop import DevScorer, TrainingLoop

SETTINGS = TrainingSection(
    steps=6,
    learning_rate=0.01,
    warmup_steps=2,
    max_grad_norm=1e9,
    weight_decay=0.01,
    log_every=1,
)
Then = Callable[
    [StudentStates, StudentStates | None, SequenceBatch, TokenSum],
    tuple[TokenSum, dict[str, TokenSum]],
]
TIMINGS = ("seconds", "tokens_per_second")
"""What no two trainings log alike, beside the phases of a profile."""


def without_timings(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows but for what hangs on a clock; none where that is all of one."""
    numbers = (
        {k: v for k, v in row.items() if k not in TIMINGS and not k.startswith(PREFIX)}
        for row in rows
    )
    return [row for row in numbers if row.keys() != {"step"}]


class PlainObjective(WeightedObjective):
    """Cross entropy of whole logits, by torch: slow, short and independent of the fused forms."""

    needs_eval_states = False

    def __init__(self, reduction: Reduction = "token", *, then: Then | None = None) -> None:
        """`then` sees states, eval states, batch and loss, and gives what is returned."""
        super().__init__([Term.of("negative_log_likelihood")], reduction=reduction)
        self._then = then

    def learns_from(self, parts: Mapping[str, TokenSum]) -> bool:
        return True

    def __call__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates | None = None,
        weights: Weights | None = None,
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        logits = states.head.logits(states.hidden)
        values = cross_entropy(logits.flatten(0, 1), batch.target_ids.flatten(), reduction="none")
        values = values.view_as(batch.target_ids) * batch.target_mask
        lengths = batch.target_mask.sum(dim=1)
        if self._reduction == "sequence":
            loss = TokenSum((values.sum(dim=1) / lengths).sum(), torch.tensor(len(lengths) * 1.0))
        else:
            loss = TokenSum(values.sum(), lengths.sum().to(values.dtype))
        if self._then is not None:
            return self._then(states, eval_states, batch, loss)
        return loss, {"nll": loss}


class Recorder(RunDirectory):
    """A run directory with its log in memory: `rows`, and the profile's seconds of each.

    `stop_at` raises when that step is logged.
    """

    def __init__(self, *, stop_at: int | None = None) -> None:
        super().__init__("nowhere")
        self.rows: list[dict[str, Any]] = []
        self.alarms: list[dict[str, Any]] = []
        self.profiles: list[dict[str, Any]] = []
        self.stop_at = stop_at

    def log_metrics(self, step: int, values: Mapping[str, object]) -> None:
        if step == self.stop_at:
            raise KeyboardInterrupt
        profile = {key: value for key, value in values.items() if key.startswith(PREFIX)}
        if profile:
            self.profiles.append({"step": step, **profile})
        if others := {key: value for key, value in values.items() if key not in profile}:
            self.rows.append({"step": step, **others})

    def log_alarm(self, step: int, row: Mapping[str, object]) -> None:
        self.alarms.append({"step": step, **row})

    def logs_so_far(self) -> dict[str, Any]:
        return {"rows": len(self.rows)}

    def go_back_to(self, logs: Mapping[str, Any]) -> None:
        del self.rows[logs.get("rows", 0) :]

    @property
    def without_timings(self) -> list[dict[str, Any]]:
        """See the function."""
        return without_timings(self.rows)


class ListedBatches(SequenceSource):
    """A source of given groups of examples, one batch each, in order."""

    def __init__(self, groups: Sequence[Sequence[Any]]) -> None:
        self._groups = groups
        self._next = 0

    def next_batch(self) -> SequenceBatch:
        self._next += 1
        return collator("seq2seq")(self._groups[self._next - 1])

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = state["next"]


def stored(*, rank: int = 0, world_size: int = 1) -> StoredSequences:
    """The data of most tests: forty examples in batches of about three."""
    examples = random_examples(40)
    rated = [
        dataclasses.replace(e, extras={"pass_rate": n % 5 / 4}) for n, e in enumerate(examples)
    ]
    places = EpochBatches(
        rated, "seq2seq", batch_tokens=24, seed=5, rank=rank, world_size=world_size
    )
    return StoredSequences(rated, collator("seq2seq"), places)


def student(*, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny mBART behind its adapter."""
    return tiny_adapter("mbart", dropout=dropout, seed=seed).to(dtype)


def make_loop(
    folder: Path,
    model: SequenceModel,
    *,
    source: SequenceSource | None = None,
    objective: Any = None,
    metrics: Recorder | None = None,
    score_dev: DevScorer | None = None,
    mask: PruningMask | None = None,
    precision: Precision = "fp32",
    eval_metric: str = "bleu",
    accelerator: Accelerator | None = None,
    teacher: Teacher | None = None,
    samples_student: bool = False,
    **changes: Any,
) -> TrainingLoop:
    """A loop with `SETTINGS` but for the named changes."""
    run = metrics or Recorder()
    run.path = run.checkpoints_path = folder
    return TrainingLoop(
        model=model,
        source=source or stored(),
        teacher=teacher or NoTeacher(),
        objective=objective or PlainObjective(),
        mask=mask or PruningMask.of_nothing(),
        settings=TrainingSection(**{**SETTINGS.model_dump(), **changes}),
        precision=precision,
        eval_metric=eval_metric,
        seed=5,
        accelerator=accelerator or Accelerator(cpu=True),
        run_directory=run,
        progress=NoProgress(),
        score_dev=score_dev,
        samples_student=samples_student,
    )


def weights(model: SequenceModel) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all bits agree."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def scripted(
    scores: Sequence[float], seen: Callable[[SequenceModel], None], metric: str = "bleu"
) -> DevScorer:
    """A dev scorer that gives these scores in turn and shows each model to `seen`."""
    left = list(scores)

    def score(model: Any) -> Mapping[str, float]:
        seen(model)
        return {metric: left.pop(0), "chrf": 0.0}

    return score
