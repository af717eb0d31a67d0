"""Labels and kept scores by Ray workers are those of one process; the cluster's tests need ray."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import recipe_in, save_pairs

from seqdistill.assembly import corpus
from seqdistill.core.errors import EngineError, UserError
from seqdistill.core.progress import NoProgress, Progress
from seqdistill.jobs import ray_workers
from seqdistill.jobs.label import label_data
from seqdistill.jobs.ray_workers import RayWorkers
from seqdistill.jobs.score import score_teacher
from seqdistill.recipe.schema import Recipe
from seqdistill.teachers import kept_scores

SAMPLES = ("sequences.decoding.mode=sample", "sequences.decoding.max_new_tokens=4")
TOP_K = ("teacher.scores=top_k", "teacher.top_k=3")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def labelling(place: Path, name: str, *more: str) -> Recipe:
    return recipe_in(place, "seq_kd", *SAMPLES, f"sequences.corpus={place / name}", *more)


def scoring(place: Path, name: str) -> Recipe:
    return recipe_in(place, "word_kd", *TOP_K, f"teacher.kept_scores={place / name}")


class Counted(Progress):
    done = 0

    def advance(self, units: int = 1, note: str = "") -> None:
        self.done += units


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Workers are two objects in this process, which take parts in any order."""
    order: list[int] = []

    def made(
        self: RayWorkers, missing: Sequence[int], settings: Any, threads: int, *, wants_gpu: bool
    ) -> Iterator[int]:
        workers = [ray_workers._Maker(pickle.loads(pickle.dumps(settings))) for _ in range(2)]
        for index in random.Random(1).sample(missing, len(missing)):
            told = pickle.loads(pickle.dumps(workers[index % 2].make(index)))
            if told.error is not None:
                raise told.error
            order.append(index)
            yield index

    monkeypatch.setattr(RayWorkers, "_made", made)
    return order


@pytest.fixture
def in_fives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(corpus.LABELS), "shard_size", 5)
    monkeypatch.setattr(kept_scores, "PART_EXAMPLES", 5)


@pytest.mark.usefixtures("in_fives")
def test_workers_write_what_one_process_does_and_make_only_what_is_missing(
    place: Path, asked: list[int]
) -> None:
    one = label_data(labelling(place, "one"), progress=NoProgress())
    two = label_data(labelling(place, "two"), progress=NoProgress(), workers=RayWorkers(2))
    assert files(one) == files(two)
    assert len(asked) == len(files(one)) - 1 > 3 and asked != sorted(asked)
    (two / "shard-00001.parquet").unlink()
    asked.clear()
    told = Counted()
    label_data(labelling(place, "two"), progress=told, workers=RayWorkers(3))
    assert asked == [1] and files(one) == files(two)
    assert told.done == len((place / "train.tsv").read_text("utf-8").splitlines()) - 1


@pytest.mark.usefixtures("in_fives")
def test_workers_keep_the_scores_that_one_process_does(place: Path, asked: list[int]) -> None:
    one = score_teacher(scoring(place, "one"), progress=NoProgress())
    two = score_teacher(scoring(place, "two"), progress=NoProgress(), workers=RayWorkers(2))
    assert files(one) == files(two) and len(asked) == len(files(one)) - 1 > 3


@pytest.mark.usefixtures("asked")
def test_what_is_wrong_in_a_worker_is_said_as_by_one_process(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = labelling(place, "labels")

    def refused(*_: object) -> None:
        raise EngineError("the engine must run this", "use another")

    with monkeypatch.context() as patched, pytest.raises(EngineError, match="this; use another"):
        patched.setattr(corpus.Wanted, "generator", refused)
        label_data(recipe, progress=NoProgress(), workers=RayWorkers(1))
    assert not (place / "labels").exists()
    monkeypatch.setattr(os, "getcwd", lambda: str(place / "elsewhere"))
    with pytest.raises(UserError, match=r"find the folder .*elsewhere.* on every host"):
        label_data(recipe, progress=NoProgress(), workers=RayWorkers(1))


def test_ray_is_asked_for_by_name_and_by_one_process(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = labelling(place, "labels")
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(UserError, match=r"pip install 'seqdistill\[ray\]'"):
            label_data(recipe, progress=NoProgress(), workers=RayWorkers(1))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="leave torchrun out"):
        label_data(recipe, progress=NoProgress(), workers=RayWorkers(1))
    assert not (place / "labels").exists()


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_killed_worker_of_a_cluster_changes_no_byte(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, ("src", "."))))
    save_pairs(place / "train.tsv", 7000, seed=1)
    engine = "sequences.decoding.engine=ctranslate2"
    one = label_data(labelling(place, "one", engine), progress=NoProgress())
    killed: list[int] = []

    def kill_one() -> None:
        while not list((place / "two").glob("shard-*")):
            time.sleep(0.05)
        for process in Path("/proc").glob("[0-9]*"):
            # Of this test's own cluster: a worker's parent is a child of this process.
            with contextlib.suppress(OSError):
                is_worker = b"ray::MapWorker" in (process / "cmdline").read_bytes()
                if is_worker and not killed and parent(parent(int(process.name))) == os.getpid():
                    killed.append(int(process.name))
                    os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    two = label_data(labelling(place, "two", engine), progress=NoProgress(), workers=RayWorkers(2))
    thread.join(timeout=10)
    assert killed and files(one) == files(two)
