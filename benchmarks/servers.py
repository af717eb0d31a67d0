"""Training with a real vLLM against training in one process: the differences in nats.

    python -m benchmarks.servers TEACHER STUDENT train.tsv OUTPUT --teacher URL [--student URL]

TEACHER and STUDENT are the folders that the servers serve in float32, of one vocabulary; TEACHER
with --max-logprobs of at least --top-k, STUDENT with VLLM_SERVER_DEV_MODE=1. A teacher that is
killed and started again meanwhile gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import RunDirectory


def run(method: str, name: str, given: argparse.Namespace, *more: str) -> RunDirectory:
    """A run of the recipe in a folder of its own."""
    settings = [
        f"student.model={given.student_folder}",
        f"data.train={given.train}",
        f"training.steps={given.steps}",
        "training.batch_tokens=512",
        "training.precision=fp32",
        "training.device=cpu",
        "training.trackers=[]",
        "training.log_every=1",
        f"output_dir={given.output / name}",
    ]
    return train(load_recipe(method, [*settings, *more]), progress=NoProgress())


def losses(found: RunDirectory) -> list[float]:
    """Of every update."""
    return [float(str(row["loss_nats"])) for row in found.read_metrics() if "loss_nats" in row]


def main() -> None:
    """Runs what the arguments have servers for, and writes one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher_folder")
    parser.add_argument("student_folder")
    parser.add_argument("train")
    parser.add_argument("output", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--top-k", type=int, default=40)
    given = parser.parse_args()
    local = f"teacher.model={given.teacher_folder}"
    served = [
        "teacher.scores=top_k",
        f"teacher.top_k={given.top_k}",
        f"teacher.server={{url: '{given.teacher}'}}",
    ]
    whole = run("word_kd", "in-process", given, local)
    remote = run("word_kd", "served", given, local, *served)
    apart = [abs(a - b) for a, b in zip(losses(whole), losses(remote), strict=True)]
    found: dict[str, object] = {
        "largest_difference_of_losses_nats": max(apart),
        "server": remote.read_manifest()["teacher_server"],
    }
    if given.student is not None:
        rollouts = [
            "sequences.rollouts.engine=vllm",
            f"sequences.rollouts.server={{url: '{given.student}'}}",
            "sequences.rollouts.max_new_tokens=12",
            "objective.monitors=[]",
        ]
        on_policy = run("on_policy_kd", "rollouts", given, "teacher.model=null", *served, *rollouts)
        found["on_policy_losses_nats"] = losses(on_policy)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
