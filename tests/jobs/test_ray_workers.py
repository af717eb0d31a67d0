"""Labels and kept scores by Ray workers are those of one process; the cluster's tests need ray."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import recipe_in, save_pairs

from seqdistill.assembly import corpus
from seqdistill.core.errors import EngineError, UserError
from seqdistill.core.progress import NoProgress, Progress
from seqdistill.jobs import ray_driver, ray_workers
from seqdistill.jobs.label import label_data
from seqdistill.jobs.ray_workers import RayWorkers
from seqdistill.jobs.score import score_teacher
from seqdistill.recipe.schema import Recipe
from seqdistill.teachers import kept_scores

SAMPLES = ("sequences.decoding.mode=sample", "sequences.decoding.max_new_tokens=4")
CLUSTER = ("sequences.decoding.engine=ctranslate2", "sequences.decoding.threads=1")
TOP_K = ("teacher.scores=top_k", "teacher.top_k=3")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def labelling(place: Path, name: str, *more: str) -> Recipe:
    return recipe_in(place, "seq_kd", *SAMPLES, f"sequences.corpus={place / name}", *more)


def scoring(place: Path, name: str, *more: str) -> Recipe:
    own = "sequences.decoding.threads=1"
    return recipe_in(place, "word_kd", *TOP_K, own, f"teacher.kept_scores={place / name}", *more)


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
        workers = [ray_driver.Maker(pickle.loads(pickle.dumps(settings))) for _ in range(2)]
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


def give_up(connection: object, job: object, said: Path) -> None:
    """As Ray ends the process that speaks to it."""
    line = "Failed to connect to GCS within 60 seconds. GCS may have been killed."
    said.write_text(f"begun\n[2026-12-01 02:54:34,775 E 19302 20799] rpc_client.h:204: {line}\n")
    os._exit(1)


def test_the_end_of_a_cluster_is_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "ray" or find(name))
    monkeypatch.setattr(ray_workers, "serve", give_up)
    said = r"cluster h:1 must stay .* \(exit code 1\): Failed to connect to GCS within 60 seconds;"
    with pytest.raises(UserError, match=said):
        label_data(labelling(place, "x"), progress=NoProgress(), workers=RayWorkers(1, "h:1"))
    assert not written(place / "x")


def descendants(process: int) -> dict[int, str]:
    """The processes below this one, and what each is called."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ends meanwhile
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            names[int(entry.name)] = (entry / "cmdline").read_bytes().decode()
    found, wanted = dict[int, str](), {process}
    while wanted := {child for child, parent in parents.items() if parent in wanted}:
        found |= {child: names[child] for child in wanted}
    return found


SLOW = """
import time
from seqdistill.jobs import ray_driver

made = ray_driver.make_part

def slowly(parts, index):
    made(parts, index)
    time.sleep(1.0)

ray_driver.make_part = slowly
"""


def workers_below(process: int) -> list[int]:
    return [one for one, name in descendants(process).items() if "ray::MapWorker" in name]


def written(folder: Path) -> dict[str, int]:
    """The parts of a folder, and when they were written."""
    parts = [path for suffix in ("parquet", "arrow") for path in folder.glob(f"*-*.{suffix}")]
    return {path.name: path.stat().st_mtime_ns for path in parts}


@contextlib.contextmanager
def at_the_first_part(folder: Path, act: Callable[[], object]) -> Iterator[dict[str, int]]:
    """Does something when there is a part, or more: those, which stay as they are."""
    seen = dict[str, int]()

    def watch() -> None:
        while not seen and not over.is_set():
            seen.update(written(folder))
            time.sleep(0.02)
        act()

    over, thread = threading.Event(), threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join(timeout=60.0)
    assert seen and seen.items() <= written(folder).items()


class Hosts:
    """A Ray cluster of two nodes, each with a core for a worker: `ray start`, twice."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._folder = folder  # of a short path, as sockets want it

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        head = ["--head", "--port", port, "--include-dashboard=false"]
        for number, more in enumerate((head, ["--address", self.address])):
            said = self._folder / f"node-{number}.log"
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *more]
            command += ["--num-cpus=1", "--disable-usage-stats"]
            command += [f"--object-store-memory={2**27}", f"--temp-dir={self._folder}"]
            with said.open("wb") as file:
                self._nodes.append(subprocess.Popen(command, stdout=file, stderr=file))
            until = time.monotonic() + 120.0
            while b"Ray runtime started" not in said.read_bytes():
                alive = self._nodes[-1].poll() is None
                assert alive and time.monotonic() < until, said.read_text()
                time.sleep(0.1)

    def num_with_workers(self) -> int:
        return sum(bool(workers_below(node.pid)) for node in self._nodes)

    def kill(self) -> None:
        for node in self._nodes:
            for process in (*descendants(node.pid), node.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            node.wait()
        self._nodes.clear()


@pytest.fixture
def cluster(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests of clusters need, which run where ray is installed beside the package:
    `pip install 'seqdistill[ray]'`, then `pytest tests/jobs/test_ray_workers.py`."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, ("src", "."))))
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "20")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    save_pairs(place / "train.tsv", 12000, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_killed_one_of_three_workers_costs_its_part_and_changes_no_byte(place: Path) -> None:
    one = label_data(labelling(place, "one", *CLUSTER), progress=NoProgress())

    def kill_one() -> None:
        os.kill(workers_below(os.getpid())[0], signal.SIGKILL)

    with at_the_first_part(place / "two", kill_one):
        recipe = labelling(place, "two", *CLUSTER)
        two = label_data(recipe, progress=NoProgress(), workers=RayWorkers(3))
    assert files(one) == files(two)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_job_whose_cluster_is_killed_goes_on_when_it_is_started_again(
    place: Path,
) -> None:
    (place / "slow.py").write_text(SLOW)  # a killed cluster must leave parts to be made
    slow = f"plugins=[{place / 'slow.py'}]"
    labels = label_data(labelling(place, "labels", *CLUSTER), progress=NoProgress())
    scores = score_teacher(scoring(place, "scores"), progress=NoProgress())
    num_with_workers = list[int]()

    def killed() -> None:
        num_with_workers.append(hosts.num_with_workers())
        hosts.kill()

    def label() -> Path:
        recipe = labelling(place, "own-labels", *CLUSTER, slow)
        return label_data(recipe, progress=NoProgress(), workers=RayWorkers(2, hosts.address))

    def score() -> Path:
        recipe = scoring(place, "own-scores", slow)
        return score_teacher(recipe, progress=NoProgress(), workers=RayWorkers(2, hosts.address))

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        hosts = Hosts(Path(folder))
        try:
            for job, expected in ((label, labels), (score, scores)):
                own = place / f"own-{expected.name}"
                hosts.start()
                gone = pytest.raises(UserError, match=r"cluster .* must stay .*: start it again")
                with at_the_first_part(own, killed) as first, gone:
                    job()
                hosts.start()
                assert files(job()) == files(expected)
                assert first.items() <= written(own).items(), "made once"
                hosts.kill()
        finally:
            hosts.kill()
    assert num_with_workers == [2, 2]
