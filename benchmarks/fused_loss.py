"""Measures the fused losses against the materialized ones, and both against bare matrix products.

    python benchmarks/fused_loss.py            # writes docs/results/fused_loss.json

Two materialized forms take `head.logits` of both models, `log_softmax`, a divergence, `backward`:
`materialized` writes the divergence as common trainers do, with `torch.nn.functional.kl_div` and,
for jensen_shannon's mixture, `logsumexp` of both stacked; `plain` is this package's function of
that name, which is leaner. Times come from one process per shape and allocator, in which all
forms take turns; the first round only warms up and the median of the others counts. CPU seconds
of the process stand beside wall seconds, because they hold on a busy machine too. Memory is the
peak of a fresh process over what it held before the call. The floor is the four products that
every form must do: student logits, teacher logits, gradients of hidden states and of the weight.

Two allocator settings are measured: `package` is the one that the package's commands run under,
`default` is glibc's own. The setting matters most to the materialized form, whose large tensors
glibc returns to the system and faults in again at every step.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seqdistill.jobs.loss_forms import LossProblem, Shape
from seqdistill.jobs.measuring import in_turns, peak_over_held
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

OUTPUT = Path("docs/results/fused_loss.json")
FORMS = ("fused", "materialized", "plain")
ALLOCATORS = {
    "package": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)},
    "default": {},
}
PARAMETERS: dict[str, dict[str, float]] = {
    "jensen_shannon": {"beta": 0.5},
    "forward_kl": {},
    "reverse_kl": {},
}


SHAPES = (
    Shape(2048, 32_000, 512, 512),
    Shape(512, 152_000, 512, 512),
    Shape(2048, 32_000, 256, 256),
    Shape(512, 152_000, 256, 256),
)


def as_common_trainers(name: str, student: Tensor, teacher: Tensor, beta: float = 0.5) -> Tensor:
    """The divergence of both log-probabilities by `kl_div` (which takes its second side first)."""
    kl = functools.partial(functional.kl_div, reduction="none", log_target=True)
    if name == "forward_kl":
        return kl(student, teacher).sum(dim=-1)
    if name == "reverse_kl":
        return kl(teacher, student).sum(dim=-1)
    both = torch.stack([student + math.log1p(-beta), teacher + math.log(beta)])
    mixture = torch.logsumexp(both, dim=0)
    return (beta * kl(mixture, teacher) + (1.0 - beta) * kl(mixture, student)).sum(dim=-1)


def run(problem: LossProblem, form: str, name: str) -> None:
    """The loss of that form, and its gradients."""
    if form == "materialized":
        problem.backward_of(lambda q, p: as_common_trainers(name, q, p, **PARAMETERS[name]))
    else:
        problem.run("fused" if form == "fused" else "materialized", name, PARAMETERS[name])


def time_forms(shape: Shape, repetitions: int) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of every form, taking turns."""
    problem = LossProblem(shape)
    hidden, weight = problem.hidden.detach(), problem.head.weight.detach()
    logits = torch.empty(shape.positions, shape.vocab)
    gradients = torch.empty_like(hidden), torch.empty_like(weight)

    def products() -> None:
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(problem.teacher_hidden, problem.teacher_head.weight.T, out=logits)
        torch.mm(logits, weight, out=gradients[0])
        torch.mm(logits.T, hidden, out=gradients[1])

    forms: dict[str, Callable[[int], None]] = {"products": lambda _round: products()}
    for name in PARAMETERS:
        for form in FORMS:
            call = functools.partial(run, problem, form, name)
            forms[f"{form} {name}"] = lambda _round, call=call: call()  # type: ignore[misc]
    taken = in_turns(
        forms, before=lambda _form: problem.clear(), least=repetitions, most=repetitions
    )
    return {
        form: {
            "wall_s": statistics.median(one.wall_s for one in rounds),
            "cpu_s": statistics.median(one.cpu_s for one in rounds),
        }
        for form, rounds in taken.items()
    }


def extra_memory(shape: Shape, form: str, name: str) -> int:
    """Peak bytes of one call over what this fresh process held before it; Linux only."""
    # A tiny call first: thread pools and code pages are not the loss's memory.
    run(LossProblem(Shape(8, 64, 8, 8)), form, name)
    problem = LossProblem(shape)
    return peak_over_held(lambda: run(problem, form, name))


