"""Parts of labels and kept scores, made by workers of a Ray cluster: one machine or many.

Ray Data hands the numbers of missing parts to workers, each of which has built its model once and
writes parts as any process does: to a folder that all machines share, in one step, and the same
bytes whoever makes them. A part whose worker died is handed out again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.errors import UserError, first_line
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.writing import write_recipe
from seqdistill.records.environment import usable_cores
from seqdistill.records.shared_parts import Make, Parts, finish_parts, make_part
from seqdistill.records.temporary import temporary_folder

_LOG = logging.getLogger(__name__)
_MOST_BLOCKS = 10_000
"""What Ray is asked to keep track of; parts beyond share blocks."""
_TOKEN = Path.home() / ".ray" / "auth_token"
_MOST_TRIES = 4
"""A part that ends so many workers ends the job: too little memory would end them all."""


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
        settings = _WorkerSettings(text, build, os.getcwd(), torch.get_num_threads())
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
        self, missing: Sequence[int], settings: _WorkerSettings, threads: int, *, wants_gpu: bool
    ) -> Iterator[int]:
        """The numbers of parts, each when a worker has made it."""
        if not missing:
            return
        with _connected(self, threads) as ray:
            tries = ray.remote(num_cpus=0)(_Tries).remote()
            has_gpu = wants_gpu and ray.cluster_resources().get("GPU", 0) > 0
            rows = ray.data.from_items(
                [{"index": index} for index in missing],
                override_num_blocks=min(len(missing), _MOST_BLOCKS),
            ).map_batches(
                _Worker,
                fn_constructor_kwargs={"settings": settings, "tries": tries},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.count, len(missing))),
                num_cpus=threads,
                num_gpus=1 if has_gpu else None,
            )
            seen = set[str]()
            try:
                for row in rows.iter_rows():
                    found: _Told = pickle.loads(row["told"])
                    for warning in found.warnings:
                        if warning not in seen:
                            _LOG.warning("%s", warning)
                        seen.add(warning)
                    if found.error is not None:
                        raise found.error
                    yield int(row["index"])
            except ray.exceptions.RayError as error:
                raise UserError(
                    "Workers must live until their parts are made, but Ray gave up: "
                    f"{first_line(error)}; what is made stays, and the same command goes on"
                ) from error


@dataclasses.dataclass(frozen=True)
class _WorkerSettings:
    recipe: str
    """As text: its plug-ins are loaded before anything of theirs is read."""
    build: Callable[[Recipe], Parts]
    place: str
    """The folder that paths count from."""
    torch_threads: int


@dataclasses.dataclass(frozen=True)
class _Told:
    """What a worker says about a part, beside the part itself."""

    warnings: Sequence[str]
    error: UserError | None


class _Worker:
    """An actor. What is wrong with its models or folder it says when it is asked for a part."""

    def __init__(self, settings: _WorkerSettings, tries: Any) -> None:
        self._maker, self._tries = _Maker(settings), tries

    def __call__(self, asked: dict[str, Any]) -> dict[str, Any]:
        import ray

        index = int(asked["index"][0])
        if ray.get(self._tries.begin.remote(index)) > _MOST_TRIES:
            error = UserError(
                f"Workers must live until their parts are made, but {_MOST_TRIES} died over part "
                f"{index}; is there memory for a model in every worker? What is made stays, and "
                "the same command goes on, also with fewer --workers"
            )
            told = _Told([], error)
        else:
            told = self._maker.make(index)
        return {"index": asked["index"], "told": [pickle.dumps(told)]}


class _Maker:
    """What a worker does, whoever asks it."""

    def __init__(self, settings: _WorkerSettings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._warnings = _Warnings()
        logging.getLogger("seqdistill").addHandler(self._warnings)

    def make(self, index: int) -> _Told:
        """Makes a part, unless something is wrong."""
        error = None
        try:
            self._parts = self._parts or self._begun()
            make_part(self._parts, index)
        except UserError as found:
            error = found
        return _Told(self._warnings.taken(), error)

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
def _connected(workers: RayWorkers, threads: int) -> Iterator[Any]:
    """Ray while the block runs: a cluster of this machine's own, or the one at the address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    if workers.address is not None and _TOKEN.is_file():
        # `ray start` asks for the token that it keeps there; `ray.init` would not send it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            "--workers needs the package ray, which is not installed; pip install "
            "'seqdistill[ray]', or start several processes with torchrun"
        ) from error
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if workers.address is None:
            cores = workers.count * threads
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address=workers.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            "--ray must be the address of a running Ray cluster, HOST:PORT or auto, got "
            f"{workers.address!r}: {first_line(error)}; start one with `ray start --head`, or "
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
