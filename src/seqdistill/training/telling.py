"""What a training tells while it goes on: metrics, trackers, alarms, and words for the screen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from accelerate import Accelerator

from seqdistill.core.phases import PHASES, PREFIX, PhaseClock, mean_seconds
from seqdistill.core.progress import Progress
from seqdistill.metrics.diversity import OUTPUTS
from seqdistill.records.run_directory import RunDirectory
from seqdistill.training.alarms import Alarm
from seqdistill.training.checkpoint import LoopState
from seqdistill.training.processes import StepStats, all_gather_object

_LOG = logging.getLogger(__name__)
DEV = "dev_"
"""Before the names of dev's scores in the metrics."""
_KEPT = 0.95
"""Of the loss on screen, at each update: it is the mean of about the last twenty."""


class Note:
    """Moving means of loss and reward since this process began, for the screen.

    The first updates count as much as they should: the weights of a mean are those that it has.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, stats: StepStats) -> None:
        """One more update."""
        for name, seen in (("loss", stats.loss), ("reward", stats.source.get("reward"))):
            if seen is not None and float(seen.count):
                total, weight = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (_KEPT * total + seen.mean, _KEPT * weight + 1.0)

    @property
    def text(self) -> str:
        """`loss 3.214`, and of policy gradients `, reward 0.512`."""
        return ", ".join(f"{name} {sum_ / n:.3f}" for name, (sum_, n) in self._sums.items())


class Telling:
    """Where the loop tells of itself. Files and trackers are the main process's."""

    def __init__(
        self,
        accelerator: Accelerator,
        run_directory: RunDirectory,
        progress: Progress,
        clock: PhaseClock,
    ) -> None:
        self._accelerator, self._run_directory = accelerator, run_directory
        self._progress, self._clock = progress, clock
        self._note = Note()
        self._timed_to = (0, 0.0)  # tokens and seconds that a logged speed has told of

    def begin(self, state: LoopState, steps: int) -> None:
        """The training begins, or goes on, with this state."""
        self._timed_to = (state.tokens, state.seconds)
        self._progress.start("training", steps)
        self._progress.advance(state.update)

    def update(self, stats: StepStats, *, skipped: bool) -> None:
        """An update is done, with what the screen shows of it."""
        if not skipped:
            self._note.add(stats)
        self._progress.advance(1, self._note.text)

    def metrics(self, state: LoopState, stats: StepStats, rate: float, norm: float | None) -> None:
        """`norm` is None for an update that was skipped: it has no loss either. Collective."""
        (tokens_before, seconds_before), now = self._timed_to, (state.tokens, state.seconds)
        self._timed_to = now
        speed = (state.tokens - tokens_before) / (state.seconds - seconds_before)
        # The mean of nothing is no number that a log can hold.
        means = {
            name: part.mean if float(part.count) else None
            for name, part in (*stats.parts.items(), *stats.source.items())
        }
        self._log(
            state,
            {
                "loss_nats": None if norm is None else stats.loss.mean,
                **means,
                "learning_rate": rate,
                "gradient_norm": norm,
                **({"skipped_updates": state.skipped} if state.skipped else {}),
                "tokens": state.tokens,
                "seconds": round(state.seconds, 3),
                "tokens_per_second": speed,
                "padded_fraction": state.padded / state.positions,
                **self._profile(),
            },
        )

    def dev(self, state: LoopState, scores: Mapping[str, float], *, is_best: bool) -> None:
        """Dev was scored."""
        self._log(state, {DEV + name: value for name, value in scores.items()})
        shown = (f"{name} {value:.4g}" for name, value in scores.items() if name not in OUTPUTS)
        best_yet = " (best so far)" if is_best else ""
        self._progress.echo(f"dev at update {state.update:,}: {', '.join(shown)}{best_yet}")

    def alarms(self, state: LoopState, alarms: Sequence[Alarm]) -> None:
        """Something that was watched has left its limits."""
        for alarm in alarms:
            if self._accelerator.is_main_process:
                text = alarm.text(state.update)
                row = {"quantity": alarm.quantity, "value": alarm.value, "limit": alarm.limit}
                self._run_directory.log_alarm(state.update, {**row, "text": text})
                _LOG.warning("%s", text)

    def end(self, state: LoopState) -> None:
        """The training is over, or pauses: what was skipped, and where its seconds went.
        Collective."""
        self._progress.finish()
        if state.skipped:
            self._progress.echo(
                f"{state.skipped:,} of {state.update:,} updates were skipped, since nothing in "
                "them had a weight"
            )
        self._log(state, profile := self._profile())
        if whole := sum(profile.values()):
            told = {PHASES[key.removeprefix(PREFIX)]: s / whole for key, s in profile.items()}
            shares = ", ".join(f"{name} {share:.0%}" for name, share in told.items())
            padded = state.padded / max(1, state.positions)
            self._progress.echo(
                f"training took {whole:.1f} s: {shares}; {padded:.1%} of the input was padding"
            )

    def _log(self, state: LoopState, values: Mapping[str, object]) -> None:
        if self._accelerator.is_main_process:
            self._run_directory.log_metrics(state.update, values)
            numbers = {n: v for n, v in values.items() if isinstance(v, int | float)}
            self._accelerator.log(numbers, step=state.update)

    def _profile(self) -> dict[str, float]:
        """The seconds of each phase so far, by their names in metrics."""
        found = mean_seconds(all_gather_object(self._clock.seconds()))
        return {f"{PREFIX}{name}": round(seconds, 3) for name, seconds in found.items()}
