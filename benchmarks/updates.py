"""Measures updates against what they are made of: rollouts, and steps beside bare transformers.

    python -m benchmarks.updates            # writes docs/results/updates.json

Of each pair of models, one thread, fp32, all forms in turns after a round to warm up:

    writing      the student samples for all micro-batches of an update in one call, as in training,
                 by this package's own sampler and by CTranslate2 (float32, one worker), each with
                 the refresh of its weights
    products     the matrix products of one call of the own sampler, recorded and done again, and
                 nothing else: what no loop over the same batches can be faster than
    refresh      of CTranslate2's weights alone
    generate     transformers' `generate` on the same prompts, sorted by length, in the fastest of
                 three batch sizes
    learning     of what the own sampler wrote: the teacher's scores, the student's loss with its
                 gradient, and AdamW: the supervised step on the same sequences
    supervised   a step of the training loop on references: NLL, all bookkeeping and AdamW included
    kept         the same with the teacher's 64 likeliest symbols at each position, read from disk
    bare         transformers' own forward pass and loss of the same batches from labels, backward,
                 clipping and AdamW, nothing else

Ratios are of two forms of one round, of CPU-seconds of the process and of wall seconds; medians
with the lowest and highest, beside the `bar` that each is to stay below, or above for rates. On a
machine with other work read the CPU-seconds. Tokens are those written or learned from. Nothing is
compared across runs or machines. The update has four micro-batches; a random student ends nothing
and writes 48 tokens a prompt, the bundled one stops. Not in it: the choice of `engine: auto`, which
is made once a run, and evaluation.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import build_sampler, with_rollout_engine
from seqdistill.assembly.teachers import build_teacher_scores, live_teacher
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.progress import NoProgress
from seqdistill.core.source import Source
from seqdistill.core.terms import Term
from seqdistill.data.batching import EpochBatches
from seqdistill.data.bundled import read_bundled
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.measuring import Spread, Taken, in_turns
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.modalities import modality_of
from seqdistill.models.placement import use_fast_attention
from seqdistill.models.scratch import configuration, random_model, train_vocabulary
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import TrainingSection
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import SequenceSource
from seqdistill.sources.rollouts import RolloutSampler
from seqdistill.teachers.in_process import NoTeacher, Teacher
from seqdistill.training.loop import TrainingLoop
from seqdistill.training.optimization import StudentLoss, make_optimizer

OUTPUT = Path("docs/results/updates.json")
CPU = torch.device("cpu")
Forms = dict[str, Callable[[int], float | None]]
MICRO_BATCHES, NEW_TOKENS, VOCABULARY = 4, 48, 8000
DECODERS = {
    "decoder-only, 1.4 to 4.8 M": ((128, 2), (256, 3)),
    "decoder-only, 6 to 17 M": ((256, 4), (384, 6)),
}
"""Width and layers of student and teacher."""
BUNDLED = "encoder-decoder, width 256, 3+3 of 3+6 layers"
SETTINGS = TrainingSection(steps=10**6, learning_rate=1e-9, schedule="constant", log_every=10**6)


def decoder_pair(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Settings of a random student and teacher of one vocabulary, and their data."""
    examples = read_bundled("bundled:en-de", split="train")[:4000]
    texts = [f"{one.source} {one.target}" for one in examples]
    tokenizer = train_vocabulary(texts, vocab_size=VOCABULARY)
    for who, (width, layers) in zip(("student", "teacher"), sizes, strict=True):
        architecture: dict[str, str | int | float | bool] = {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        }
        random_model(configuration(architecture, tokenizer), seed=1).save_pretrained(folder / who)
        tokenizer.save_pretrained(folder / who)
    rows = [f"{one.source}\t{one.target}" for one in examples]
    (folder / "train.tsv").write_text("source\ttarget\n" + "\n".join(rows) + "\n", encoding="utf-8")
    models = [f"{who}.model={folder / who}" for who in ("student", "teacher")]
    return [*models, f"data.train={folder / 'train.tsv'}"]


def bundled_pair() -> list[str]:
    """Settings of a part of the bundled translator under the whole."""
    return [
        "teacher.model=bundled:en-de",
        "data.train=bundled:en-de",
        "student.init=teacher_layers",
        "student.encoder_layers=3",
        "student.decoder_layers=3",
    ]


def prepared_for(preset: str, settings: Sequence[str], batch_tokens: int, folder: Path) -> Prepared:
    """A recipe's data and models."""
    shared = [
        "data.max_train_examples=4000",
        f"training.batch_tokens={batch_tokens}",
        f"training.gradient_accumulation_steps={MICRO_BATCHES}",
        "training.precision=fp32",
        "training.device=cpu",
        "training.dropout=0",
        f"output_dir={folder / 'run'}",
    ]
    return prepare(load_recipe(preset, [*shared, *settings]))


