"""Who is measured, and with which settings: as equal as both can be told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEARNING_RATE, ADAM_BETA2 = 5e-4, 0.98
BETA = 0.5
"""Jensen-Shannon; for us as for TRL 0 is the forward KL(teacher || student), 1 the reverse."""
SPEED = (
    *("ours 0", "ours 0.5", "ours 1", "ours transformers"),
    *("gkd 0", "gkd 0.5", "gkd 1", "distillation 1"),
)
"""By λ. `ours transformers` is λ = 1 with that engine for the samples, the recipes' default; the
others of ours let `auto` choose."""
METHODS = ("ours minillm", "plain minillm", "ours distillm", "plain distillm")
LARGE = ("ours 0", "gkd 0", "ours 1", "ours transformers", "gkd 1", "distillation 1")
"""Of pairs whose updates take long, and where memory is measured again."""


def names(pair: dict[str, Any]) -> Iterator[str]:
    """The systems that a pair is measured with, in turns."""
    yield from (*SPEED, *METHODS) if pair["methods"] else LARGE


def settings(
    system: str, place: Path, pair: dict[str, Any], *, seed: int, attention: str, updates: int
) -> tuple[str, dict[str, Any]]:
    """The module that trains this system and what it is told."""
    who, what = system.split()
    shared = {
        "is_peer": who != "ours",
        "updates": updates,
        "warm_up": pair["warm_up"],
        "seed": seed,
        "learning_rate": pair.get("learning_rate", LEARNING_RATE),
        "warmup_updates": pair.get("warmup_updates", 2),
        "adam_beta2": ADAM_BETA2,
        "precision": "fp32",
        "beta": BETA,
        "saves": False,
    }
    if who == "ours":
        return "ours", shared | _ours(what, place, pair, shared)
    plain = shared | {
        "student": str(place / "student"),
        "teacher": str(place / "teacher"),
        "tokenizer": str(place / "tokenizer"),
        "rows": str(place / "rows.jsonl"),
        "batch": pair["batch"],
        "max_new_tokens": pair["completion_tokens"],
        "attention": attention,
    }
    if who == "plain":
        return "plain_methods", plain | {"method": what}
    return "trl_trainer", plain | {"trainer": who, "lmbda": float(what)}


def _ours(what: str, place: Path, pair: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    tokens = pair["batch"] * (pair["prompt_tokens"] + pair["completion_tokens"])
    engine = "transformers" if what == "transformers" else "auto"
    what = "1" if what == "transformers" else what
    answers = 2 if what == "minillm" else 1
    preset, own = {
        "minillm": ("minillm", []),
        "distillm": (
            "distillm",
            [
                "sequences.mixture.student_fraction=1.0",
                "sequences.replay.fresh_fraction=1.0",
                "training.eval_every=null",
            ],
        ),
    }.get(
        what,
        (
            "gkd",
            [
                f"sequences.mixture.student_fraction={what}",
                f"objective.terms.0.beta={shared['beta']}",
                "objective.reduction=token",
            ],
        ),
    )
    common = {
        "data.train": pair.get("train", place / "train.jsonl"),
        "data.max_source_tokens": pair["prompt_tokens"],
        "data.max_target_tokens": pair["completion_tokens"],
        "student.model": place / "student",
        "teacher.model": place / "teacher",
        "sequences.rollouts.max_new_tokens": pair["completion_tokens"],
        "training.steps": shared["updates"],
        "training.batch_tokens": answers * pair.get("batch_tokens", tokens),
        "training.learning_rate": shared["learning_rate"],
        "training.warmup_steps": shared["warmup_updates"],
        "training.adam_beta2": shared["adam_beta2"],
        "training.precision": shared["precision"],
        "training.threads": 1,
        "training.trackers": "[]",
        "seed": shared["seed"],
    }
    if what != "minillm":  # whose mixture with the teacher transformers alone can sample
        common["sequences.rollouts.engine"] = engine
    overrides = [*own, *(f"{key}={value}" for key, value in common.items())]
    return {"preset": preset, "overrides": [*overrides, *pair.get("more", ())]}
