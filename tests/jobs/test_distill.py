"""The whole job on tiny models: `distill()` for one student, `run_recipe` for a comparison."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from tests.tiny import EOS, character_tokenizer, tiny_model
from transformers import AutoModelForSeq2SeqLM

import seqdistill
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.distill import run_recipe
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import RunDirectory

WORDS = ("eins", "zwei", "drei", "rot", "blau")
QUICK = {
    "training.steps": 4,
    "training.batch_tokens": 120,
    "training.warmup_steps": 1,
    "training.threads": 1,
    "training.device": "cpu",
    "training.trackers": [],
    "evaluation.bootstrap_resamples": 20,
    "evaluation.max_new_tokens": 12,
    "evaluation.num_samples": 2,
    "sequences.decoding.max_new_tokens": 12,
}


def save_pairs(path: Path, num_pairs: int, *, seed: int) -> Path:
    draw = random.Random(seed)
    pairs = [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(num_pairs)]
    lines = [f"{text}\t{text[::-1]}" for text in pairs]
    path.write_text("\n".join(["source\ttarget", *lines]) + "\n", encoding="utf-8")
    return path


def save_teacher(folder: Path, name: str) -> Path:
    model = tiny_model(name, seed=3)
    if name == "mbart":
        model.final_logits_bias[0, EOS] += 8.0  # so that random outputs come to an end
    model.save_pretrained(folder)
    character_tokenizer(closes=name in ("mbart", "marian")).save_pretrained(folder)
    return folder


def save_data_and_models(folder: Path) -> None:
    """Writes train.tsv, test.tsv, an mBART teacher and an mBART student of other weights."""
    save_pairs(folder / "train.tsv", 24, seed=0)
    save_pairs(folder / "test.tsv", 6, seed=1)
    save_teacher(folder / "teacher", "mbart")
    tiny_model("mbart", seed=8).save_pretrained(folder / "student")
    character_tokenizer().save_pretrained(folder / "student")


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str | Path]:
    sizes = {"train": 40, "dev": 6, "test": 10}
    return {
        split: save_pairs(tmp_path / f"{split}.tsv", size, seed=seed)
        for seed, (split, size) in enumerate(sizes.items())
    }


def test_distill_returns_a_measured_student_with_an_int8_copy(
    tmp_path: Path, data: dict[str, str | Path]
) -> None:
    made = seqdistill.distill(
        teacher=save_teacher(tmp_path / "teacher", "mbart"),
        data=data,
        method="word_kd",
        output_dir=tmp_path / "run",
        overrides={**QUICK, "student.decoder_layers": 1},
    )
    results = made.results
    assert RunDirectory(made.run_directory).read_results() == results
    systems, (copy,) = results.systems, results.exports
    assert [row.method for row in systems] == ["teacher", "start", "word_kd"]
    of_the_model_itself = ("loss_nats", "perplexity", "entropy_nats", "agreement_top1")
    of_a_student = {k for k in systems[2].columns() if not k.startswith(of_the_model_itself)}
    assert of_a_student <= copy.columns().keys()
    assert (made.run_directory / str(copy.folder) / "model.bin").stat().st_size == copy.bytes
    assert results.student == copy.copy_of == "word_kd"
    assert (made.run_directory / "report.html").is_file()
    stored = AutoModelForSeq2SeqLM.from_pretrained(made.run_directory / "student")
    for name, value in made.student.state_dict().items():
        assert torch.equal(stored.state_dict()[name], value), name


def test_a_comparison_trains_all_students_alike_and_copies_the_best(
    tmp_path: Path, data: dict[str, str | Path]
) -> None:
    teacher = save_teacher(tmp_path / "teacher", "mbart")
    settings = {
        **QUICK,
        "teacher.model": str(teacher),
        "student.encoder_layers": 1,
        "student.decoder_layers": 1,
        "data.max_train_examples": 30,
        "output_dir": str(tmp_path / "run"),
        **{f"data.{split}": str(path) for split, path in data.items()},
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run = run_recipe(load_recipe("demo", overrides), progress=NoProgress())
    results = run.read_results()
    rows = results.systems
    assert [row.method for row in rows] == ["teacher", "start", "baseline", "word_kd", "seq_kd"]
    assert len({(row.init, row.parameters) for row in rows[1:]}) == 1
    assert {test.versus for test in results.paired_tests} == {"baseline"}
    best = run.member(str(results.student)).student_path / "model.safetensors"
    assert (run.student_path / "model.safetensors").read_bytes() == best.read_bytes()
    manifest = json.loads(run.manifest_path.read_text("utf-8"))
    timings = [row["step"] for row in manifest["timings"]]
    assert {"seq_kd: labelling", "word_kd: training", "measure speed", "report"} <= set(timings)


def test_interpolation_fine_tunes_on_a_choice_and_says_what_was_gained(
    tmp_path: Path, data: dict[str, str | Path]
) -> None:
    teacher = save_teacher(tmp_path / "teacher", "mbart")
    few = {"sequences.decoding.beam_size": 4, "sequences.decoding.n_best": 4}
    made = seqdistill.distill(
        teacher=teacher,
        student=teacher,
        data=data,
        method="seq_inter",
        output_dir=tmp_path / "run",
        overrides={**QUICK, **few, "sequences.similarity": "sentence_chrf"},
    )
    manifest = json.loads((made.run_directory / "manifest.json").read_text("utf-8"))
    chosen = manifest["interpolation"]
    assert chosen["similarity"] == "sentence_chrf"
    assert 0 < chosen["num_examples"] == sum(chosen["rank_counts"]) <= 40
    assert chosen["num_examples"] + chosen["num_without_hypothesis"] == 40
    assert chosen["mean_similarity"] >= chosen["mean_first_similarity"]