class Given(SequenceSource):
    """The same batches over and over."""

    def __init__(self, batches: Sequence[SequenceBatch]) -> None:
        self._batches = itertools.cycle(batches)

    def next_batch(self) -> SequenceBatch:
        return next(self._batches)


def loop_over(
    prepared: Prepared, batches: Sequence[SequenceBatch], teacher: Teacher, folder: Path
) -> TrainingLoop:
    """A training of a copy of the student, of one batch an update."""
    model = copy.deepcopy(prepared.student.model)
    use_fast_attention(model, CPU)
    return TrainingLoop(
        model=SequenceModel(model),
        source=Given(batches),
        teacher=teacher,
        objective=WeightedObjective(prepared.recipe.objective.built_terms(), reduction="token"),
        mask=prepared.mask,
        settings=SETTINGS,
        precision="fp32",
        eval_metric="loss_nats",
        seed=1,
        accelerator=Accelerator(cpu=True),
        run_directory=RunDirectory.create(folder),
        progress=NoProgress(),
    )


def bare_step(model: PreTrainedModel) -> Callable[[SequenceBatch], None]:
    """What anyone writes with transformers and torch alone."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)

    def step(batch: SequenceBatch) -> None:
        named: dict[str, Any] = {"input_ids": batch.decoder_input_ids}
        named["attention_mask"] = batch.decoder_mask.long()
        if batch.source is not None:
            named = {f"decoder_{name}": tensor for name, tensor in named.items()}
            named |= modality_of(model).arguments(batch.source)
        logits: Tensor = model(**named, use_cache=False).logits.float()
        targets = batch.target_ids.masked_fill(~batch.target_mask, -100)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class RecordedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, notes every product of matrices with what it was of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Callable[..., Tensor], tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self._calls.append((func, args))
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def again(self) -> None:
        """Does them all, one after another."""
        for func, args in self._calls:
            func(*args)


def rollout_forms(
    prepared: Prepared,
) -> tuple[Forms, dict[str, object]]:
    """What writes for, and learns from, the prompts of an update."""
    recipe, student = prepared.recipe, prepared.student
    collator = collator_for(student)
    order = EpochBatches(
        prepared.train,
        student.kind,
        batch_tokens=recipe.training.batch_tokens,
        seed=1,
        expected_new_tokens=NEW_TOKENS,
    )
    batches = [[prepared.train[i] for i in order.next()] for _ in range(MICRO_BATCHES)]
    samplers = {}
    for engine in ("transformers", "ctranslate2"):
        sampler = build_sampler(with_rollout_engine(prepared, engine), prepared.train)
        samplers[engine] = RolloutSampler(sampler, seed=1)
    written: list[SequenceBatch] = []
    loss = StudentLoss(
        prepared.adapted, WeightedObjective([Term.of("forward_kl")], reduction="token")
    )
    optimizer = make_optimizer(loss, SETTINGS)
    teacher = live_teacher(prepared, CPU)
    plain = TransformersGenerator(student.model, student.tokenizer, kind=student.kind)
    decoding = Decoding(mode="sample", max_new_tokens=NEW_TOKENS)
    prompts: list[Source] = sorted(
        (one.prompt for of in batches for one in of), key=len, reverse=True
    )

    def sampled(engine: str) -> Callable[[int], float]:
        def call(number: int) -> float:
            source = samplers[engine]
            source.begin_update(number + 1, 10**6)
            found = source.complete_all(batches)
            if engine == "transformers":
                written[:] = [one.collated(collator) for one in found]
            return float(sum(int(one.completions.lengths.sum()) for one in found))

        return call

    def learning(_number: int) -> float:
        loss.train()
        for batch in written:
            torch.autograd.backward(loss(batch, teacher.score(batch))[0])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(sum(batch.num_targets for batch in written))

    def generated(size: int) -> Callable[[int], float]:
        def call(number: int) -> float:
            found = plain.token_ids(prompts, decoding, batch_size=size, seed=number)
            return float(sum(len(rows[0]) for rows in found))

        return call

    with RecordedProducts() as products:
        num_written = sampled("transformers")(0)

    def multiplied(_number: int) -> float:
        products.again()
        return num_written

    sizes = sorted({min(size, len(prompts)) for size in (16, 64, len(prompts))})
    tried = in_turns({str(size): generated(size) for size in sizes}, least=1, most=1)
    best = max(sizes, key=lambda s: tried[str(s)][0].result / tried[str(s)][0].cpu_s)
    forms: Forms = {
        "writing": sampled("transformers"),
        "products": multiplied,
        "learning": learning,
        "writing, ctranslate2": sampled("ctranslate2"),
        "refresh": lambda _number: samplers["ctranslate2"].sampler.refresh(),
        "generate": generated(best),
    }
    facts = {"prompts": [len(one) for one in batches], "batch_size_of_generate": best}
    return forms, facts


def step_forms(
    settings: Sequence[str], batch_tokens: int, folder: Path
) -> tuple[Forms, dict[str, object]]:
    """Steps on the same references."""
    few = [*settings, "data.max_train_examples=300"]
    nll = prepared_for("baseline", few, batch_tokens, folder)
    kept = prepared_for("supervised_kd", [*few, "teacher.scores=top_k"], batch_tokens, folder)
    teacher = build_teacher_scores(kept, kept.train, CPU, NoProgress())
    order = EpochBatches(nll.train, nll.student.kind, batch_tokens=batch_tokens, seed=1)
    collator = collator_for(nll.student)
    batches = [collator([nll.train[i] for i in order.next()]) for _ in range(3)]
    loops = {
        "supervised": loop_over(nll, batches, NoTeacher(), folder / "supervised"),
        "kept": loop_over(kept, batches, teacher, folder / "kept"),
    }
    for loop in loops.values():
        loop.clock.start({})
    bare = bare_step(nll.student.model)
    forms: Forms = {
        "bare": lambda number: bare(batches[number % 3]),
        "supervised": lambda _number: loops["supervised"]._step(),
        "kept": lambda _number: loops["kept"]._step(),
    }
    return forms, {"targets": [batch.num_targets for batch in batches]}


BARS = {
    "supervised step to bare": 1.15,
    "step with kept scores to bare": 1.3,
    "on-policy step to learning": 1.6,
    "on-policy step to learning, ctranslate2": 1.6,
    "refresh to on-policy step, ctranslate2": 0.05,
    "rate of writing to generate": 4.0,
    "rate of writing to generate, ctranslate2": 4.0,
}
"""Rates are to lie above theirs, the others below. That of the bare products has none: it is the
bound of the own sampler's."""


