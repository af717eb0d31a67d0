"""What every number of processes must train alike; `test_processes.py` starts it.

python ranks.py FOLDER

Two processes and then three leave `FOLDER/2-ddp`, `FOLDER/2-fsdp2` and so on; what two began under
DDP all others go on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from tests.jobs.runs import recipe_in
from tests.tiny import character_tokenizer, collator, random_examples, tiny_model
from tests.training.small import Recorder, make_loop, stored, student, weights
from torch import nn

from seqdistill.core.errors import NonFiniteLossError, UserError
from seqdistill.core.features import Layer
from seqdistill.core.progress import NoProgress
from seqdistill.core.terms import FeatureTerm, Term
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches
from seqdistill.evaluation.dev import DevScorer, Ranks
from seqdistill.evaluation.likelihood import reference_nats
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.train import train as job_train
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.features import FeatureLoss
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.sequences_schema import Decoding, MeasuredSection
from seqdistill.sources.mixture import MeasuredFraction, MixtureSource
from seqdistill.sources.rollouts import RolloutBatches, RolloutSampler
from seqdistill.sources.stored import StoredCompletions
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.training.processes import (
    Parallel,
    all_gather_object,
    make_accelerator,
    prepare,
    shard_frozen,
)

PARALLELS: tuple[Parallel, ...] = ("ddp", "fsdp2")
BEGUN = "2-ddp"
MICRO_BATCHES = 6
"""Of every update, over all processes."""
TOKENIZER = character_tokenizer()
DEV = random_examples(7, seed=9)


def ranks_of(accelerator: Accelerator) -> Ranks:
    return Ranks(accelerator.process_index, accelerator.num_processes, all_gather_object)


def dev_scorer(model: SequenceModel, accelerator: Accelerator) -> DevScorer:
    """A real one: greedy outputs and the loss, each process its share of seven examples."""

    def loss(examples: Any) -> TokenSum:
        return reference_nats(model, examples, collator(model.kind))

    return DevScorer(
        examples=DEV,
        references=[str(example.id) for example in DEV],
        tokenizer=TOKENIZER,
        generator=lambda module: TransformersGenerator(module, TOKENIZER, kind=model.kind),
        metrics=("bleu", "chrf"),
        loss=loss,
        max_new_tokens=6,
        ranks=ranks_of(accelerator),
    )


def teacher_of(accelerator: Accelerator) -> InProcessTeacher:
    teacher = InProcessTeacher(student(seed=3, dtype=torch.float64), vocab_size=40)
    if accelerator.is_fsdp2:
        shard_frozen(teacher.model)
    return teacher


def wide_teacher() -> SequenceModel:
    """Twice as wide as the student, so that matrices are trained."""
    return SequenceModel(tiny_model("mbart", seed=3, d_model=32)).to(torch.float64)


def features_of(model: SequenceModel) -> WeightedObjective:
    pairs: list[tuple[Layer, Layer]] = [
        (("encoder", 2), ("encoder", 1)),
        (("decoder", 1), ("decoder", 2)),
    ]
    reads = frozenset({"hidden"})
    own = model.try_features({layer: reads for layer, _ in pairs})
    others = wide_teacher().try_features({layer: reads for _, layer in pairs})
    matching = FeatureLoss(FeatureTerm.of("hidden_mse"), pairs, own, others, seed=5)
    return WeightedObjective([Term.of("forward_kl")], reduction="token", features=[matching])


def train(
    folder: Path,
    accelerator: Accelerator,
    model: SequenceModel,
    *,
    resume: bool = False,
    **more: Any,
) -> list[dict[str, Any]]:
    """The log of two updates of six micro-batches each, however many processes share them."""
    metrics = Recorder()
    count = accelerator.num_processes
    settings: dict[str, Any] = {
        "steps": 2,
        "gradient_accumulation_steps": MICRO_BATCHES // count,
        "source": stored(rank=accelerator.process_index, world_size=count),
        **more,
    }
    make_loop(folder, model, accelerator=accelerator, metrics=metrics, **settings).run(
        resume=resume
    )
    return metrics.without_timings


def half_on_policy(model: SequenceModel, accelerator: Accelerator) -> RolloutBatches:
    """References and what the student samples, three prompts or so at a time."""
    sampler = TransformersSampler(
        model.module,
        TOKENIZER,
        kind=model.kind,
        decoding=Decoding(mode="sample", beam_size=1, max_new_tokens=5, batch_tokens=64),
    )
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    measured = MeasuredSection(shape="measured", within=(0.1, 0.9), time_constant=2.0)
    writer = MixtureSource(
        RolloutSampler(sampler, seed=5, **place),
        StoredCompletions("reference"),
        MeasuredFraction(measured),
        coin="example",
        seed=5,
    )
    examples = random_examples(40)
    places = EpochBatches(
        examples, model.kind, batch_tokens=24, expected_new_tokens=5, seed=5, **place
    )
    return RolloutBatches(examples, writer, collator(model.kind), places)


def trainings(folder: Path, accelerator: Accelerator) -> dict[str, list[dict[str, Any]]]:
    """Every kind of training; weights are left in `folder`, the rows of the logs are returned."""
    folder.mkdir(exist_ok=True, parents=True)
    rows: dict[str, list[dict[str, Any]]] = {}

    def kept(name: str, model: SequenceModel, run: str = "", **more: Any) -> None:
        rows[name] = train(folder / f"{run or name}-run", accelerator, model, **more)
        save_file(weights(model), folder / f"{name}-{accelerator.process_index}.safetensors")

    model = student(dtype=torch.float64)
    scorer = dev_scorer(model, accelerator)
    kept("adam", model, max_grad_norm=0.5, score_dev=scorer, eval_metric="loss_nats")
    terms = [
        Term.of("negative_log_likelihood"),
        Term.of("forward_kl", token_weights=["pass_rate"]),
        Term.of("reverse_kl", token_weights=["top_tokens"]),
    ]
    distilling = WeightedObjective(terms, reduction="token")
    teacher = teacher_of(accelerator)
    kept(
        "distilled",
        student(dtype=torch.float64),
        optimizer="sgd",
        objective=distilling,
        teacher=teacher,
    )
    model = student(dtype=torch.float64)
    divergence = Term.of("adaptive_jensen_shannon", time_constant=2.0)
    kept(
        "on-policy",
        model,
        optimizer="sgd",
        objective=WeightedObjective([divergence], reduction="sequence", by_origin=True),
        teacher=teacher,
        source=half_on_policy(model, accelerator),
        samples_student=True,
    )
    if accelerator.num_processes == 3:
        return rows  # all of how they are divided that two do not show
    if not accelerator.is_fsdp2:  # which is refused
        model = student(dtype=torch.float64)
        matching = features_of(model)
        taught = InProcessTeacher(wide_teacher(), vocab_size=40, layers=matching.teacher_layers)
        kept("features", model, optimizer="sgd", objective=matching, teacher=taught)
    if accelerator.num_processes == 1:
        return rows
    for name, steps in (("whole", 2), ("half", 1), ("resumed", 2)):
        kept(
            name,
            student(dropout=0.3, seed=int(name == "resumed")),
            "whole" if name == "whole" else "half",
            resume=name == "resumed",
            steps=steps,
            schedule="constant",  # rates that do not know how many updates there will be
            gradient_checkpointing=True,
        )
    if folder.name == BEGUN:
        begun = student(dtype=torch.float64)
        kept("begun", begun, optimizer="sgd", schedule="constant", steps=1)
    return rows


def gone_on(folder: Path, begun: Path, accelerator: Accelerator) -> None:
    """One more update from the checkpoint that another number of processes left."""
    if accelerator.is_main_process:
        shutil.copytree(begun / "begun-run", folder / "continued-run")
    accelerator.wait_for_everyone()
    model = student(dtype=torch.float64, seed=1)
    train(
        folder / "continued-run",
        accelerator,
        model,
        resume=True,
        optimizer="sgd",
        schedule="constant",
        gradient_accumulation_steps=1,  # the checkpoint says how many there were
    )
    save_file(weights(model), folder / f"continued-{accelerator.process_index}.safetensors")


def refused(folder: Path, accelerator: Accelerator) -> str:
    """What is said where the last process alone has a loss that is not finite."""
    model = student()
    if accelerator.process_index == accelerator.num_processes - 1:
        poison(model)
    try:
        train(folder / "poisoned", accelerator, model)
    except NonFiniteLossError as error:
        return str(error)
    return ""


def poison(model: SequenceModel) -> None:
    """The loss of this process's batches is not a number, whatever the weights."""
    model.register_forward_hook(lambda _module, _inputs, hidden: hidden * float("nan"))


