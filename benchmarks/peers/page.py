"""From the measurements in a folder to docs/results/peers.json, and from that to peers.md.

    python -m benchmarks.peers.page        # the page alone, from the committed record

Every sentence with a number in the page is computed from the record. Measures nothing.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from benchmarks.peers import labels, quality, systems
from benchmarks.peers.measuring import ALLOCATORS, TRL

from seqdistill.jobs.measuring import Spread
from seqdistill.records import atomic
from seqdistill.records.environment import environment_facts

RECORD = Path("docs/results/peers.json")
FASTER, SMALLER = 2.0, 1 / 3
"""The goals for an on-policy update: times as fast, of the peak memory."""
COUNTERPARTS = {
    "ours transformers": "ours 1",
    "gkd 0": "ours 0",
    "gkd 0.5": "ours 0.5",
    "gkd 1": "ours 1",
    "distillation 1": "ours 1",
    "plain minillm": "ours minillm",
    "plain distillm": "ours distillm",
}
TITLES = {
    "ours 0": "seqdistill, λ = 0",
    "ours 0.5": "seqdistill, λ = 0.5",
    "ours 1": "seqdistill, λ = 1",
    "ours transformers": "seqdistill, λ = 1, engine transformers",
    "gkd 0": "TRL GKDTrainer, λ = 0",
    "gkd 0.5": "TRL GKDTrainer, λ = 0.5",
    "gkd 1": "TRL GKDTrainer, λ = 1",
    "distillation 1": "TRL DistillationTrainer",
    "ours minillm": "seqdistill, MiniLLM",
    "plain minillm": "plain MiniLLM",
    "ours distillm": "seqdistill, DistiLLM",
    "plain distillm": "plain DistiLLM",
}
ON_POLICY = ("gkd 1", "distillation 1")


def record(folder: Path, pairs: Mapping[str, Any]) -> dict[str, Any]:
    """All that was measured there so far, summed up."""
    kept = folder / "measurements"
    found = [json.loads(path.read_text("utf-8")) for path in sorted(kept.rglob("*.json"))]
    named = {one["name"]: one for one in found}
    loads = [one[key] for one in found for key in ("load_average_before", "load_average_after")]
    rows = {name: [*_rows(name, pair, named)] for name, pair in pairs.items()}
    return {
        "command": "python -m benchmarks.peers.run",
        "threads": 1,
        "allocators": ALLOCATORS,
        "trl": TRL,
        "load_average": dataclasses.asdict(Spread.of(loads)),
        **environment_facts(),
        "learning_rate": systems.LEARNING_RATE,
        "beta": systems.BETA,
        "pairs": [
            {**pairs[name], "name": name, **_facts(folder, name, named), "rows": its_rows}
            for name, its_rows in rows.items()
            if its_rows
        ],
        "labels": [*_labels(named)],
        "same_labels": labels.agreement(folder),
        "quality": [*_quality(folder, named)],
        "quality_start": {"updates": quality.START_UPDATES, "tests": quality.NUM_TEST},
    }


def _facts(folder: Path, name: str, named: Mapping[str, Any]) -> dict[str, Any]:
    made = json.loads((folder / "pairs" / name / "facts.json").read_text("utf-8"))
    pilots = {
        one: named[f"{name}/gkd-0/pilot-{one}"]["cpu_s"]
        for one in ("sdpa", "eager")
        if f"{name}/gkd-0/pilot-{one}" in named
    }
    return {**made, "peers_attention": min(pilots, key=lambda one: pilots[one])}


def _rounds(name: str, system: str, named: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{name}/{system.replace(' ', '-')}/round-"
    return {key.removeprefix(start): one for key, one in named.items() if key.startswith(start)}


def _rows(name: str, pair: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for system in systems.names(dict(pair)):
        rounds = _rounds(name, system, named)
        if not rounds:
            continue
        cpu, wall = ([one[key] for one in rounds.values()] for key in ("cpu_s", "wall_s"))
        tokens = pair["batch"] * pair["completion_tokens"]
        row: dict[str, Any] = {
            "system": system,
            "rounds": len(rounds),
            "updates": [one["updates"] for one in rounds.values()],
            "rollout_updates": [one["rollout_updates"] for one in rounds.values()],
            "cpu_s": dataclasses.asdict(Spread.of(cpu)),
            "wall_s": dataclasses.asdict(Spread.of(wall)),
            "tokens_per_cpu_s": tokens / statistics.median(cpu),
            "tokens_per_s": tokens / statistics.median(wall),
        }
        row |= _memory(rounds.values(), named.get(f"{name}/{system.replace(' ', '-')}/memory"))
        other = _rounds(name, COUNTERPARTS.get(system, ""), named)
        both = rounds.keys() & other.keys()
        if both:
            ratios = {
                key: Spread.of([rounds[n][key] / other[n][key] for n in sorted(both)])
                for key in ("cpu_s", "wall_s", "peak_bytes")
            }
            over = [_over_libraries(rounds[n]) / _over_libraries(other[n]) for n in sorted(both)]
            ratios["own_bytes"] = Spread.of(over)
            row |= {f"{key}_of_ours": dataclasses.asdict(ratios[key]) for key in ratios}
        yield row


def _over_libraries(one: Mapping[str, Any]) -> float:
    """Bytes at the peak over those that the imported libraries take."""
    return float(one["peak_bytes"] - one["library_bytes"])


def _memory(rounds: Any, default: Mapping[str, Any] | None) -> dict[str, Any]:
    peaks = [one["peak_bytes"] for one in rounds]
    libraries = statistics.median(one["library_bytes"] for one in rounds)
    found = {"peak_bytes": statistics.median(peaks), "library_bytes": libraries}
    return found if default is None else {**found, "default_peak_bytes": default["peak_bytes"]}


def _labels(named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for mode in ("beam", "sample"):
        both = {who: _rounds(f"labels/{mode}", who, named) for who in ("ours", "plain")}
        shared = sorted(both["ours"].keys() & both["plain"].keys())
        if not shared:
            continue
        found: dict[str, Any] = {"mode": mode, "rounds": len(shared)}
        for key in ("process_cpu_s", "process_wall_s"):
            for who, rounds in both.items():
                spread = Spread.of([rounds[number][key] for number in shared])
                found[f"{who}_{key}"] = dataclasses.asdict(spread)
            ratios = [both["plain"][n][key] / both["ours"][n][key] for n in shared]
            found[f"ratio_{key}"] = dataclasses.asdict(Spread.of(ratios))
        found["rows"] = both["ours"][shared[0]]["rows"]
        found["batch_size"] = both["plain"][shared[0]]["batch_size"]
        yield found


def _quality(folder: Path, named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("teacher", "start"):
        if (one := named.get(f"quality/{name}")) is not None:
            yield {"system": name, "seeds": 1, **_values([one])}
    for system in ("distillation-1-equal-updates", "ours-1-equal-updates", "ours-1-equal-minutes"):
        start = f"quality/{system}/seed-"
        judged = {
            key.removeprefix(start).removesuffix("-judged"): one
            for key, one in named.items()
            if key.startswith(start) and key.endswith("-judged")
        }
        if judged:
            trained = [named[f"{start}{seed}"] for seed in sorted(judged)]
            batches = [size for one in trained for size in one.get("sequences", ())]
            fixed = quality.pair_of(folder / "quality")["batch"]
            yield {
                "system": system,
                "seeds": len(judged),
                "updates": statistics.median(one["updates"] for one in trained),
                "sequences_an_update": statistics.mean(batches) if batches else fixed,
                "train_cpu_s": statistics.median(one["updates"] * one["cpu_s"] for one in trained),
                "cpu_s": dataclasses.asdict(Spread.of([one["cpu_s"] for one in trained])),
                "peak_bytes": statistics.median(one["peak_bytes"] for one in trained),
                **_values([judged[seed] for seed in sorted(judged)]),
            }


VALUES = (
    "answer_accuracy",
    "kl_student_teacher_own",
    "kl_teacher_student_own",
    "acceptance_own",
)


def _values(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: dataclasses.asdict(Spread.of([one["values"][name]["value"] for one in judged]))
        for name in VALUES
        if all(name in one["values"] for one in judged)
    }


def write(folder: Path, pairs: Mapping[str, Any]) -> None:
    """Both files anew, from all that is in the folder."""
    atomic.write_json(RECORD, record(folder, pairs))
    write_page()


def write_page(path: Path = RECORD) -> None:
    """The page beside the record."""
    atomic.write_text(path.with_suffix(".md"), page(json.loads(path.read_text("utf-8"))))


def page(found: Mapping[str, Any]) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    filters: Mapping[str, Callable[..., Any]] = {"spread": spread, "times": times, "gb": gigabytes}
    environment.filters |= filters
    environment.globals |= {"TITLES": TITLES, "goals": goals, "peer_wins": peer_wins}
    template = Path(__file__).with_name("page.md.jinja").read_text("utf-8")
    return environment.from_string(template).render(found).rstrip("\n") + "\n"


def spread(value: Mapping[str, float], digits: int = 2) -> str:
    """`median [low, high]`; the median alone where there is one round."""
    middle = f"{value['median']:.{digits}f}"
    if value["low"] == value["high"]:
        return middle
    return f"{middle} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def times(value: Mapping[str, float]) -> str:
    """A ratio as a multiple."""
    return f"{spread(value)}×"


def gigabytes(value: float) -> str:
    """In billions of bytes."""
    return f"{value / 1e9:.2f}"


def goals(found: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each pair: is an on-policy update as fast and as small as it should be?"""
    for pair in found["pairs"]:
        for row in pair["rows"]:
            if row["system"] not in ON_POLICY or "cpu_s_of_ours" not in row:
                continue
            speed, memory = row["cpu_s_of_ours"]["median"], 1 / row["peak_bytes_of_ours"]["median"]
            own = 1 / row["own_bytes_of_ours"]["median"]
            met = {True: "met", False: "not met"}
            yield (
                f"{pair['name']}, against {TITLES[row['system']]}: {speed:.1f} times as fast in "
                f"CPU-seconds (goal {FASTER:.0f}: {met[speed >= FASTER]}), {memory:.0%} of its "
                f"peak memory (goal a third: {met[memory <= SMALLER]}; {own:.0%} without the "
                "libraries)"
            )


