"""How cost grows along one axis at a time, and whether `--dry-run` says what runs then take.

    python -m benchmarks.cost            # both; writes docs/results/cost.json
    python -m benchmarks.cost --only growth,recipes

Growth: random Llamas and generated token ids; a step is the teacher's scores, the student's loss
(forward KL) with its gradient, and AdamW. One setting changes and the others stay at `Setting`'s.
Each point is a process of its own: CPU-seconds of the faster of two steps after one to warm up, and
the peak of memory over what the libraries hold, models and optimizer included. Labels are beams of
a random pair of encoder and decoder, as long as they may get; rows are generated texts, read,
tokenized and planned.

Recipes: bundled models and data, one after another. What `plan` says is compared with what the run
notes itself, part by part, and with a call of `evaluate`; each in a process of its own.

All seconds are CPU-seconds of one thread: the clock that the package reads is that of the process,
so that other work on the machine does not count, as far as it leaves caches and memory alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.progress import NoProgress
from seqdistill.core.terms import Term
from seqdistill.data.batching import EpochBatches
from seqdistill.data.bundled import read_bundled
from seqdistill.data.cache import FOLDER_VARIABLE
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.text_encoding import encode
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.measuring import peak_over_held
from seqdistill.jobs.plan import plan
from seqdistill.jobs.train import train
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.placement import set_attention, use_fast_attention
from seqdistill.models.scratch import configuration, random_model, train_vocabulary
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import TrainingSection
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.training.optimization import StudentLoss, make_optimizer

OUTPUT = Path("docs/results/cost.json")
CPU = torch.device("cpu")
STEP = TrainingSection(steps=1, learning_rate=1e-9)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A step: what is small where something else grows."""

    vocabulary: int = 2000
    length: int = 128
    """Of a sequence; half of it is prompt."""
    tokens: int = 1024
    """Of a batch, prompts included."""
    teacher_width: int = 128
    student_width: int = 64
    layers: int = 2
    attention: str = "auto"


LENGTHS = (64, 256, 1024, 2048, 4096, 8192)
STEPS: dict[str, tuple[str, list[Setting]]] = {
    "vocabulary": (
        "vocabulary",
        [Setting(vocabulary=v, tokens=512) for v in (8_000, 32_000, 128_000, 256_000)],
    ),
    "length": (
        "length",
        [Setting(length=n, tokens=8192) for n in LENGTHS],
    ),
    "length, fused attention": (
        "length",
        [Setting(length=n, tokens=8192, attention="sdpa") for n in LENGTHS],
    ),
    "batch": ("tokens", [Setting(tokens=n) for n in (256, 1024, 4096, 16_384)]),
    "teacher": ("teacher_width", [Setting(teacher_width=w) for w in (64, 128, 256, 512, 1024)]),
}
ROWS = (10**3, 10**4, 10**5, 10**6, 10**7)
READ = 10**4
"""Rows that are tokenized at most, by this process; more are repetitions of these, and planned."""
BEAMS = (1, 2, 4, 8)


