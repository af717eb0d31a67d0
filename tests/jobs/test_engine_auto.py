"""`engine: auto`: CTranslate2 where it computes the same, else transformers, said and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import start
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.core.errors import DataError, EngineError, ModelError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.generation.verification import TOLERANCES, Tolerance
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.export import INT8_FOLDER
from seqdistill.jobs.generate import generate_texts
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.results import Results
from seqdistill.records.run_directory import RunDirectory

NOTHING = Tolerance(mean_nats=-1.0, max_nats=-1.0)


def evaluated(run: RunDirectory, *, export: bool = False) -> Results:
    return evaluate_run(run, progress=NoProgress(), export=export)


def engines(run: RunDirectory) -> object:
    return json.loads(run.manifest_path.read_text("utf-8"))["engines"]


def test_auto_takes_ctranslate2_where_it_agrees(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(
        "data.dev=dev.tsv",
        "data.test=test.tsv",
        "teacher.model=bart",
        "sequences.rollouts={engine: auto, max_new_tokens: 12}",
        method="on_policy_kd",
    )
    assert engines(run) == {
        "evaluation": "ctranslate2 float32",
        "sequences.rollouts": "ctranslate2",
    }
    results = evaluated(run, export=True)
    assert [row.engine for row in results.systems] == ["ctranslate2 float32"] * 2
    (copy,) = results.exports
    assert copy.engine == "ctranslate2 int8"
    agreement = copy.copy_agreement
    assert agreement is not None and agreement.num_tokens > 30
    assert 0.5 < agreement.argmax_share <= 1.0
    assert 0.0 < agreement.mean_nats <= agreement.max_nats
    assert (agreement.longest or 0) >= 12
    assert "auto takes" not in caplog.text


def test_auto_takes_transformers_where_ctranslate2_computes_another_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(TOLERANCES, "float32", NOTHING)
    run = start(
        "data.dev=dev.tsv",
        "data.test=test.tsv",
        "teacher.model=bart",
        "training.eval_every=1",
        "sequences.rollouts={engine: auto, max_new_tokens: 12}",
        method="on_policy_kd",
    )
    assert engines(run) == {
        "evaluation": "transformers float32",
        "sequences.rollouts": "transformers",
    }
    said = [
        line for line in caplog.messages if "evaluation.engine: auto takes transformers" in line
    ]
    assert len(said) == 1 and "off by up to" in said[0]
    results = evaluated(run, export=True)
    assert {row.engine for row in results.systems} == {"transformers float32"}
    assert results.exports == () and not (run.path / INT8_FOLDER).exists()
    assert "there is no int8 copy of" in caplog.text


def test_one_system_that_needs_transformers_brings_all_there(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model("gemma2").save_pretrained(folder / "teacher")  # its soft caps are not CTranslate2's
    tiny_model("llama").save_pretrained(folder / "student")
    for name in ("teacher", "student"):
        character_tokenizer(closes=False).save_pretrained(folder / name)
    run = start("data.test=test.tsv", "teacher.model=teacher", model="student")
    results = evaluated(run)
    assert [row.engine for row in results.systems] == ["transformers float32"] * 3
    assert "all systems decode with transformers, as teacher must" in caplog.text


@pytest.mark.usefixtures("folder")
def test_prompts_beyond_the_positions_are_told_of_before_an_engine_is_tried() -> None:
    with pytest.raises(DataError, match="every source must fit the model's 40 positions"):
        generate_texts("bart", ["rot " * 60], max_new_tokens=5, progress=NoProgress())


def test_another_arithmetic_is_never_given_up_silently(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "int8", NOTHING)
    remedy = r"use evaluation.engine=transformers without compute_type int8$"
    with pytest.raises(EngineError, match=remedy):
        start("data.dev=dev.tsv", "evaluation.compute_type=int8")
    with pytest.raises(EngineError, match=r"use --engine=transformers without compute_type int8$"):
        generate_texts(
            "bart",
            ["rot"],
            compute_type="int8",
            max_new_tokens=8,
            threads=1,
            progress=NoProgress(),
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctranslate2.converters.transformers._MODEL_LOADERS", {})
        with pytest.raises(EngineError, match=remedy):
            start("data.dev=dev.tsv", "evaluation.compute_type=int8")
    with pytest.raises(RecipeError, match=r"unless evaluation.engine is ctranslate2 or auto"):
        load_recipe("baseline", ["evaluation={engine: transformers, compute_type: int8}"])
    with pytest.raises(ModelError, match=r"one that this CPU has \(.*float32.*\), got 'float16'"):
        start("data.dev=dev.tsv", "evaluation.compute_type=float16")
    assert not (folder / "runs").exists()


def test_adapters_and_teacher_mixed_rollouts_want_transformers_said_out_loud() -> None:
    given = ["sequences.rollouts.engine=auto", "student={model: s, lora: {rank: 2}}"]
    with pytest.raises(RecipeError, match=r"rollouts.engine must be left out .*student.lora.rank"):
        load_recipe("on_policy_kd", ["data.train=t.tsv", "teacher.model=t", *given])


def test_generate_falls_back_and_writes_what_transformers_writes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["rot", "blau gelb " * 3]

    def written(engine: str) -> list[str]:
        return generate_texts(
            "gemma2", texts, engine=engine, max_new_tokens=8, threads=1, progress=NoProgress()
        )

    assert written("auto") == written("transformers")
    assert "--engine: auto takes transformers" in caplog.text
    with pytest.raises(EngineError, match=r"use --engine=transformers$"):
        written("ctranslate2")


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
        generate_texts("bart", ["rot"], threads=1, progress=NoProgress())
    assert not (folder / "runs").exists()
