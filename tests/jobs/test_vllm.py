"""A real vLLM serves the bundled arithmetic model: scores, labels, a kill, a replica that differs.

Runs where SEQDISTILL_VLLM names the Python of an installation of vLLM, such as
`SEQDISTILL_VLLM=/opt/vllm/bin/python pytest tests/jobs/test_vllm.py`; it starts the server itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import losses, trained
from tests.servers import served
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.models import model_folder
from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.servers import server_teacher
from seqdistill.compression.layers import keep_layers
from seqdistill.core.errors import ServerError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.label import label_data
from seqdistill.jobs.score import score_teacher
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import load_pair
from seqdistill.models.saving import save_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.teacher_corpus import TeacherCorpus
from seqdistill.teachers.in_process import InProcessTeacher

PYTHON = os.environ.get("SEQDISTILL_VLLM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(PYTHON is None, reason="SEQDISTILL_VLLM names no Python with vLLM"),
]
MODEL = "bundled:arithmetic"
TOP_K = 64
STARTS_WITHIN_S = 1800.0
SERVED = ("teacher.scores=top_k", f"teacher.top_k={TOP_K}")
NATS, LOSS_NATS = 1e-3, 5e-5
"""By which symbols and losses of two engines in fp32 may differ."""


class Vllm:
    """`vllm serve` of a folder, which may be killed and started again at its port."""

    def __init__(self, model: Path, log: Path, *, weights_change: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._model, self._log, self._weights_change = model, log, weights_change
        self.start()

    def start(self) -> None:
        """Begins to start; see `wait`."""
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self._model), "--served-model-name", "teacher"]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--enforce-eager"]
        command += ["--dtype", "float32", "--max-logprobs", str(TOP_K), "--max-num-seqs", "16"]
        own = {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_SERVER_DEV_MODE": str(int(self._weights_change)),
        }
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**environment, **own},
                cwd=self._log.parent,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it answers."""
        until = time.monotonic() + STARTS_WITHIN_S
        while True:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            except OSError:
                assert time.monotonic() < until, self._log.read_text()[-3000:]
                time.sleep(0.5)
            else:
                return

    def kill(self) -> None:
        """As `kill -9` of the server and its engine."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half the model's layers as a student, 120 rows, and the model with a tokenizer that closes no
    text, since a server reads prompts as its tokenizer makes them."""
    folder = tmp_path_factory.mktemp("vllm")
    pair = load_pair(model_folder(MODEL))
    pair.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    save_pair(pair, folder / "teacher")
    half = keep_layers(pair.model, encoder_layers=None, decoder_layers=2)
    save_pair(dataclasses.replace(pair, model=half), folder / "student")
    return folder


@pytest.fixture(scope="module")
def vllm(place: Path) -> Iterator[Vllm]:
    found = Vllm(place / "teacher", place / "vllm.log")
    try:
        found.wait()
        yield found
    finally:
        found.kill()


def recipe_of(place: Path, name: str, *more: str, method: str = "word_kd") -> Recipe:
    settings = {
        "data.train": MODEL,
        "data.max_train_examples": 120,
        "teacher.model": str(place / "teacher"),
        "student": {"init": "teacher_layers", "decoder_layers": 2},
        "training.device": "cpu",
        "training.precision": "fp32",
        "training.threads": 1,
        "training.steps": 8,
        "training.batch_tokens": 600,
        "training.log_every": 1,
        "training.trackers": [],
        "output_dir": str(place / "runs" / name),
    }
    return load_recipe(method, [*(f"{k}={json.dumps(v)}" for k, v in settings.items()), *more])


def killing(server: Vllm, metrics: Path) -> threading.Thread:
    """Kills the server after the second update, and starts it again."""

    def kill_and_start() -> None:
        while not metrics.exists() or metrics.read_text().count('"loss_nats"') < 2:
            time.sleep(0.01)
        server.kill()
        server.start()

    killer = threading.Thread(target=kill_and_start, daemon=True)
    killer.start()
    return killer


def at(*urls: str) -> str:
    return f"teacher.server={json.dumps({'url': urls, 'patience_s': STARTS_WITHIN_S})}"