def llama(setting: Setting, width: int) -> LlamaForCausalLM:
    """A random model of that width."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=setting.vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=setting.layers,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=setting.length,
            tie_word_embeddings=True,
        )
    )


def random_batch(setting: Setting) -> SequenceBatch:
    """So many tokens in sequences of that length."""
    drawn = np.random.default_rng(1).integers(
        3, setting.vocabulary, (setting.tokens // setting.length, setting.length)
    )
    half = setting.length // 2
    rows = [tuple(row.tolist()) for row in drawn]
    examples = [EncodedExample(f"{n}", row[:half], row[half:]) for n, row in enumerate(rows)]
    return Collator("causal", pad_id=0)(examples)


def step(setting: Setting) -> dict[str, float]:
    """Of one step: CPU-seconds, parameters, target tokens and positions."""
    torch.manual_seed(1)
    pair = [llama(setting, w) for w in (setting.student_width, setting.teacher_width)]
    for model in pair:
        if setting.attention == "auto":
            use_fast_attention(model, CPU)
        else:
            set_attention(model, setting.attention)
    student, teacher = map(SequenceModel, pair)
    asked = InProcessTeacher(teacher, vocab_size=setting.vocabulary)
    objective = WeightedObjective([Term.of("forward_kl")], reduction="token")
    loss = StudentLoss(student, objective).train()
    optimizer, batch = make_optimizer(loss, STEP), random_batch(setting)

    def call() -> None:
        torch.autograd.backward(loss(batch, asked.score(batch))[0])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {
        "cpu_s": fastest(call),
        "targets": float(batch.num_targets),
        "positions": float(batch.target_ids.numel()),
        "teacher_parameters": float(sum(p.numel() for p in teacher.parameters())),
    }


def fastest(call: Callable[[], object], times: int = 2) -> float:
    """CPU-seconds of the fastest of so many calls after one."""
    taken = []
    for _ in range(times + 1):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken[1:])


def beams(size: int) -> dict[str, float]:
    """Labels by a beam of that size, all of it kept: CPU-seconds of 16 sources of 16 tokens."""
    tokenizer = train_vocabulary([f"word {n}" for n in range(50)], vocab_size=2000)
    shape: dict[str, str | int | float | bool] = {
        "model_type": "mbart",
        "d_model": 128,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    model = random_model(configuration(shape, tokenizer), seed=1)
    model.final_logits_bias[0, tokenizer.eos_token_id] = -1e4  # no output ends early
    generator = TransformersGenerator(model, tokenizer, kind="seq2seq")
    sources = np.random.default_rng(1).integers(5, len(tokenizer), (16, 16)).tolist()
    decoding = Decoding(beam_size=size, n_best=size, max_new_tokens=24)
    seconds = fastest(lambda: generator.generate([tuple(one) for one in sources], decoding))
    return {"cpu_s": seconds, "sources": float(len(sources))}


def rows(count: int) -> dict[str, float]:
    """Of so many rows: reading and tokenizing each, planning an epoch, and one batch of it."""
    known = read_bundled("bundled:en-de", split="train")[:1000]
    tokenizer = train_vocabulary([one.target or "" for one in known], vocab_size=1000)
    repeated = known.select(np.arange(min(count, READ)) % len(known))
    named = [dataclasses.replace(one, id=f"{n}") for n, one in enumerate(repeated)]
    with tempfile.TemporaryDirectory() as cache:
        os.environ[FOLDER_VARIABLE] = cache
        began = time.process_time()
        encoded = EncodedDataset.of(encode(named, tokenizer, "seq2seq"))
        tokenized = time.process_time() - began
        return _of_rows(encoded, count) | {"cpu_s_of_tokenizing_a_row": tokenized / len(encoded)}


def _of_rows(encoded: EncodedDataset, count: int) -> dict[str, float]:
    every = encoded.select(np.arange(count) % len(encoded))
    began = time.process_time()
    batches = EpochBatches(every, "seq2seq", batch_tokens=1024, seed=1)
    planned = time.process_time() - began
    collator = Collator("seq2seq", pad_id=0, start_id=0)

    def read() -> None:
        for _ in range(20):
            collator([every[place] for place in batches.next()])

    return {"cpu_s_of_planning": planned, "cpu_s_of_a_batch": fastest(read) / 20}


SHARED = [
    "training.threads=1",
    "training.device=cpu",
    "sequences.decoding.threads=1",
    "data.max_train_examples=400",
    "data.max_dev_examples=64",
    "data.max_test_examples=16",
]


def bundled(name: str) -> list[str]:
    """A bundled teacher on its own data."""
    data = [f"data.{split}=bundled:{name}" for split in ("train", "dev", "test")]
    return [*SHARED, *data, f"teacher.model=bundled:{name}"]


def steps(count: int, tokens: int, accumulated: int = 1) -> list[str]:
    """So many updates, with two scores on dev."""
    return [
        f"training.steps={count}",
        f"training.batch_tokens={tokens}",
        f"training.gradient_accumulation_steps={accumulated}",
        f"training.eval_every={count // 2}",
    ]


LAYERS = ["student.init=teacher_layers", "student.encoder_layers=3", "student.decoder_layers=3"]
TRANSLATING = [*bundled("en-de"), *LAYERS]
COUNTING = [*bundled("arithmetic"), "student.init=teacher_layers", "student.decoder_layers=2"]
ROLLOUTS = "sequences.rollouts.engine"
CHECKED: dict[str, tuple[str, list[str]]] = {
    "word_kd, 600 tokens": ("word_kd", [*TRANSLATING, *steps(40, 600)]),
    "word_kd, 2 x 2,000 tokens": ("word_kd", [*TRANSLATING, *steps(16, 2000, 2)]),
    "seq_kd, labels": ("seq_kd", [*TRANSLATING, *steps(40, 600)]),
    "supervised_kd, kept scores": (
        "supervised_kd",
        [*TRANSLATING, *steps(40, 600), "teacher.scores=top_k"],
    ),
    "on_policy_kd, transformers": (
        "on_policy_kd",
        [*TRANSLATING, *steps(30, 400, 2), f"{ROLLOUTS}=transformers"],
    ),
    "on_policy_kd, ctranslate2": (
        "on_policy_kd",
        [*TRANSLATING, *steps(30, 400, 2), f"{ROLLOUTS}=ctranslate2"],
    ),
    "arithmetic, baseline": ("baseline", [*COUNTING, *steps(60, 1000)]),
    "arithmetic, gkd": ("gkd", [*COUNTING, *steps(30, 400, 2)]),
}


def compared(name: str) -> list[dict[str, object]]:
    """What was planned of a recipe and what it took, part by part."""
    preset, settings = CHECKED[name]
    with tempfile.TemporaryDirectory() as place:
        asked = [*settings, f"output_dir={place}/run"]
        planned = alone(_planned, preset, asked)
        taken = alone(_taken, preset, asked)
    told(name, [planned, taken])
    return [
        {"recipe": name, "part": part, "planned_s": planned[part], "taken_s": taken[part]}
        for part in planned
        if planned[part] or taken[part]
    ]


def _on_cpu_time() -> None:
    """The package's clocks count what this process computes, from now on."""
    time.perf_counter = time.process_time


