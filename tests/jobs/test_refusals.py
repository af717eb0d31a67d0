"""What would fail after hours is refused at once, with the key to change, and leaves no folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from tests.jobs.runs import FEASIBLE, start
from tests.metrics.test_scripts import HAS_KOREAN
from tests.tiny import tiny_model

import seqdistill
from seqdistill.core.errors import DataError, EngineError, ModelError, RecipeError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import EXTENSIONS
from seqdistill.generation.verification import TOLERANCES
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.label import label_data
from seqdistill.jobs.plan import plan
from seqdistill.metrics.similarity import SIMILARITIES
from seqdistill.models.loading import load_pair
from seqdistill.recipe.checks import FILE_SUFFIXES
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sequences_schema import SequencesSection

DEV, TEST, TEACHER = "data.dev=dev.tsv", "data.test=test.tsv", "teacher.model=bart"


def generate(*prompts: str, model: str = "bart", **settings: object) -> list[str]:
    settings = {"max_new_tokens": 8, "threads": 1, **settings}
    return generate_texts(model, prompts, progress=NoProgress(), **settings)  # type: ignore[arg-type]


GEMMA = "on_policy_kd teacher.model=gemma2 student.model=gemma2"
REFUSED = {
    f"baseline {DEV} evaluation.max_new_tokens=128": "evaluation.max_new_tokens .* got 128",
    f"seq_kd {TEACHER} sequences.decoding.max_new_tokens=128": "decoding.max_new_tokens .* got 128",
    f"{GEMMA} sequences.rollouts.max_new_tokens=39": "must leave room for the longest prompt",
    "baseline data.train=long.tsv": "student's 40 positions, but example",
    "baseline data.test=gone.tsv": r"gone\.tsv",
    "baseline data.test=torn.tsv": r"torn\.tsv",
    f"baseline {DEV} evaluation.compute_type=float16": r"that this CPU has .*, got 'float16'",
    f"baseline {DEV} training.eval_metric=answer_accuracy": "must find what it compares",
    f"baseline {TEST} evaluation.metrics=answer_accuracy": "must find what it compares",
    f"baseline {DEV} evaluation.bleu_tokenizer=ko-mecab": "must be one that sacrebleu",
    f"seq_inter {TEACHER} data.train=zh.tsv sequences.decoding.n_best=2 "
    "sequences.similarity=smoothed_bleu_of_tokens": "written without spaces between tokens",
    "on_policy_kd teacher.model=bart sequences.origin=replay sequences.replay.capacity=2 "
    "sequences.rollouts.max_new_tokens=12": "capacity must be .* got 2 and a micro-batch of",
    "gkd teacher.model=http://localhost:8000/v1": r"teacher\.model: .* is an address: models run",
    "seq_kd teacher.model=bundled:de-en": r"teacher\.model: .* found 'bundled:de-en'",
    "baseline student.model=./brat": r"student\.model: .* there is no folder './brat'",
}
"""A method and its settings, and what the refusal says."""


@pytest.mark.parametrize("given", REFUSED)
def test_what_does_not_fit_is_refused_before_training(folder: Path, given: str) -> None:
    if HAS_KOREAN and "ko-mecab" in given:
        pytest.skip("it can be loaded here")
    method, *overrides = given.split(" ")
    (folder / "long.tsv").write_text(f"source\ttarget\nrot\t{'b ' * 30}\n", encoding="utf-8")
    (folder / "torn.tsv").write_bytes(b"source\ttarget\n\xff\tx\n")
    rows = ["source\ttarget", *[f"rot {'a' * n}\t我今天去北京" for n in range(1, 9)]]
    (folder / "zh.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=REFUSED[given]):
        start(*overrides, method=method)
    assert not (folder / "runs").exists()


def _computes_another_model(patch: pytest.MonkeyPatch) -> None:
    for compute_type in ("float32", "int8"):
        patch.setitem(TOLERANCES, compute_type, (-1.0, -1.0))


def _does_not_know_the_model(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ctranslate2.converters.transformers._MODEL_LOADERS", {})


@pytest.mark.parametrize(
    ("fault", "words"),
    [(_computes_another_model, "off by up to .*"), (_does_not_know_the_model, "got BartConfig")],
)
def test_an_engine_that_cannot_run_the_model_is_refused_before_training_with_the_remedy(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    words: str,
) -> None:
    fault(monkeypatch)
    rollouts = "sequences.rollouts={engine: ctranslate2, max_new_tokens: 12}"
    for method, overrides, key in (
        ("baseline", [DEV, "evaluation.engine=ctranslate2"], "evaluation.engine"),
        (
            "seq_kd",
            [TEACHER, "sequences.decoding.engine=ctranslate2"],
            "sequences.decoding.engine",
        ),
        ("on_policy_kd", [TEACHER, rollouts], "sequences.rollouts.engine"),
    ):
        with pytest.raises(EngineError, match=rf"{words}; use {key}=transformers$"):
            start(*overrides, method=method)
    # Another arithmetic is never given up silently.
    without = "=transformers without compute_type int8$"
    with pytest.raises(EngineError, match=f"use evaluation.engine{without}"):
        start(DEV, "evaluation.compute_type=int8")
    with pytest.raises(EngineError, match=f"use --engine{without}"):
        generate("rot", compute_type="int8")
    assert not (folder / "runs").exists()


def test_quantized_and_damaged_weights_are_named_before_anything_begins(folder: Path) -> None:
    config = json.loads((folder / "bart" / "config.json").read_text())
    for method in ("bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"):
        quantized = {**config, "quantization_config": {"quant_method": method, "bits": 4}}
        (folder / "bart" / "config.json").write_text(json.dumps(quantized))
        with pytest.raises(ModelError, match=f"not quantized.* says '{method}'"):
            start()
    (folder / "bart" / "config.json").write_text(json.dumps(config))
    model = load_pair("bart").model
    with torch.no_grad():
        model.get_decoder().layers[0].fc1.weight[0, 0] = float("nan")
    model.save_pretrained("bart")
    with pytest.raises(ModelError, match=r"finite numbers, but .*layers\.0\.fc1\.weight"):
        start()
    with pytest.raises(ModelError, match="finite numbers"):
        generate("rot")
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("folder")
def test_prompts_beyond_the_positions_are_told_of_before_an_engine_is_tried() -> None:
    with pytest.raises(DataError, match="every source must fit the model's 40 positions"):
        generate("rot " * 60, max_new_tokens=5)


def test_a_finished_run_is_never_continued_by_another_but_measured_on_another_test_set(
    folder: Path,
) -> None:
    run = start()
    before = (run.student_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="runs/x"):
        start("training.steps=4", "seed=7")
    with pytest.raises(UserError, match="runs/x"):
        data: dict[str, str | Path] = {"train": "train.tsv", "test": "test.tsv"}
        given = {"student": "bart", "data": data, "method": "word_kd", "output_dir": "runs/x"}
        seqdistill.distill(teacher="bart", **given)  # type: ignore[arg-type]
    assert (run.student_path / "model.safetensors").read_bytes() == before
    with pytest.raises(RecipeError, match=r"data\.test must name"):
        evaluate_run(run, progress=NoProgress())
    assert evaluate_run(run, [TEST], progress=NoProgress()).overrides == (TEST,)
    with pytest.raises(RecipeError, match="data and evaluation only"):
        evaluate_run(run, ["seed=3"], progress=NoProgress())


def test_where_the_teacher_writes_sources_are_enough_and_a_stale_corpus_is_refused(
    folder: Path,
) -> None:
    rows = [json.dumps({"source": f"rot {'a' * n}"}) for n in range(1, 9)]
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="target"):
        start("data.train=train.jsonl")
    model = tiny_model("bart")
    model.final_logits_bias[0, 2] += 8.0  # so that random outputs come to an end
    model.save_pretrained(folder / "bart")
    sources = ["data.train=train.jsonl", TEACHER, "sequences.corpus=corpus"]
    longest = "sequences.decoding.max_new_tokens=5"
    planned = plan(load_recipe("seq_kd", [*sources, "student.model=bart", *FEASIBLE, longest]))
    assert (planned.guessed_targets, planned.target_tokens) == (8, 8 * 5)
    told = dict(planned.lines())["target tokens"]
    assert told == "40 (estimated for 8 without a target yet)"
    run = start(*sources, method="seq_kd")
    assert (run.student_path / "model.safetensors").is_file()
    (folder / "train.jsonl").write_text("\n".join(rows[:2]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="corpus"):
        start(*sources, "output_dir=runs/y", method="seq_kd")
    assert not (folder / "runs" / "y").exists()


def test_what_the_recipe_may_name_is_what_the_packages_have() -> None:
    similarity = SequencesSection.model_fields["similarity"].annotation
    assert set(get_args(similarity)) == set(SIMILARITIES)
    assert all(extension.endswith(FILE_SUFFIXES) for extension in EXTENSIONS)


def test_a_chain_is_not_labelled_as_a_whole() -> None:
    recipe = load_recipe("seq_kd_seq_inter", ["data.train=t.tsv", TEACHER, "student.model=bart"])
    with pytest.raises(RecipeError, match="label seq_kd instead"):
        label_data(recipe, progress=NoProgress())