def test_its_scores_are_those_of_the_model_in_this_process(place: Path, vllm: Vllm) -> None:
    prepared = prepare(recipe_of(place, "scores", *SERVED, at(vllm.url)))
    assert prepared.teacher is not None
    teacher = server_teacher(prepared, prepared.train, torch.device("cpu"))
    batch = collator_for(prepared.student)(prepared.train[:24])
    local = InProcessTeacher(SequenceModel(prepared.teacher.model), vocab_size=1024)
    with torch.no_grad():
        found, dense = teacher.score(batch), local.score(batch)
        log_probs = dense.head.logits(dense.hidden).log_softmax(-1)
    teacher.close()
    mask = batch.target_mask
    assert int(mask.sum()) > 500 and found.ids.shape[-1] == TOP_K
    apart = (log_probs.gather(-1, found.ids) - found.log_probs)[mask].abs()
    tail = log_probs.scatter(-1, found.ids, -torch.inf).exp().sum(-1)
    tail_apart = (tail - found.tail_log_mass.exp())[mask].abs()
    in_mass = (log_probs.gather(-1, found.ids).exp() - found.log_probs.exp())[mask].abs()
    print(f"nats {apart.max():.2g}, mass {in_mass.max():.2g}, tail {tail_apart.max():.2g}")
    assert apart.max() < NATS and in_mass.max() < 1e-4 and tail_apart.max() < 1e-5
    least = log_probs.topk(TOP_K).values[..., -1]
    assert ((found.log_probs.amin(-1) - least)[mask].abs() < NATS).all(), "the likeliest"


def test_a_kill_in_mid_run_changes_no_loss(place: Path, vllm: Vllm) -> None:
    # The same symbols and tail by the model in this process: what is left is two engines' rounding.
    kept = recipe_of(place, "whole", *SERVED, f"teacher.kept_scores={place / 'scores'}")
    score_teacher(kept, progress=NoProgress())
    whole = losses(trained(kept))
    recipe = recipe_of(place, "killed", *SERVED, at(vllm.url))
    killer = killing(vllm, Path(recipe.output_dir) / "metrics.jsonl")
    found = losses(trained(recipe))
    killer.join(5.0)
    assert not killer.is_alive(), "killed while it was needed"
    print(f"losses {max(abs(a - b) for a, b in zip(found, whole, strict=True)):.2g} nats apart")
    assert found == pytest.approx(whole, abs=LOSS_NATS)


def test_a_replica_of_other_weights_is_refused(place: Path, vllm: Vllm) -> None:
    vllm.wait()
    pair = load_pair(str(place / "teacher"))
    model = LlamaForCausalLM.from_pretrained(place / "teacher").bfloat16().float().eval()
    with served(model, tokenizer=pair.tokenizer) as (rounded,):
        rounded.max_length = 384
        both = recipe_of(place, "refused", *SERVED, at(vllm.url, rounded.url))
        with pytest.raises(ServerError, match=r"same answer whenever .*, but .* differs by"):
            trained(both)
    assert not Path(both.output_dir).exists()


def test_its_texts_are_the_labels_of_the_model_in_this_process(place: Path, vllm: Vllm) -> None:
    vllm.wait()
    told = []
    for name, engine, teacher in (
        ("own", "transformers", f"teacher.model={place / 'teacher'}"),
        ("asked", "server", f"teacher.server={{url: '{vllm.url}', model: teacher}}"),
    ):
        given = [
            f"data.train={MODEL}",
            "data.max_train_examples=32",
            f"sequences.decoding={{engine: {engine}, beam_size: 1, max_new_tokens: 120}}",
            f"output_dir={place / name}",
            teacher,
        ]
        recipe = load_recipe("seq_kd", given, purpose="label")
        corpus = TeacherCorpus.open(label_data(recipe, progress=NoProgress()), expected=None)
        told.append([outputs[0].text for _, outputs in corpus.by_example()])
    same = sum(one.strip() == other.strip() for one, other in zip(*told, strict=True))
    print(f"{same} of {len(told[0])} texts are the same")
    assert len(told[0]) == 32 and same >= 30, "but for near ties"


def test_rollouts_follow_the_weights_and_outlive_a_kill(place: Path) -> None:
    server = Vllm(place / "student", place / "rollouts.log", weights_change=True)
    try:
        server.wait()
        asked = {"url": server.url, "patience_s": STARTS_WITHIN_S}
        student = {"init": "pretrained", "decoder_layers": None, "model": str(place / "student")}
        settings = (
            "sequences.rollouts.engine=vllm",
            f"sequences.rollouts.server={json.dumps(asked)}",
            "sequences.rollouts.max_new_tokens=24",
            f"student={json.dumps(student)}",
            "training.learning_rate=0.003",
        )
        found = []
        for name in ("rollouts", "rollouts-killed"):
            recipe = recipe_of(place, name, *settings, method="on_policy_kd")
            if name != "rollouts":
                killer = killing(server, Path(recipe.output_dir) / "metrics.jsonl")
            found.append(losses(trained(recipe)))
        killer.join(5.0)
        assert not killer.is_alive(), "killed while it was needed"
        assert found[0] == pytest.approx(found[1], abs=LOSS_NATS), "the same rollouts"
    finally:
        server.kill()