def job(folder: Path) -> None:
    """A whole job in shards, with the data and models in `folder`."""
    told: list[str] = []

    class Heard(NoProgress):
        def echo(self, text: str) -> None:
            told.append(text)

    job_train(recipe_in(folder, "word_kd", "training.parallel=fsdp2"), progress=Heard())
    (folder / f"told-{os.environ['RANK']}.txt").write_text("\n".join(told))


def one_rank(folder: Path) -> None:
    """What one process of a launch does."""
    torch.set_num_threads(1)
    refusal = ""
    if not torch.cuda.is_available():
        try:  # not told to stay on the CPU, accelerate does not join processes there
            linear = nn.Linear(2, 2)
            prepare(linear, torch.optim.SGD(linear.parameters()), Accelerator())
            refusal = "nothing was refused"
        except UserError as error:
            refusal = str(error)
        AcceleratorState._reset_state(reset_partial_state=True)
    for parallel in PARALLELS:
        accelerator = make_accelerator(parallel, on_cpu=True)
        place = folder / f"{accelerator.num_processes}-{parallel}"
        facts: dict[str, Any] = {"rows": trainings(place, accelerator), "refusal": refusal}
        if place != folder / BEGUN:
            gone_on(place, folder / BEGUN, accelerator)
        if accelerator.num_processes == 2:
            facts["poisoned"] = refused(place, accelerator)
        facts["kind"] = str(accelerator.distributed_type)
        (place / f"facts-{accelerator.process_index}.json").write_text(json.dumps(facts))
        AcceleratorState._reset_state()
    if os.environ["WORLD_SIZE"] == "2":
        job(folder / "job")
    accelerator.end_training()


def launched(folder: Path, count: int) -> bool:
    """Whether so many processes, forked from this one, which has imported all, end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(count):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if not (child := os.fork()):
            try:
                one_rank(folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    for _ in range(count):
        if os.wait()[1]:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            return False
    return True


if __name__ == "__main__":
    student()  # which imports for all processes what they would each import
    sys.exit(not all(launched(Path(sys.argv[1]), count) for count in (2, 3)))
