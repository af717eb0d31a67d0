"""Measures near-policy against on-policy training: seconds an update, of the same student and data.

    python -m benchmarks.near_policy        # writes docs/results/near_policy.json

A student of three of the bundled translator's layers on each side learns by forward KL from what it
samples of its English sentences: `on_policy` as every update asks for it, `unfiltered` and
`filtered` written ahead by a process, without and with the Delta-IFD filter. All have one thread a
process and CTranslate2. They take turns; each trains anew and is timed from the end of its first
block to the end of its last, so loading and the first wait are no part of it. `speed` is target
tokens a second, which the filter and the grouping by length leave about alike; intervals are the
lowest and highest ratio of a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

OUTPUT = Path("docs/results/near_policy.json")
SYNC_EVERY = 8
SHARED = [
    "teacher.model=bundled:en-de",
    "data.train=bundled:en-de",
    "data.max_train_examples=20000",
    "student.init=teacher_layers",
    "student.encoder_layers=3",
    "student.decoder_layers=3",
    "sequences.rollouts.engine=ctranslate2",
    "sequences.rollouts.max_new_tokens=64",
    "objective.reduction=token",
    "training.batch_tokens=1000",
    "training.threads=1",
    "training.precision=fp32",
    "training.log_every=1",
    "training.trackers=[]",
]
FORMS = {
    "on_policy": ("on_policy_kd", []),
    "unfiltered": ("near_policy", ["sequences.near_policy.keep_quantiles=null"]),
    "filtered": ("near_policy", []),
}


def measured(form: str, steps: int, folder: Path) -> dict[str, float]:
    """One training of so many updates, after its first block."""
    preset, own = FORMS[form]
    recipe = load_recipe(preset, [*SHARED, *own, f"training.steps={steps}", f"output_dir={folder}"])
    rows = [row for row in train(recipe, progress=NoProgress()).read_metrics() if "tokens" in row]
    first, last = rows[SYNC_EVERY - 1], rows[-1]
    later = rows[SYNC_EVERY:]
    taken = {
        name: float(str(last[name])) - float(str(first[name])) for name in ("seconds", "tokens")
    }

    def total(name: str) -> float:
        return sum(float(str(row[name])) for row in later if row.get(name) is not None)

    return {
        "seconds_an_update": taken["seconds"] / len(later),
        "tokens_a_second": taken["tokens"] / taken["seconds"],
        "waited_share": total("wait_seconds") / taken["seconds"],
        "mean_staleness": total("staleness") / len(later),
    }


def main() -> None:
    """Rounds in which all take turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5 * SYNC_EVERY)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    keep_freed_memory()
    taken: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for number in range(given.rounds):
        for form in FORMS:
            with tempfile.TemporaryDirectory() as place:
                taken[form].append(measured(form, given.steps, Path(place) / "run"))
            print(number, form, json.dumps(taken[form][-1]), file=sys.stderr)
    rows = []
    for form, rounds in taken.items():
        pairs = zip(rounds, taken["on_policy"], strict=True)
        ratios = [own["tokens_a_second"] / base["tokens_a_second"] for own, base in pairs]
        medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        speed = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        rows.append({"form": form, **medians, "speed_to_on_policy": speed})
    shape = {"rounds": given.rounds, "updates": given.steps, "sync_every": SYNC_EVERY}
    write_json(given.output, {**shape, **environment_facts(), "rows": rows})


if __name__ == "__main__":
    main()
