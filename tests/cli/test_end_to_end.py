"""A user's own data and two model folders, through `train`, `evaluate`, `report` and `generate`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from seqdistill.records.run_directory import RunDirectory

from .conftest import Program, files_in

WORDS = ("ein", "zwei", "drei", "vier", "haus", "baum", "rot", "blau")
SPECIALS = ("<pad>", "</s>", "<unk>")


def save_tokenizer(folder: Path) -> int:
    """Writes a tokenizer of single characters and returns the size of its vocabulary."""
    characters = [*SPECIALS, "▁", *sorted(set("".join(WORDS).upper() + "".join(WORDS)))]
    vocabulary = {character: number for number, character in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return len(vocabulary)


def save_model(folder: Path, *, layers: int, seed: int) -> None:
    """Writes a random Marian with its tokenizer, as a user's folder would be."""
    torch.manual_seed(seed)
    vocab_size = save_tokenizer(folder)
    config = MarianConfig(
        vocab_size=vocab_size,
        d_model=16,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )
    MarianMTModel(config).save_pretrained(folder)


def save_pairs(path: Path, num_pairs: int, *, seed: int) -> None:
    """Writes sentences and the same in capitals."""
    draw = random.Random(seed)
    lines = ["source\ttarget"]
    for _ in range(num_pairs):
        sentence = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
        lines.append(f"{sentence}\t{sentence.upper()}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def own_files(tmp_path: Path) -> None:
    save_model(tmp_path / "teacher", layers=2, seed=1)
    save_model(tmp_path / "small", layers=1, seed=2)
    for seed, (name, num_pairs) in enumerate((("train", 60), ("dev", 8), ("test", 12))):
        save_pairs(tmp_path / f"{name}.tsv", num_pairs, seed=seed)
    (tmp_path / "own.yaml").write_text(
        """preset: word_kd
output_dir: runs/own
data: {train: train.tsv, dev: dev.tsv, test: test.tsv}
teacher: {model: teacher}
student: {model: small}
training: {steps: 6, batch_tokens: 200, warmup_steps: 2, eval_every: 3, log_every: 1,
           threads: 1, device: cpu, trackers: []}
evaluation: {bootstrap_resamples: 50, max_new_tokens: 24, num_samples: 3}
""",
        encoding="utf-8",
    )


def test_own_data_and_models_go_through_unchanged(
    program: Program, own_files: None, tmp_path: Path
) -> None:
    before = files_in(tmp_path)
    planned = program("train", "own.yaml", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "train examples" in planned.stdout
    assert files_in(tmp_path) == before

    trained = program("train", "own.yaml", "learning_rate=1e-3")
    assert trained.exit_code == 0, trained.stderr
    assert "training: done, 6 of 6" in trained.stdout
    assert "runs/own/student" in trained.stdout
    assert "judged by" in trained.stdout and "judged by" in planned.stdout

    evaluated = program("evaluate", "runs/own")
    assert evaluated.exit_code == 0, evaluated.stderr
    run = RunDirectory.open(tmp_path / "runs" / "own")
    rows = json.loads(run.results_path.read_text(encoding="utf-8"))["systems"]
    assert [row["method"] for row in rows] == ["teacher", "start", "word_kd"]
    for row in rows:
        assert any(line.strip().startswith(row["name"]) for line in evaluated.stdout.splitlines())

    # In a process of its own: this one checks every type, and it has loaded everything already.
    reported = subprocess.run(
        [sys.executable, "-m", "seqdistill", "report", "runs/own"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reported.returncode == 0, reported.stderr
    page = run.report_path.read_text(encoding="utf-8")
    assert "learning_rate: 0.001" in page

    generated = program(
        "generate",
        "runs/own/student",
        "--num_beams=2",
        "--max_new_tokens=24",
        stdin=b"ein haus\n\nx",
    )
    assert generated.exit_code == 0, generated.stderr
    assert len(generated.stdout.split("\n")) == 4
    assert generated.stdout.split("\n")[1] == ""

    again = program("train", "own.yaml", "learning_rate=1e-3")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
