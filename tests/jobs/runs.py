"""Runs of a few updates: data, tiny models, recipes that name them, and what recipes build."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.chat_families import family_tokenizer
from tests.jobs import naive
from tests.tiny import EOS, character_tokenizer, tiny_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import build_source, training_sequences
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.progress import NoProgress
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.train import train
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import Completion, SequenceSource

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


def texts(settings: Mapping[str, object]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


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


def folder_for(folder: Path, name: str) -> Path:
    """Three splits of data, a teacher and a student of other weights."""
    for split, size, seed in (("train", 24, 0), ("test", 6, 1), ("dev", 4, 2)):
        save_pairs(folder / f"{split}.tsv", size, seed=seed)
    save_teacher(folder / "teacher", name)
    tiny_model(name, seed=8).save_pretrained(folder / "student")
    character_tokenizer(closes=name == "mbart").save_pretrained(folder / "student")
    return folder


def settings_in(folder: Path, name: str = "run") -> dict[str, object]:
    """What every recipe says, its data (without dev) and models in `folder`."""
    return {
        **QUICK,
        "training.checkpoint_every": 2,
        "training.log_every": 1,
        "teacher.model": str(folder / "teacher"),
        "student.model": str(folder / "student"),
        "data.train": str(folder / "train.tsv"),
        "data.test": str(folder / "test.tsv"),
        "output_dir": str(folder / "runs" / name),
    }


def recipe_in(folder: Path, method: str, *overrides: str, name: str = "run") -> Recipe:
    """Scored on dev, in fp32, and decoded with transformers: rollouts of eight tokens."""
    given = {
        **settings_in(folder, name),
        "data.dev": str(folder / "dev.tsv"),
        "sequences.rollouts.max_new_tokens": 8,
        "sequences.rollouts.samples_every": 2,
        "sequences.decoding.engine": "transformers",
        "evaluation.engine": "transformers",
        "training.precision": "fp32",
    }
    if not read_recipe(method).sequences.can_roll_out:
        given = {key: value for key, value in given.items() if "rollouts" not in key}
    if method == "distillm":
        given["training.eval_every"] = 2
    return load_recipe(method, [*texts(given), *overrides])


def trained(recipe: Recipe, *, resume: bool = False) -> RunDirectory:
    return train(recipe, progress=NoProgress(), resume=resume)


def student_of(run: RunDirectory) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(run.student_path / "model.safetensors")
    return found


def losses(run: RunDirectory) -> list[float]:
    return [float(str(row["loss_nats"])) for row in run.read_metrics() if "loss_nats" in row]


def assert_equal_students(one: RunDirectory, other: RunDirectory) -> None:
    first, second = student_of(one), student_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


FEASIBLE = texts({**QUICK, "training.steps": 2, "training.batch_tokens": 60})


def save_chat_model(folder: Path, family: str) -> PreTrainedTokenizerFast:
    """A decoder-only model that ends as the tokenizer of that family does."""
    tokenizer = family_tokenizer(family)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    model.config.max_position_embeddings = 200
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.bos_token_id = model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def fill(folder: Path) -> Path:
    """Data and two kinds of models, whose 40 positions are few."""
    lines = ["source\ttarget", *(f"rot {'a' * n}\tblau {'b' * n}" for n in range(1, 9))]
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("bart", "gemma2"):
        tiny_model(name).save_pretrained(folder / name)
        character_tokenizer(closes=name == "bart").save_pretrained(folder / name)
    return folder


def start(*overrides: str, method: str = "baseline", model: str = "bart") -> RunDirectory:
    """A run of two updates with what `fill` has put into the working directory."""
    given = ["data.train=train.tsv", f"student.model={model}", "output_dir=runs/x", *FEASIBLE]
    return trained(load_recipe(method, [*given, *overrides]))


@dataclasses.dataclass
class Bench:
    """What a recipe builds before its first update, and what is written for it."""

    prepared: Prepared
    examples: Sequence[EncodedExample]
    source: SequenceSource
    written: list[Completion]

    def batch(self, update: int = 1, updates: int = 9) -> SequenceBatch:
        """The first batch of an update; `written` then holds its sequences alone."""
        self.written.clear()
        self.source.begin_update(update, updates)
        return self.source.next_batch()


def bench(recipe: Recipe, *, rank: int = 0, world_size: int = 1) -> Bench:
    prepared = prepare(recipe)
    examples, _ = training_sequences(prepared, NoProgress())
    written: list[Completion] = []
    source = build_source(
        prepared,
        examples,
        rank=rank,
        world_size=world_size,
        on_completions=lambda update, batch: written.extend(batch.listed()),
    )
    return Bench(prepared, examples, source, written)


def plain_logits(model: PreTrainedModel, example: EncodedExample) -> Tensor:
    """(time, vocab): what the model says before each target."""
    with torch.no_grad():
        return naive.plain_logits(model, example.source_ids, example.target_ids)


def scored(folder: Path, written: Sequence[Completion]) -> list[naive.Scored]:
    """The sequences by both models' plain logits, of the symbols that both of them have."""
    student, teacher = (naive.plain_model(folder / who) for who in ("student", "teacher"))
    found = []
    for one in written:
        own, others = (plain_logits(model, one.example) for model in (student, teacher))
        shared = min(own.shape[1], others.shape[1])
        found.append(naive.Scored(one.example.target_ids, own[:, :shared], others[:, :shared]))
    return found


def likeliest_outputs(
    pair: LoadedModel,
    examples: Sequence[EncodedExample],
    *,
    beam: int,
    longest: int,
    vocab_size: int | None = None,
) -> list[tuple[int, ...]]:
    """What the model writes for each source, which is decoded alone: ids below `vocab_size`. Of a
    beam search and a greedy output that ends the likelier by token."""
    generator = TransformersGenerator(
        pair.model, pair.tokenizer, kind=pair.kind, vocab_size=vocab_size
    )
    written = []
    for example in examples:
        found = [
            generator.generate([example.source_ids], Decoding(beam_size=n, max_new_tokens=longest))
            for n in (beam, 1)
        ]
        (searched,), (greedy,) = (answers[0] for answers in found)
        ended = [one for one in (searched, greedy) if one.finished] or [searched]
        written.append(max(ended, key=lambda h: h.log_prob / len(h.token_ids)).token_ids)
    return written
