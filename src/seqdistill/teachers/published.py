"""A teacher that is published anew while its student trains: its folder is looked at again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.features import NO_LAYERS, Wanted
from seqdistill.models.adapters import SequenceModel
from seqdistill.teachers.in_process import InProcessTeacher

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a teacher is published. Weights that are being written are no error: they are looked
    at again."""

    fingerprint: Callable[[], str]
    """Of what is there now. Raises UserError when it cannot be told."""
    load: Callable[[], SequenceModel]
    """The model that is there now. Raises UserError when it cannot be read."""
    agree: Callable[[str | None], str | None] = lambda own: own
    """What the main process found, on every process."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A teacher, and the update after which it began to teach."""

    since: int
    fingerprint: str


class PublishedTeacher(InProcessTeacher):
    """The weights that lie at a place, looked at again after every `every` updates.

    `on_change` is told when there is another one, with all so far. A checkpoint
    holds no more of them: who goes on takes what is published by then.
    """

    def __init__(
        self,
        model: SequenceModel,
        place: Place,
        *,
        every: int,
        on_change: Callable[[Sequence[Change]], None],
        vocab_size: int,
        layers: Wanted = NO_LAYERS,
    ) -> None:
        super().__init__(model, vocab_size=vocab_size, layers=layers)
        self._place, self._every, self._on_change = place, every, on_change
        self._update, self._changes = 0, [Change(0, place.fingerprint())]

    @property
    def changes(self) -> Sequence[Change]:
        """The teachers so far."""
        return tuple(self._changes)

    def student_updated(self, update: int) -> None:
        """Looks at the place when it is time to."""
        self._update = update
        if update % self._every == 0:
            self._look()

    def _look(self) -> None:
        try:
            own = self._place.fingerprint()
        except UserError as error:
            own, why = None, str(error)
        else:
            why = "it changed while it was read"
        now = self._place.agree(own)
        if now == self._changes[-1].fingerprint:
            return
        try:
            found = None if now is None else self._place.load()
            whole = found is not None and self._place.fingerprint() == now
        except UserError as error:
            whole, why = False, str(error)
        if self._place.agree(now if whole else None) is None:
            _LOG.warning(
                "the published teacher cannot be read yet, so the one before stays: %s", why
            )
            return
        if found is None or not whole:
            raise ModelError(
                "teacher.model must be one folder that all processes see, but this one does not "
                "find the weights that the main process did; share the folder"
            )
        self._take(found)
        self._changes.append(Change(self._update, str(now)))
        self._on_change(self._changes)

    def _take(self, found: SequenceModel) -> None:
        try:
            self.model.load_state_dict(found.state_dict())
        except RuntimeError as error:
            raise ModelError(
                "A teacher that is published while its student trains must have the shapes of the "
                f"one before, got: {error}; publish it in another folder and start a new run"
            ) from error

    def state_dict(self) -> dict[str, Tensor]:
        """Which teachers there were: updates (n), and the bytes of names (n, 64)."""
        names = [list(change.fingerprint.encode()) for change in self._changes]
        since = [change.since for change in self._changes]
        return {
            "update": torch.tensor(self._update),
            "since": torch.tensor(since),
            "fingerprints": torch.tensor(names, dtype=torch.uint8),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on with what is published now, after those that were seen before."""
        now, self._update = self._changes[-1].fingerprint, int(state["update"])
        names = (bytes(name).decode() for name in state["fingerprints"].tolist())
        self._changes = list(map(Change, state["since"].tolist(), names))
        if self._changes[-1].fingerprint != now:
            self._changes.append(Change(self._update, now))
        self._on_change(self._changes)
