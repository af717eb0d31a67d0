"""Names of methods, sizes and variants as the page writes them. Lays out nothing."""

from __future__ import annotations

import re

from experiments.harness.reading import TEACHER

_STAGES = {
    "teacher": "Teacher",
    "baseline": "Baseline",
    "word_kd": "Word-KD",
    "seq_kd": "Seq-KD",
    "seq_inter": "Seq-Inter",
    "prune": "Prune",
}


def method_name(method: str) -> str:
    """The paper's name: `seq_kd+seq_inter` is `Seq-KD + Seq-Inter`."""
    return " + ".join(_STAGES.get(stage, stage) for stage in method.split("+"))


def size_name(size: str) -> str:
    """`64x2+2` as `64×2+2`; the teacher stays the teacher."""
    return size if size == TEACHER else size.replace("x", "×")


def variant_name(variant: str) -> str:
    """`4x_updates_4x_rate` as `4× updates 4× rate`."""
    return re.sub(r"(\d)x", r"\1×", variant).replace("_", " ")