def in_fresh_process(allocator: str, arguments: list[str]) -> Any:
    """What this very file prints as JSON in a process with that allocator setting."""
    names = {name for settings in ALLOCATORS.values() for name in settings}
    clean = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=clean | ALLOCATORS[allocator],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def rows_of(shape: Shape, allocator: str, repetitions: int) -> list[dict[str, Any]]:
    """One row per divergence for this shape and allocator."""
    numbers = [str(number) for number in dataclasses.astuple(shape)]
    load = os.getloadavg()[0]
    times = in_fresh_process(allocator, ["--time", *numbers, "--repetitions", str(repetitions)])
    floor = times["products"]
    rows = []
    for name in PARAMETERS:
        fused, materialized, plain = (times[f"{form} {name}"] for form in FORMS)
        extra = {
            form: in_fresh_process(allocator, ["--memory", *numbers, form, name]) for form in FORMS
        }
        rows.append(
            {
                "divergence": name,
                **PARAMETERS[name],
                **dataclasses.asdict(shape),
                "dtype": "float32",
                "allocator": allocator,
                "speedup": round(materialized["wall_s"] / fused["wall_s"], 3),
                "memory_ratio": round(extra["fused"] / extra["materialized"], 4),
                "matmul_ratio": round(fused["wall_s"] / floor["wall_s"], 3),
                "speedup_over_plain": round(plain["wall_s"] / fused["wall_s"], 3),
                "memory_ratio_to_plain": round(extra["fused"] / extra["plain"], 4),
                "speedup_cpu": round(materialized["cpu_s"] / fused["cpu_s"], 3),
                "speedup_over_plain_cpu": round(plain["cpu_s"] / fused["cpu_s"], 3),
                "matmul_ratio_cpu": round(fused["cpu_s"] / floor["cpu_s"], 3),
                "fused_s": round(fused["wall_s"], 4),
                "materialized_s": round(materialized["wall_s"], 4),
                "plain_s": round(plain["wall_s"], 4),
                "matmul_s": round(floor["wall_s"], 4),
                "fused_cpu_s": round(fused["cpu_s"], 4),
                "materialized_cpu_s": round(materialized["cpu_s"], 4),
                "plain_cpu_s": round(plain["cpu_s"], 4),
                "matmul_cpu_s": round(floor["cpu_s"], 4),
                "fused_extra_bytes": extra["fused"],
                "materialized_extra_bytes": extra["materialized"],
                "plain_extra_bytes": extra["plain"],
                "load_average_before": round(load, 2),
            }
        )
        _say(rows[-1])
    return rows


def _say(row: dict[str, Any]) -> None:
    print(
        f"{row['divergence']:15} {row['positions']:5} x {row['vocab']:6} d {row['dim']} "
        f"{row['allocator']:8} speed-up {row['speedup']:5.2f} (cpu {row['speedup_cpu']:5.2f}), "
        f"over plain {row['speedup_over_plain']:5.2f}  memory {row['memory_ratio']:.3f}  "
        f"over products {row['matmul_ratio']:.2f} "
        f"(cpu {row['matmul_ratio_cpu']:.2f})",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    """Without arguments: everything, in fresh processes; the other modes are those processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3, help="measured rounds per form")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--allocator", choices=[*ALLOCATORS], action="append")
    parser.add_argument("--dim", type=int, action="append", help="only shapes of this width")
    parser.add_argument("--time", type=int, nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.time:
        print(json.dumps(time_forms(Shape(*given.time), given.repetitions)))
        return
    if given.memory:
        *numbers, form, name = given.memory
        print(extra_memory(Shape(*map(int, numbers)), form, name))
        return
    rows = [
        row
        for allocator in given.allocator or ALLOCATORS
        for shape in SHAPES
        if given.dim is None or shape.dim in given.dim
        for row in rows_of(shape, allocator, given.repetitions)
    ]
    facts = environment_facts()
    command = " ".join(["python", "benchmarks/fused_loss.py", *sys.argv[1:]])
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        given.output,
        {
            "command": command,
            "threads": torch.get_num_threads(),
            "allocators": ALLOCATORS,
            **facts,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
