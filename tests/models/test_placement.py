"""Devices and arithmetic: what `auto` stands for."""

from __future__ import annotations

import functools
from pathlib import Path

import ctranslate2
import pytest
import torch
from tests.tiny import character_tokenizer, save_unlisted, tiny_model
from transformers import LlamaConfig

from seqdistill.assembly.models import (
    build_student,
    build_teacher,
    evaluation_placement,
    teacher_placement,
)
from seqdistill.core.errors import EngineError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.jobs.generate import generate_texts
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import load_model
from seqdistill.models.placement import Dtype, Placement, device_of, precision_of
from seqdistill.recipe.schema import Recipe

CPU = torch.device("cpu")


def test_auto_is_bf16_where_the_cpu_is_faster_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for capabilities, precision in (
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx2": True, "avx512_bf16": True, "cpu_name": "AMD EPYC 9R45"}, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bf16"),
        ({"architecture": "arm64", "neon": True, "bf16": True}, "bf16"),
    ):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", functools.partial(dict, capabilities), raising=False
        )
        assert precision_of("auto", CPU) == precision
    assert [precision_of(wanted, CPU) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # a torch that cannot tell
    assert precision_of("auto", CPU) == "fp32"


def test_an_automatic_device_is_a_gpu_where_there_is_one_for_each_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == CPU
    with pytest.raises(UserError, match=r"device=cuda needs a GPU"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cpu") == CPU
    for rank, index in ((0, 0), (1, 1), (3, 1)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert device_of("auto") == device_of("cuda") == torch.device("cuda", index)


def test_auto_rounds_no_weight() -> None:
    half, full = torch.bfloat16, torch.float32
    table: list[tuple[str, Dtype, torch.dtype, torch.dtype]] = [
        ("cpu", "auto", half, full),
        ("cpu", "bf16", full, half),
        ("cuda", "auto", half, half),
        ("cuda", "auto", torch.float16, torch.float16),
        ("cuda", "auto", full, full),
        ("cuda", "fp32", half, full),
    ]
    for device, wanted, stored, dtype in table:
        placement = Placement(torch.device(device), wanted)
        assert placement.dtype_of(LlamaConfig(dtype=stored)) == dtype


def test_a_model_loads_in_the_dtype_and_with_the_attention_of_its_placement(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    whole = load_model(str(tmp_path))
    assert whole.dtype == torch.float32
    placed = load_model(str(tmp_path), placement=Placement(CPU, "bf16", "eager"))
    assert placed.config._attn_implementation == "eager" != whole.config._attn_implementation
    for name, weight in placed.named_parameters():
        assert torch.equal(weight, whole.get_parameter(name).bfloat16()), name
    assert SequenceModel(placed).head.weight.dtype == torch.bfloat16, (
        "its head is checked as any other"
    )


def test_a_recipe_places_its_teacher_and_what_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = torch.device("cuda", 0)
    recipe = Recipe()
    assert teacher_placement(recipe).device == evaluation_placement(recipe).device == gpu
    on_cpu = Recipe.model_validate({"training": {"device": "cpu"}, "teacher": {"dtype": "bf16"}})
    assert teacher_placement(on_cpu) == Placement(CPU, "bf16")
    assert evaluation_placement(on_cpu) == Placement(CPU)
    apart = Recipe.model_validate(
        {"training": {"device": "cpu"}, "evaluation": {"device": "cuda", "attention": "sdpa"}}
    )
    assert evaluation_placement(apart) == Placement(gpu, "auto", "sdpa")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"evaluation\.device=cuda"):
        evaluation_placement(apart)


def test_a_student_of_a_teachers_layers_is_fp32_whatever_the_teacher_is(tmp_path: Path) -> None:
    save_unlisted(tiny_model("llama"), character_tokenizer(), tmp_path)
    teacher = {"model": str(tmp_path), "dtype": "bf16", "device": "cpu"}
    student = {"init": "teacher_layers", "decoder_layers": 1}
    recipe = Recipe.model_validate({"teacher": teacher, "student": student})
    built = build_teacher(recipe)
    assert built.model.dtype == torch.bfloat16
    weights = build_student(recipe, built, ()).model.parameters()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_a_gpu_that_ctranslate2_does_not_find_is_an_engine_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    model, tokenizer = tiny_model("llama"), character_tokenizer()
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))
    with pytest.raises(EngineError, match="must find the GPU"):
        CTranslate2Generator(model, tokenizer, kind="causal", verify_on=[((5, 6), (7, 2))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["mbart", "llama"])
@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_a_gpu_writes_what_a_cpu_writes(name: str, engine: str, tmp_path: Path) -> None:
    save_unlisted(tiny_model(name), character_tokenizer(), tmp_path)
    texts, settings = ["abc", "a longer text", "zz"], {"engine": engine, "max_new_tokens": 8}
    write = functools.partial(generate_texts, str(tmp_path), texts, progress=NoProgress())
    of_cpu, of_gpu = (
        write(device=device, **settings)  # type: ignore[arg-type]
        for device in ("cpu", "cuda")
    )
    assert of_cpu == of_gpu
