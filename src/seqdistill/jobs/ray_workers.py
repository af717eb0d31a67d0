"""Parts of labels and kept scores, made by workers of a Ray cluster: one machine or many.

Ray Data hands the numbers of missing parts to workers, each of which has built its model once and
writes parts as any process does: to a folder that all machines share, in one step, and the same
bytes whoever makes them. A part whose worker died is handed out again.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

import torch

from seqdistill.core.errors import UserError
from seqdistill.jobs.ray_driver import Job, Told, WorkerSettings, serve
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.writing import write_recipe
from seqdistill.records.environment import usable_cores
from seqdistill.records.shared_parts import Make, Parts, finish_parts
from seqdistill.records.temporary import temporary_folder

_LOG = logging.getLogger(__name__)
_PLACE = re.compile(r"\[[^]]*\] (\S+:\d+: )?")
"""What Ray writes before a sentence: when, who, and which line of its source."""
_PATIENCE_S = 20.0
"""In which Ray ends its own processes, before they are killed."""


@dataclasses.dataclass(frozen=True)
class RayWorkers:
    """How many workers, of which cluster: its address, or None for one that this machine is."""

    count: int
    address: str | None = None

    def maker(self, recipe: Recipe, build: Callable[[Recipe], Parts]) -> Make:
        """What makes parts through workers, each of which gets its own by `build(recipe)`.

        Raises UserError for what a worker raises so, where Ray is not installed or not there, and
        where a part ends every worker that makes it.
        """
        if "RANK" in os.environ:
            raise UserError(
                "--workers must be given to a single process, which starts the workers, found one "
                "of several (RANK is set); leave torchrun out"
            )
        section = recipe.sequences.decoding
        threads = section.threads or usable_cores()
        # The threads of an engine decide its samples: everywhere those of this machine.
        sequences = recipe.sequences.model_copy(
            update={"decoding": section.model_copy(update={"threads": threads})}
        )
        text = write_recipe(recipe.model_copy(update={"sequences": sequences}))
        settings = WorkerSettings(text, build, os.getcwd(), torch.get_num_threads())
        wants_gpu = recipe.teacher.device != "cpu"

        def make(parts: Parts) -> None:
            missing = [index for index in range(len(parts.names)) if not parts.is_made(index)]
            for index in self._made(missing, settings, threads, wants_gpu=wants_gpu):
                if not parts.is_made(index):
                    raise UserError(
                        f"Workers must write to a folder that this machine sees, but "
                        f"{parts.folder / parts.names[index]} is not here; put it on a file system "
                        "that all hosts share"
                    )
            finish_parts(parts)

        return make

    def _made(
        self, missing: Sequence[int], settings: WorkerSettings, threads: int, *, wants_gpu: bool
    ) -> Iterator[int]:
        """The numbers of parts, each when a worker has made it."""
        if not missing:
            return
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "--workers needs the package ray, which is not installed; pip install "
                "'seqdistill[ray]', or start several processes with torchrun"
            )
        job = Job(missing, settings, self.count, self.address, threads, wants_gpu)
        seen = set[str]()
        for told in _told(job):
            for warning in told.warnings:
                if warning not in seen:
                    _LOG.warning("%s", warning)
                seen.add(warning)
            if told.error is not None:
                raise told.error
            if told.index is not None:
                yield told.index


def _told(job: Job) -> Iterator[Told]:
    """What the workers told, until all parts are made. Raises what ends the job."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with temporary_folder() as folder, ours:
        said = folder / "said"
        process = context.Process(target=serve, args=(theirs, job, said), daemon=True)
        process.start()
        theirs.close()
        try:
            while (found := _received(ours)) is not None:
                yield found
        except EOFError as error:
            process.join(_PATIENCE_S)
            last = said.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            reason = _PLACE.sub("", last).partition(". ")[0] or "it said nothing"
            raise UserError(
                f"The Ray cluster {job.address or 'of this machine'} must stay until all parts are "
                f"made, but Ray ended (exit code {process.exitcode}): {reason}; what is made "
                "stays: start it again, and the same command goes on"
            ) from error
        finally:
            process.terminate()
            process.join(_PATIENCE_S)
            process.kill()
            process.join()


def _received(connection: Connection) -> Told | None:
    found: Told | Exception | None = connection.recv()
    if isinstance(found, Exception):
        raise found
    return found