def _planned(preset: str, settings: Sequence[str]) -> dict[str, float]:
    _on_cpu_time()
    found = plan(load_recipe(preset, settings)).seconds
    return {
        "labels": found.labels,
        "teacher's scores": found.scores,
        "updates": sum(found.updates.values()),
        "dev scores": found.dev,
        "training": found.training,
        "evaluation": found.evaluation,
    }


def _taken(preset: str, settings: Sequence[str]) -> dict[str, float]:
    _on_cpu_time()
    run = train(load_recipe(preset, settings), progress=NoProgress())
    timings = run.read_manifest()["timings"]
    assert isinstance(timings, list)
    noted = {row["step"]: float(row["seconds"]) for row in timings}
    phases: dict[str, float] = {}
    for line in run.metrics_path.read_text("utf-8").splitlines():
        row = json.loads(line)
        phases |= {key: value for key, value in row.items() if key.startswith("seconds_")}
    dev = phases.pop("seconds_evaluation")
    labels, scores = noted.get("labelling", 0.0), noted.get("teacher's scores", 0.0)
    began = time.process_time()
    evaluate_run(run, progress=NoProgress())
    return {
        "labels": labels,
        "teacher's scores": scores,
        "updates": sum(phases.values()),
        "dev scores": dev,
        "training": labels + scores + noted["training"],
        "evaluation": time.process_time() - began,
    }


def alone(call: Callable[..., dict[str, float]], *given: object) -> dict[str, float]:
    """What a call returns, in a process of its own with these libraries loaded."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_report, args=(sending, call, given))
    child.start()
    sending.close()
    found: dict[str, float] = receiving.recv()
    child.join()
    return found


def _report(sending: Connection, call: Callable[..., dict[str, float]], given: Any) -> None:
    found: dict[str, float] = {}
    peak = peak_over_held(lambda: found.update(call(*given)))
    sending.send({**found, "peak_bytes": float(peak)} if call in (step, beams, rows) else found)


def growth() -> dict[str, list[dict[str, float]]]:
    """Of each axis a row a point."""
    found: dict[str, list[dict[str, float]]] = {}
    for axis, (field, settings) in STEPS.items():
        found[axis] = [{axis: getattr(one, field), **alone(step, one)} for one in settings]
        told(axis, found[axis])
    found["rows"] = [{"rows": float(count), **alone(rows, count)} for count in ROWS]
    found["hypotheses"] = [{"hypotheses": float(size), **alone(beams, size)} for size in BEAMS]
    told("rows, hypotheses", [found["rows"], found["hypotheses"]])
    return found


def told(name: str, found: object) -> None:
    """For who waits."""
    print(name, json.dumps(found), file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="growth,recipes", help="parts to measure anew")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    known = json.loads(given.output.read_text("utf-8")) if given.output.is_file() else {}
    if "growth" in given.only:
        known["growth"] = growth()
        _write(given.output, known)
    if "recipes" in given.only:
        known["recipes"] = []
        for name in CHECKED:
            known["recipes"] += compared(name)
            _write(given.output, known)


def _write(path: Path, known: dict[str, Any]) -> None:
    facts = {"clock": "CPU-seconds of the process", "threads": 1, "load_average": os.getloadavg()}
    write_json(path, {**known, **facts, **environment_facts()})


if __name__ == "__main__":
    main()