def ratios(found: Mapping[str, Sequence[Taken]], clock: str) -> dict[str, dict[str, float]]:
    """All of them, of the seconds of one clock, round by round."""
    seconds = {form: [getattr(one, clock) for one in taken] for form, taken in found.items()}

    def spread(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
        return dict(vars(Spread.of([a / b for a, b in zip(over, under, strict=True)])))

    def rate(form: str) -> list[float]:
        return [one.result / s for one, s in zip(found[form], seconds[form], strict=True)]

    told = {
        "supervised step to bare": spread(seconds["supervised"], seconds["bare"]),
        "step with kept scores to bare": spread(seconds["kept"], seconds["bare"]),
    }
    for name in ("", ", ctranslate2"):
        writing = f"writing{name}"
        pairs = zip(seconds[writing], seconds["learning"], strict=True)
        whole = [writes + learns for writes, learns in pairs]
        told[f"on-policy step to learning{name}"] = spread(whole, seconds["learning"])
        if name:
            told[f"refresh to on-policy step{name}"] = spread(seconds["refresh"], whole)
        told[f"rate of writing to generate{name}"] = spread(rate(writing), rate("generate"))
    told["rate of bare products to generate"] = spread(rate("products"), rate("generate"))
    return told


def measured(name: str, rounds: int, folder: Path) -> dict[str, object]:
    """All forms of one pair of models."""
    settings = bundled_pair() if name == BUNDLED else decoder_pair(folder, DECODERS[name])
    batch_tokens = 400 if name == BUNDLED else 1000
    length = f"sequences.rollouts.max_new_tokens={NEW_TOKENS}"
    prepared = prepared_for("on_policy_kd", [*settings, length], batch_tokens, folder)
    use_fast_attention(prepared.student.model, CPU)
    forms, facts = rollout_forms(prepared)
    taken = in_turns(forms, least=rounds, most=rounds)
    learned = MICRO_BATCHES * batch_tokens
    steps, more = step_forms(settings, learned, folder)
    taken |= in_turns(steps, least=3 * rounds, most=3 * rounds)
    medians = {
        form: {
            key: statistics.median(getattr(one, field) for one in each)
            for key, field in (("cpu_s", "cpu_s"), ("wall_s", "wall_s"), ("tokens", "result"))
        }
        for form, each in taken.items()
    }
    return {
        "pair": name,
        "batch_tokens": batch_tokens,
        "batch_tokens_of_steps": learned,
        **facts,
        **more,
        "ratios_of_cpu_s": ratios(taken, "cpu_s"),
        "ratios_of_wall_s": ratios(taken, "wall_s"),
        "medians": medians,
    }


def main() -> None:
    """Measures all pairs, or those named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", nargs="*", default=[*DECODERS, BUNDLED])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    rows, load = [], os.getloadavg()[0]
    for name in given.pairs:
        with tempfile.TemporaryDirectory() as place:
            rows.append(measured(name, given.rounds, Path(place)))
        print(name, rows[-1]["ratios_of_cpu_s"], file=sys.stderr, flush=True)
    facts = {"rounds": given.rounds, "micro_batches": MICRO_BATCHES, "threads": 1, "bars": BARS}
    loads = {"load_average": {"before": load, "after": os.getloadavg()[0]}}
    write_json(given.output, {**facts, **loads, **environment_facts(), "rows": rows})


if __name__ == "__main__":
    main()
