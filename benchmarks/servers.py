"""Training with a real vLLM against training in one process: the differences in nats.

    python -m benchmarks.servers TEACHER STUDENT train.tsv OUTPUT --teacher URL [--student URL]
        [--result docs/results/servers.json]

TEACHER and STUDENT are the folders that the servers serve in float32, of one vocabulary; TEACHER
with --max-logprobs of at least --top-k, STUDENT with VLLM_SERVER_DEV_MODE=1. Without --student,
STUDENT may be a number: so many of the teacher's layers. Greedy texts of TEACHER by the server are
compared with those in this process, too. A teacher that is killed and started again meanwhile gives
the same numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqdistill.core.progress import NoProgress
from seqdistill.jobs.label import label_data
from seqdistill.jobs.score import score_teacher
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.teacher_corpus import TeacherCorpus

WITHIN = 1e-3
"""Nats by which the log-probabilities of rollouts may differ from the live student's."""


def recipe(method: str, name: str, given: argparse.Namespace, *more: str) -> Recipe:
    """With a folder of its own."""
    layers = given.student_folder.isdecimal()
    settings = [
        f"student={{init: teacher_layers, decoder_layers: {given.student_folder}}}"
        if layers
        else f"student.model={given.student_folder}",
        f"data.train={given.train}",
        f"data.max_train_examples={given.rows}",
        f"training.steps={given.steps}",
        "training.batch_tokens=512",
        "training.precision=fp32",
        "training.device=cpu",
        "training.trackers=[]",
        "training.log_every=1",
        f"output_dir={given.output / name}",
    ]
    return load_recipe(method, [*settings, *more])


def run(method: str, name: str, given: argparse.Namespace, *more: str) -> RunDirectory:
    """A run of the recipe."""
    return train(recipe(method, name, given, *more), progress=NoProgress())


def losses(found: RunDirectory) -> list[float]:
    """Of every update."""
    return [float(str(row["loss_nats"])) for row in found.read_metrics() if "loss_nats" in row]


def texts(name: str, given: argparse.Namespace, engine: str, *teacher: str) -> list[str]:
    """The teacher's greedy outputs for some of the sources."""
    settings = [
        f"data.train={given.train}",
        f"data.max_train_examples={given.num_texts}",
        f"sequences.decoding={{engine: {engine}, beam_size: 1, max_new_tokens: 120}}",
        f"output_dir={given.output / name}",
    ]
    asked = load_recipe("seq_kd", [*settings, *teacher], purpose="label")
    corpus = TeacherCorpus.open(label_data(asked, progress=NoProgress()), expected=None)
    return [outputs[0].text.strip() for _, outputs in corpus.by_example()]


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
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--num-texts", type=int, default=100)
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    local = f"teacher.model={given.teacher_folder}"
    likeliest = ["teacher.scores=top_k", f"teacher.top_k={given.top_k}"]
    served = [*likeliest, f"teacher.server={{url: '{given.teacher}'}}"]
    kept = [*likeliest, f"teacher.kept_scores={given.output / 'scores'}"]
    score_teacher(recipe("word_kd", "in-process", given, local, *kept), progress=NoProgress())
    whole = run("word_kd", "in-process", given, local, *kept)
    remote = run("word_kd", "served", given, local, *served)
    apart = [abs(a - b) for a, b in zip(losses(whole), losses(remote), strict=True)]
    server = remote.read_manifest()["teacher_server"]
    assert isinstance(server, dict)
    asked = f"teacher.server={{url: '{given.teacher}', model: '{server['model']}'}}"
    own, told = texts("texts", given, "transformers", local), texts("told", given, "server", asked)
    found: dict[str, object] = {
        "teacher": Path(given.teacher_folder).name,
        "updates": given.steps,
        "rows": given.rows,
        "top_k": given.top_k,
        "largest_difference_of_losses_nats": max(apart),
        "num_texts": len(own),
        "num_equal_texts": sum(a == b for a, b in zip(own, told, strict=True)),
        "server": server,
        **environment_facts(),
    }
    if given.student is not None:
        rollouts = [
            "sequences.rollouts.engine=vllm",
            f"sequences.rollouts.server={{url: '{given.student}', max_difference: {WITHIN}}}",
            "sequences.rollouts.max_new_tokens=24",
            "training.learning_rate=0.003",
            "objective.monitors=[]",
        ]
        on_policy = run("on_policy_kd", "rollouts", given, "teacher.model=null", *served, *rollouts)
        found["rollouts_within_nats"], found["on_policy_losses_nats"] = WITHIN, losses(on_policy)
    print(json.dumps(found))
    if given.result is not None:
        write_json(given.result, found)


if __name__ == "__main__":
    main()
