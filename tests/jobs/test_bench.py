"""Measurements of a recipe's models: in turns, of the same functions, and of what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in

from seqdistill.assembly.preparing import prepare
from seqdistill.core.progress import NoProgress
from seqdistill.core.scores import NoScores
from seqdistill.core.terms import Term
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs import bench as benching
from seqdistill.jobs import measuring
from seqdistill.jobs.bench import Comparison, bench
from seqdistill.jobs.loss_forms import LossProblem, Shape
from seqdistill.jobs.measuring import Spread, in_turns
from seqdistill.models.adapters import SequenceModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.teachers.in_process import InProcessTeacher


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.0, 3), (30.0, 3), (46.0, 4), (10_000.0, 9)]
)  # a round takes eight seconds, and the first one does not count
def test_forms_take_turns_for_as_long_as_there_is_time(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = types.SimpleNamespace(now=0.0, process_time=lambda: 0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(measuring, "time", clock)
    calls = []

    def form(name: str, takes: float) -> float:
        calls.append(name)
        clock.now += takes
        return takes

    taken = in_turns(
        {"a": lambda _n: form("a", 3.0), "b": lambda _n: form("b", 5.0)},
        before=lambda name: calls.append(f"before {name}"),
        seconds=seconds,
    )
    assert calls == ["before a", "a", "before b", "b"] * (rounds + 1)
    assert [one.wall_s for one in taken["a"]] == [3.0] * rounds
    assert [one.result for one in taken["b"]] == [5.0] * rounds


def test_a_ratio_is_of_two_of_one_round() -> None:
    found = Comparison.of("step", "other", "s", {}, [1.0, 2.0, 9.0], [2.0, 8.0, 9.0])
    assert found.ratio == Spread(median=0.5, low=0.25, high=1.0)
    assert found.ours == Spread(2.0, 1.0, 9.0) and found.rounds == 3


NAMES = (
    "supervised step",
    "distillation step",
    "on-policy step",
    "student sampling",
    "teacher beam 5",
    "loss",
    "loss: peak memory",
)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds and prompts as may be, and a process's memory without the process."""
    monkeypatch.setattr(benching, "_SECONDS", dict.fromkeys(benching._SECONDS, 0.0))
    monkeypatch.setattr(benching, "_MOST", 4)
    monkeypatch.setattr(benching, "peak_bytes", lambda *_given: 5)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_every_comparison_is_measured_and_nothing_is_changed(kind: str, tmp_path: Path) -> None:
    place = folder_for(tmp_path, kind)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    found = bench(recipe_in(place, "gkd", "sequences.rollouts.engine=auto"), progress=NoProgress())
    assert tuple(each.name for each in found.comparisons) == NAMES and not found.not_measured
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {"versions", "machine", "models", "device", "precision", "threads"} <= written.keys()
    assert written["models"].keys() == {"student", "teacher"}
    for row in written["rows"]:
        assert row.keys() == {
            *("name", "against", "unit", "ours", "theirs", "ratio", "rounds", "facts")
        }
        for spread in (row["ours"], row["theirs"], row["ratio"]):
            assert 0.0 < spread["low"] <= spread["median"] <= spread["high"]
    assert written["rows"][5]["facts"]["divergence"] == "jensen_shannon"


KEPT = ("teacher.scores=top_k", "teacher.kept_scores=kept")


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("method", [("baseline",), ("word_kd", *KEPT)])
def test_what_has_no_teacher_is_said(place: Path, method: tuple[str, ...]) -> None:
    recipe = recipe_in(place, *method, "teacher.model=null")
    found = bench(recipe, progress=NoProgress())
    assert [each.name for each in found.comparisons] == ["supervised step", "student sampling"]
    assert found.not_measured == {"distillation": "the recipe names no teacher.model"}


def test_a_part_without_the_memory_for_it_leaves_the_others(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(_bench: object) -> None:
        raise MemoryError

    for part in ("steps", "labelling", "loss"):
        monkeypatch.setattr(benching._Bench, part, lambda _bench: [])
    monkeypatch.setattr(benching._Bench, "sampling", too_much)
    found = bench(recipe_in(place, "word_kd"), progress=NoProgress())
    assert found.not_measured.keys() == {"sampling"} and "memory" in found.not_measured["sampling"]


def test_of_a_comparison_the_method_that_asks_the_teacher_is_measured() -> None:
    assert benching._one_of(load_recipe("demo")).method == "word_kd"
    given = ["teacher.model=bundled:en-de", "data.train=bundled:en-de", "student.model=here"]
    chain = load_recipe("seq_kd_prune", [*given, "sequences.decoding.max_new_tokens=12"])
    first = benching._one_of(chain)
    assert first.method == "seq_kd"
    assert first.sequences.rollouts.max_new_tokens == 12, "as long as what it learns from"


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_plain_transformers_computes_the_same_losses(kind: str, tmp_path: Path) -> None:
    prepared = prepare(recipe_in(folder_for(tmp_path, kind), "word_kd", "training.dropout=0"))
    found = benching._Bench(prepared)
    assert prepared.teacher is not None and found._vocab_size is not None
    batch = found._batch(0)
    nll = found._loss(Term.of("negative_log_likelihood"))(batch, NoScores())
    plain = found._plain_nll(batch)
    torch.testing.assert_close(plain, nll / batch.num_targets, rtol=1e-4, atol=1e-5)
    teacher = prepared.teacher.model
    scores = InProcessTeacher(SequenceModel(teacher), vocab_size=found._vocab_size).score(batch)
    distilled = found._loss(Term(found._divergence))(batch, scores) / batch.num_targets
    torch.testing.assert_close(
        found._plain_divergence(batch, teacher), distilled, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_generate_alone_writes_what_the_engine_does(kind: str, tmp_path: Path) -> None:
    teacher = prepare(recipe_in(folder_for(tmp_path, kind), "word_kd")).teacher
    assert teacher is not None
    engine = TransformersGenerator(teacher.model, teacher.tokenizer, kind=teacher.kind)
    decoding = Decoding(beam_size=3, max_new_tokens=6)
    sources: Sequence[list[int]] = [[5, 6, 7, 2], [8, 2], [9, 10, 2]]
    expected = [[list(best[0].token_ids)] for best in engine.generate(sources, decoding)]
    for size in (1, 2, 3):
        assert engine.token_ids(sources, decoding, batch_size=size) == expected


def test_both_forms_of_a_loss_have_the_same_gradients() -> None:
    gradients = []
    for form in ("fused", "materialized"):
        problem = LossProblem(Shape(5, 30, 8, 6))
        problem.run(form, "jensen_shannon", {"beta": 0.3})
        assert problem.hidden.grad is not None and problem.head.weight.grad is not None
        gradients.append(torch.cat([problem.hidden.grad, problem.head.weight.grad]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_without_cuda_the_gpu_script_says_so_and_writes_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    words = ["bash", str(script), str(tmp_path / "gpu.json")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "needs a CUDA device" in done.stderr
    assert not any(tmp_path.iterdir())