def peer_wins(found: Mapping[str, Any]) -> list[str]:
    """Where a peer took less than this package: of CPU time, memory, or in quality."""
    wins = []
    for pair in found["pairs"]:
        other = next((r for r in pair["rows"] if r["system"] == "ours transformers"), None)
        for row in pair["rows"]:
            if row["system"].startswith("ours"):
                continue
            for key, what in (("cpu_s", "CPU time"), ("peak_bytes", "peak memory")):
                ratio = row.get(f"{key}_of_ours", {"median": 1.0})["median"]
                if ratio < 1.0:
                    title = TITLES[row["system"]]
                    text = f"{pair['name']}: {title} takes {ratio:.0%} of our {what}"
                    if other is not None and row["system"] in ON_POLICY:
                        share = other[f"{key}_of_ours"]["median"]
                        text += (
                            f" with engine: auto (with engine: transformers, {ratio / share:.0%})"
                        )
                    wins.append(text)
    for job in found["labels"]:
        if (ratio := job["ratio_process_cpu_s"]["median"]) < 1.0:
            wins.append(f"labels, {job['mode']}: the plain script takes {ratio:.0%} of our time")
    rows = {row["system"]: row for row in found["quality"]}
    peer, ours = (rows.get(f"{who}-1-equal-updates", {}) for who in ("distillation", "ours"))
    for name, sign in (("answer_accuracy", 1), ("kl_student_teacher_own", -1)):
        if name in peer and name in ours:
            gap = sign * (peer[name]["median"] - ours[name]["median"])
            if gap > 0:
                values = f"{peer[name]['median']:.3g} and {ours[name]['median']:.3g}"
                wins.append(
                    f"quality after equal updates, {name}: TRL's is better, {values} "
                    f"(seeds: {ours['seeds']}; after equal minutes see below)"
                )
    return wins


if __name__ == "__main__":
    write_page()
