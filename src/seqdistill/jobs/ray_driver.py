"""The process that speaks to Ray: what hands parts to workers, and what each worker does.

Ray ends the process that speaks to it when its cluster has been gone for a minute. So that is a
process of its own, whose end `ray_workers` explains. What it reads and writes comes from and goes
to this job's own processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.errors import UserError, first_line
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.shared_parts import Parts, make_part
from seqdistill.records.temporary import temporary_folder

_MOST_BLOCKS = 10_000
"""What Ray is asked to keep track of; parts beyond share blocks."""
_TOKEN = Path.home() / ".ray" / "auth_token"
_MOST_TRIES = 4
"""A part that ends so many workers ends the job: too little memory would end them all."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Parts to be made, and by how many workers of which cluster."""

    missing: Sequence[int]
    settings: WorkerSettings
    num_workers: int
    address: str | None
    """None for a cluster that this machine is."""
    threads: int
    """Of each worker."""
    wants_gpu: bool


def serve(connection: Connection, job: Job, said: Path) -> None:
    """Sends what each worker tells when it has made a part; then None.

    Sends an exception in the place of either where one ends the job. What Ray prints goes to the
    file `said`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asking process's to act on
    with said.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for found in _made(job):
            connection.send(found)
        connection.send(None)
    except Exception as error:  # the asking process's to tell of
        error.add_note(traceback.format_exc())
        connection.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _made(job: Job) -> Iterator[Told]:
    with _connected(job) as ray:
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        if most < job.threads:
            warning = (
                f"a worker takes {job.threads} cores, more than any host of the cluster has "
                f"({most:g}): workers wait for such a host; set sequences.decoding.threads={most:g}"
            )
            yield Told(None, [warning], None)
        tries = ray.remote(num_cpus=0)(_Tries).remote()
        has_gpu = job.wants_gpu and ray.cluster_resources().get("GPU", 0) > 0
        rows = ray.data.from_items(
            [{"index": index} for index in job.missing],
            override_num_blocks=min(len(job.missing), _MOST_BLOCKS),
        ).map_batches(
            _Worker,
            fn_constructor_kwargs={"settings": job.settings, "tries": tries},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(job.num_workers, len(job.missing))),
            num_cpus=job.threads,
            num_gpus=1 if has_gpu else None,
        )
        try:
            for row in rows.iter_rows():
                yield pickle.loads(row["told"])
        except ray.exceptions.RayError as error:
            raise UserError(
                "Workers must live until their parts are made, but Ray gave up: "
                f"{first_line(error)}; what is made stays, and the same command goes on"
            ) from error


@dataclasses.dataclass(frozen=True)
class WorkerSettings:
    recipe: str
    """As text: its plug-ins are loaded before anything of theirs is read."""
    build: Callable[[Recipe], Parts]
    place: str
    """The folder that paths count from."""
    torch_threads: int


@dataclasses.dataclass(frozen=True)
class Told:
    """What a worker says about a part, beside the part itself."""

    index: int | None
    """Which is made; None for a word before any is."""
    warnings: Sequence[str]
    error: UserError | None


class _Worker:
    """An actor. What is wrong with its models or folder it says when it is asked for a part."""

    def __init__(self, settings: WorkerSettings, tries: Any) -> None:
        self._maker, self._tries = Maker(settings), tries

    def __call__(self, asked: dict[str, Any]) -> dict[str, Any]:
        import ray

        index = int(asked["index"][0])
        if ray.get(self._tries.begin.remote(index)) > _MOST_TRIES:
            error = UserError(
                f"Workers must live until their parts are made, but {_MOST_TRIES} died over part "
                f"{index}; is there memory for a model in every worker? What is made stays, and "
                "the same command goes on, also with fewer --workers"
            )
            told = Told(index, [], error)
        else:
            told = self._maker.make(index)
        return {"told": [pickle.dumps(told)]}


class Maker:
    """What a worker does, whoever asks it."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._warnings = _Warnings()
        logging.getLogger("seqdistill").addHandler(self._warnings)

    def make(self, index: int) -> Told:
        """Makes a part, unless something is wrong."""
        error = None
        try:
            self._parts = self._parts or self._begun()
            make_part(self._parts, index)
        except UserError as found:
            error = found
        return Told(index, self._warnings.taken(), error)

    def _begun(self) -> Parts:
        settings = self._settings
        try:
            os.chdir(settings.place)
        except OSError as error:
            raise UserError(
                f"Workers must find the folder {settings.place}, from which paths count, on every "
                f"host, found: {error}; work on a file system that all hosts share"
            ) from error
        keep_freed_memory()
        torch.set_num_threads(settings.torch_threads)
        with temporary_folder() as scratch:
            path = scratch / "recipe.yaml"
            Path(path).write_text(settings.recipe, "utf-8")
            recipe = read_recipe(str(path))
        parts = settings.build(recipe)
        parts.begin()
        return parts


class _Tries:
    """An actor: how often each part was begun. Ray by itself tries for ever."""

    def __init__(self) -> None:
        self._counts = Counter[int]()

    def begin(self, index: int) -> int:
        """How often, this time included."""
        self._counts[index] += 1
        return self._counts[index]


class _Warnings(logging.Handler):
    """Keeps what is logged in a worker, for the process that shows it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the sentence."""
        self._kept.append(record.getMessage())

    def taken(self) -> list[str]:
        """What was kept since the last call."""
        kept, self._kept = self._kept, []
        return kept


@contextlib.contextmanager
def _connected(job: Job) -> Iterator[Any]:
    """Ray while the block runs: a cluster of this machine's own, or the one at the address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    if job.address is not None and _TOKEN.is_file():
        # `ray start` asks for the token that it keeps there; `ray.init` would not send it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    import ray.data

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if job.address is None:
            cores = job.num_workers * job.threads
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address=job.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            "--ray must be the address of a running Ray cluster, HOST:PORT or auto, got "
            f"{job.address!r}: {first_line(error)}; start one with `ray start --head`, or "
            "leave --ray out"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()
