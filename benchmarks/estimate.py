"""Estimates two jobs on paper, from unit costs that are measured or counted here.

    python -m benchmarks.estimate --measure    # writes docs/results/unit_costs.json
    python -m benchmarks.estimate              # prints the tables; `docs.readme` has them on a page

Counted, of models with shapes and no weights: parameters and the operations of a forward pass.
Measured: bytes on disk, tokens of a sentence, sentences a second of one CPU thread. Stated by their
maker: peak and bandwidth of devices. Assumed: which share of these a job reaches, `SHARES`. No
number here is of a run on these devices.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COSTS = ROOT / "docs" / "results" / "unit_costs.json"
SPARSE = ROOT / "docs" / "results" / "sparse_teachers.json"
SENTENCES = 10**9
TOKENS = 2 * 10**9
"""Target and prompt tokens of the second job: two million sequences of LENGTH."""
LENGTH = 1024
WRITTEN = 0.5
"""The share of them that is target: written in rollouts, kept in scores."""
MICRO_BATCH = 4096
ROWS = 256
"""Rows that a device decodes together."""


class Device(NamedTuple):
    """What its maker states: bf16 operations and bytes of memory a second, bytes of memory."""

    name: str
    flops: float
    bandwidth: float
    memory: float


DEVICES = (
    Device("A100 80 GB", 312e12, 2.04e12, 80e9),
    Device("H100 80 GB", 989e12, 3.35e12, 80e9),
    Device("H200 141 GB", 989e12, 4.8e12, 141e9),
)
SHARES = {"training": 0.35, "scoring": 0.45, "decoding": 0.30, "bandwidth": 0.60}


class Shape(NamedTuple):
    """A model: what is counted of it."""

    parameters: int
    flops: float
    """Of a forward pass, a token of the sequence it is counted on; of a pair, a target token."""
    cache_bytes: float
    """Keys and values that a decoded token leaves, in bf16."""


def step_seconds(shape: Shape, device: Device, rows: int, context: float) -> float:
    """Of one token for each of `rows`: the slower of computing and of reading weights and cache."""
    read = 2 * shape.parameters + rows * context * shape.cache_bytes
    computed = rows * shape.flops / (SHARES["decoding"] * device.flops)
    return max(computed, read / (SHARES["bandwidth"] * device.bandwidth))


def label_rows(costs: dict[str, Any]) -> Iterator[list[str]]:
    """Labelling: device-hours and days of 64 devices, greedy and by beam 5."""
    shape = Shape(**costs["shapes"]["3.3 B translator"])
    labels = costs["labels"]
    target, context = labels["target_tokens"], labels["source_tokens"] + labels["target_tokens"] / 2
    disk = f"{SENTENCES * labels['bytes'] / 1e9:,.0f} GB"
    for device in DEVICES:
        for beam in (1, 5):
            step = step_seconds(shape, device, ROWS, context)
            hours = SENTENCES * target * step * beam / ROWS / 3600
            yield [device.name, f"beam {beam}", f"{hours:,.0f}", f"{hours / 64 / 24:.1f}", disk]
    hours = SENTENCES / labels["sentences_per_second"] / 3600
    millions = labels["parameters"] / 1e6
    yield [
        f"one CPU thread, the bundled teacher of {millions:.0f} M, measured",
        "beam 5",
        f"{hours:,.0f}",
        f"{hours / 64 / 24:.1f}",
        disk,
    ]


def distil_rows(costs: dict[str, Any]) -> Iterator[list[str]]:
    """70 B -> 7 B: device-hours of the teacher, of the student, of rollouts, and days of 64."""
    teacher, student = (Shape(**costs["shapes"][name]) for name in ("70 B", "7 B"))
    kept = TOKENS * WRITTEN * _bytes_kept()
    for device in DEVICES:
        asked = TOKENS * teacher.flops / (SHARES["scoring"] * device.flops) / 3600
        # Backward is twice forward; layers are computed once again, for memory.
        learned = TOKENS * 4 * student.flops / (SHARES["training"] * device.flops) / 3600
        step = step_seconds(student, device, ROWS, LENGTH * (1 - WRITTEN / 2))
        written = TOKENS * WRITTEN * step / ROWS / 3600
        for name, rollouts, disk in (
            ("kept scores, first epoch", 0.0, f"{kept / 1e12:.1f} TB"),
            ("on-policy", written, "–"),
        ):
            hours = asked + learned + rollouts
            parts = [f"{part:,.0f}" for part in (asked, learned, rollouts, hours)]
            yield [device.name, name, *parts, f"{hours / 64 / 24:.1f}", disk]


def memory_rows(costs: dict[str, Any]) -> Iterator[list[str]]:
    """Gigabytes a device under FSDP2, by how many devices there are."""
    need = costs["memory"]
    student, teacher = costs["shapes"]["7 B"]["parameters"], need["parts"]["teacher's weights"]
    own = sum(need["parts"].values()) - teacher
    for devices in (8, 16, 32, 64):
        shards = [own / devices, teacher / devices, need["gathered"], need["activations"]]
        total = sum(shards)
        fits = [device.name for device in DEVICES if total < 0.9 * device.memory]
        copied = [name.name for name in DEVICES if total + 4 * student < 0.9 * name.memory]
        cells = [f"{part / 1e9:.1f}" for part in (*shards, total)]
        yield [str(devices), *cells, ", ".join(fits) or "none", ", ".join(copied) or "none"]


def _bytes_kept() -> float:
    rows = json.loads(SPARSE.read_text("utf-8"))["rows"]
    return float(max(row["bytes"] for row in rows if row["k"] == 64))


def page() -> str:
    """The tables, in Markdown."""
    costs = json.loads(COSTS.read_text("utf-8"))
    labels, shapes = costs["labels"], costs["shapes"]
    counted = ", ".join(
        f"{name}: {shape['parameters'] / 1e9:.2f} · 10⁹ parameters, "
        f"{shape['flops'] / 1e9:.1f} GFLOP a token"
        for name, shape in shapes.items()
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in SHARES.items())
    return "\n".join(
        [
            f"Counted: {counted}. Measured: {labels['source_tokens']:.1f} source and "
            f"{labels['target_tokens']:.1f} target tokens and {labels['bytes']:.0f} bytes of "
            f"labels a sentence, {_bytes_kept():.0f} bytes of kept scores a token (k = 64). "
            f"Assumed shares of the stated peak: {shares}.",
            "",
            "**Labels of 10⁹ sentences**, by a translator of 3.3 · 10⁹ parameters, "
            f"{ROWS} rows at once:",
            "",
            *_table(
                ["device", "search", "device-hours", "days on 64", "on disk"], label_rows(costs)
            ),
            "",
            f"**70 B → 7 B** over {TOKENS / 1e9:.0f} · 10⁹ tokens in sequences of {LENGTH:,}, half "
            "of each an answer:",
            "",
            *_table(
                [
                    "device",
                    "method",
                    "teacher, h",
                    "student, h",
                    "rollouts, h",
                    "all, h",
                    "days on 64",
                    "on disk",
                ],
                distil_rows(costs),
            ),
            "",
            f"**Memory of a device**, in GB, micro-batches of {MICRO_BATCH:,} tokens, the teacher "
            "in bf16:",
            "",
            *_table(
                [
                    "devices",
                    "student, gradients, AdamW",
                    "teacher",
                    "gathered layer",
                    "activations",
                    "all",
                    "fits",
                    "with rollouts' copy on the device",
                ],
                memory_rows(costs),
            ),
        ]
    )


def _table(titles: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    lines = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def measure() -> dict[str, Any]:
    """Unit costs: `COSTS` in full."""
    from seqdistill.records.environment import environment_facts

    return {"labels": _labels(), **_counted(), **environment_facts()}


def _labels() -> dict[str, float]:
    """Of bundled sentences by the bundled teacher, on one thread."""
    import torch

    from seqdistill.assembly.corpus import wanted_corpus
    from seqdistill.assembly.data import read_split
    from seqdistill.assembly.models import build_teacher
    from seqdistill.data.detokenizing import TextDecoder
    from seqdistill.recipe.loading import load_recipe
    from seqdistill.records.temporary import temporary_folder
    from seqdistill.sources.shards import Prompt, counts_of, write_shard

    torch.set_num_threads(1)
    given = ["teacher.model=bundled:en-de", "data.train=bundled:en-de", "data.dev=bundled:en-de"]
    limits = ["data.max_train_examples=512", "sequences.decoding.threads=1"]
    recipe = load_recipe(
        "seq_kd", [*given, *limits, "student.init=teacher_layers"], purpose="label"
    )
    teacher = build_teacher(recipe)
    examples = read_split(recipe, "train")
    wanted = wanted_corpus(recipe, teacher, examples)
    generator, decoder = wanted.generator(), TextDecoder(teacher.tokenizer)
    prompts = [
        Prompt(encoded.id, encoded.prompt, example.source or "")
        for encoded, example in zip(wanted.sources, examples, strict=True)
    ]
    began = time.perf_counter()
    found = generator.generate([prompt.source for prompt in prompts], wanted.settings.decoding)
    seconds = time.perf_counter() - began
    with temporary_folder() as folder:
        path = folder / "shard.parquet"
        write_shard(
            path, prompts, found, decode=lambda ids: decoder.text(ids).strip(), keeps_cut=False
        )
        counts = counts_of(path, prompts)
        assert counts is not None
        return {
            "sentences": len(prompts),
            "parameters": sum(p.numel() for p in teacher.model.parameters()),
            "source_tokens": sum(len(prompt.source) for prompt in prompts) / len(prompts),
            "target_tokens": counts.num_tokens / counts.num_hypotheses,
            "bytes": path.stat().st_size / len(prompts),
            "sentences_per_second": len(prompts) / seconds,
        }


def _counted() -> dict[str, Any]:
    """Of models on torch's meta device: they have shapes alone."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        LlamaConfig,
        M2M100Config,
        PreTrainedModel,
    )

    from seqdistill.assembly.memory import memory_need
    from seqdistill.recipe.loading import load_recipe

    def llama(width: int, layers: int, heads: int, inner: int) -> PreTrainedModel:
        config = LlamaConfig(
            vocab_size=128_256,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=8,
            intermediate_size=inner,
            max_position_embeddings=8192,
            attn_implementation="eager",
        )
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        return model

    def flops(model: PreTrainedModel, **inputs: torch.Tensor) -> float:
        with FlopCounterMode(display=False) as counter:
            model.eval()(**inputs, use_cache=False)
        return float(counter.get_total_flops())

    def size(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    with torch.device("meta"):
        teacher, student = llama(8192, 80, 64, 28_672), llama(4096, 32, 32, 11_008)
        shape = {"d_model": 2048, "encoder_layers": 24, "decoder_layers": 24, "vocab_size": 256_206}
        wide = {"encoder_ffn_dim": 8192, "decoder_ffn_dim": 8192}
        translator = AutoModelForSeq2SeqLM.from_config(
            M2M100Config(**shape, **wide, attn_implementation="eager")
        )
        ids = torch.zeros(1, LENGTH, dtype=torch.long)
        pair = torch.zeros(1, 25, dtype=torch.long)
        shapes = {
            name: Shape(
                size(model),
                flops(model, input_ids=ids, attention_mask=torch.ones_like(ids)) / LENGTH,
                2 * 2 * model.config.num_hidden_layers * 8 * 128,
            )._asdict()
            for name, model in (("70 B", teacher), ("7 B", student))
        }
        shapes["3.3 B translator"] = Shape(
            size(translator),
            flops(translator, input_ids=pair, decoder_input_ids=pair) / 25,
            2 * 2 * 24 * 2048,
        )._asdict()
    models = ["teacher.model=a", "teacher.dtype=bf16", "student.model=b", "data.train=c"]
    more = [
        "data.dev=d",
        "training.gradient_checkpointing=true",
        f"training.batch_tokens={MICRO_BATCH}",
    ]
    recipe = load_recipe(
        "word_kd", [*models, *more, "data.max_source_tokens=512", "data.max_target_tokens=512"]
    )
    need = memory_need(recipe, student, [teacher], device=torch.device("cuda"), precision="bf16")
    # A layer of each is whole at a time, in the arithmetic it is used in; or the head, if larger.
    layers = [model.model.layers[0] for model in (teacher, student)]
    gathered = 2 * sum(map(size, layers)) + 2 * teacher.lm_head.weight.numel()
    memory = {"parts": dict(need.parts), "activations": need.activations, "gathered": gathered}
    return {"shapes": shapes, "memory": memory}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="write the unit costs anew")
    if parser.parse_args().measure:
        from seqdistill.records.atomic import write_json

        write_json(COSTS, measure())
    sys.stdout.write(page() + "\n")


if __name__ == "__main__":
    main()
