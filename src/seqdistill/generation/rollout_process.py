"""A process of its own that writes sequences with a copy of the student, while training goes on.

    trainer                                   process
    weights to a file, prompts  ──────────▶   the weights, a sampler of them
    trains                                    writes; where asked, says how hard each answer is
    the answer                  ◀──────────

What it writes depends on the weights, the prompts and the seed alone. A process that dies is
started again and asked the same: nothing is lost and nothing is written twice.

Both sides are this run's own processes: what they pickle lies in a folder of the run's user alone,
or goes through a pipe, and comes from nobody else.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import PreTrainedModel

from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.completions import Completions
from seqdistill.core.errors import UserError
from seqdistill.core.source import Source
from seqdistill.generation.following_difficulty import following_difficulty
from seqdistill.generation.sampling import Sampler
from seqdistill.models.loading import LoadedModel
from seqdistill.records.temporary import temporary_folder

_LOG = logging.getLogger(__name__)
_TRIES = 3
"""As often a process may die over one question."""
_WRITER = "writer"


@dataclasses.dataclass(frozen=True)
class Written:
    """What the process wrote for the prompts of one question, in their order, on the CPU."""

    completions: Completions
    difficulty_gaps: tuple[float, ...] | None
    """The student's following difficulty of each less the teacher's; None where not asked for."""
    seconds: float
    """Of sampling alone."""


@dataclasses.dataclass(frozen=True)
class _Question:
    prompts: tuple[Source, ...]
    seed: int
    weights: Path


@dataclasses.dataclass(eq=False)
class Writer:
    """What runs in the process: the student, what samples from it, and a teacher to compare with.

    It must be picklable, and finds its models on the CPU, whatever device they were on before.
    """

    student: LoadedModel
    make_sampler: Callable[[LoadedModel], Sampler]
    device: str
    teacher: LoadedModel | None = None
    """Given where following difficulties are asked for."""
    vocab_size: int | None = None
    """Following difficulties are over the ids below it; None means all."""

    def __post_init__(self) -> None:
        self._sampler: Sampler | None = None
        self._weights: Path | None = None

    def answer(self, question: _Question) -> Written:
        """Takes the weights where they are new, and writes."""
        if question.weights != self._weights:
            self._load(question.weights)
        assert self._sampler is not None
        started = time.perf_counter()
        found = self._sampler.sample(question.prompts, seed=question.seed).cpu()
        seconds = time.perf_counter() - started
        return Written(found, self._gaps(question.prompts, found), seconds)

    def _load(self, weights: Path) -> None:
        model = self.student.model
        model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        if self._sampler is None:
            for pair in (self.student, self.teacher):
                if pair is not None:
                    pair.model.to(self.device)
            self._sampler = self.make_sampler(self.student)
        self._sampler.refresh()
        self._weights = weights

    def _gaps(self, prompts: Sequence[Source], found: Completions) -> tuple[float, ...] | None:
        if self.teacher is None:
            return None
        own, others = (
            following_difficulty(pair, prompts, found.rows(), vocab_size=self.vocab_size)
            for pair in (self.student, self.teacher)
        )
        return tuple(one - other for one, other in zip(own, others, strict=True))


class RolloutProcess:
    """The trainer's side: `sync`, `ask`, train on, `answer`; one question at a time."""

    def __init__(self, writer: Writer, *, threads: int) -> None:
        """Starts nothing yet. The writer's models may be on any device; they are copied."""
        self._threads = threads
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(temporary_folder())
        teacher = None if writer.teacher is None else _on_cpu(writer.teacher)
        kept = dataclasses.replace(writer, student=_on_cpu(writer.student), teacher=teacher)
        (self._folder / _WRITER).write_bytes(pickle.dumps(kept))
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._question: _Question | None = None
        self._num_synced = 0
        self.restarts = 0
        """How often the process died and was started again."""

    @property
    def process_id(self) -> int | None:
        """The operating system's number of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def sync(self, model: PreTrainedModel) -> None:
        """What is asked from now on is written with the weights that the model has now.

        Must not be called between `ask` and `answer`.
        """
        assert self._question is None, "the process is writing with the weights of before"
        self._num_synced += 1
        path = self._weights
        torch.save({name: each.cpu() for name, each in model.state_dict().items()}, path)
        for old in self._folder.glob("weights-*"):
            if old != path:
                old.unlink()

    @property
    def _weights(self) -> Path:
        return self._folder / f"weights-{self._num_synced}.pt"

    def ask(self, prompts: Sequence[Source], *, seed: int) -> None:
        """Has the process write a sequence for each prompt; returns at once."""
        self._question = _Question(tuple(prompts), seed, self._weights)
        self._send()

    def answer(self) -> Written:
        """What was asked for, awaited.

        Raises the error that the process met with, and UserError when it died `_TRIES` times.
        """
        code: int | None = None
        for tried in range(_TRIES):
            if tried:
                self.restarts += 1
                _LOG.warning(
                    "the process that writes ahead died (exit code %s) and is started again", code
                )
                self._send()
            try:
                assert self._connection is not None
                found = pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                code = self._end()
                continue
            self._question = None
            if isinstance(found, BaseException):
                raise found
            assert isinstance(found, Written)
            return found
        raise UserError(
            "The process that writes ahead must live as long as it writes, but it died "
            f"{_TRIES} times over the same prompts (exit code {code}; -9 is mostly a lack of "
            "memory); lower sequences.near_policy.sync_every or sequences.rollouts.max_new_tokens"
        )

    def close(self) -> None:
        """Ends the process and removes its files. May be called again."""
        self._end()
        self._stack.close()

    def _send(self) -> None:
        if self._process is None:
            self._start()
        assert self._connection is not None
        with contextlib.suppress(OSError):  # of a dead process `answer` tells
            self._connection.send_bytes(pickle.dumps(self._question))

    def _start(self) -> None:
        # Forked from a process that has imported all and started no thread.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._folder / _WRITER, self._threads), daemon=True
        )
        self._process.start()
        theirs.close()

    def _end(self) -> int | None:
        """The exit code of the process, which is ended if it lives."""
        if self._process is None or self._connection is None:
            return None
        self._connection.close()
        self._process.join(timeout=0.5)
        self._process.kill()
        self._process.join()
        code, self._process, self._connection = self._process.exitcode, None, None
        return code


def _on_cpu(pair: LoadedModel) -> LoadedModel:
    if pair.model.device.type == "cpu":
        return pair
    return dataclasses.replace(pair, model=copy.deepcopy(pair.model).cpu())


def _serve(connection: Connection, writer_path: Path, threads: int) -> None:
    """Answers questions until the trainer is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to act on
    keep_freed_memory()
    torch.set_num_threads(threads)
    writer: Writer = pickle.loads(writer_path.read_bytes())
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = pickle.loads(connection.recv_bytes())
            found: Written | Exception
            try:
                found = writer.answer(question)
            except Exception as error:  # the trainer's to tell of
                error.add_note(traceback.format_exc())
                found = error
            # Plain bytes: torch would share tensors in /dev/shm, which is small in containers.
            connection.send_bytes(pickle.dumps(found))
