"""Measures what is lost where a student sees some symbols of its teacher's distribution.

    python -m benchmarks.sparse_teachers    # writes docs/results/sparse_teachers.json

The bundled translator is the teacher, and the student a copy of it with one decoder layer; both
read rows of the bundled training data. The gradient of the loss for the student's last hidden
states is compared with that of the whole distribution, over all target tokens as one vector:
`error` is the length of the difference over the length of the whole, `cosine` that of the angle.
Of samples `bias` is the error of the mean over many draws. `drop` is the sum over the kept symbols
alone, which no recipe does. Scores are stored and read as training does it, rounding included.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.preparing import check_vocabularies, prepare
from seqdistill.core.families import DIVERGENCES, SparseForm
from seqdistill.core.scores import SparseScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.fused import fused_sum, teacher_part
from seqdistill.objectives.sparse import sparse_part
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts
from seqdistill.teachers.forms import Samples, TopK

OUTPUT = Path("docs/results/sparse_teachers.json")
PRESET, SEED = "word_kd", 0
OVERRIDES = (
    *("data.train=bundled:en-de", "data.max_train_examples=40", "teacher.model=bundled:en-de"),
    *("student.init=teacher_layers", "student.decoder_layers=1", f"seed={SEED}"),
)
TOP_K, SAMPLES, DRAWS = (4, 16, 64, 256), (12, 50, 200), 100


class Problem:
    """Both models' states at the target tokens of a few rows."""

    @torch.no_grad()
    def __init__(self) -> None:
        prepared = prepare(load_recipe(PRESET, OVERRIDES))
        assert prepared.teacher is not None
        size = check_vocabularies(prepared.student, prepared.teacher)
        batch = collator_for(prepared.student)(prepared.train)
        models = (prepared.adapted.eval(), SequenceModel(prepared.teacher.model))
        states = [model.states(batch) for model in models]
        own, its = (each.hidden[batch.target_mask].clone() for each in states)
        self.hidden, self.teacher_hidden = own.requires_grad_(), its
        self.head, self.teacher_head = (each.head.cut(size).detached() for each in states)
        self.vocab_size, self.ones = size, torch.ones(len(own))

    def dense(self, divergence: str) -> tuple[Tensor, Tensor]:
        """Values and gradient from the teacher's whole distribution."""
        part = teacher_part(divergence, self.teacher_hidden, self.teacher_head)
        found = fused_sum(self.hidden, self.head, [part], weights=self.ones)
        return found.values[0], torch.autograd.grad(found.total, self.hidden)[0]

    def kept(self, form: TopK | Samples, sparse_form: SparseForm, draw: int = 0) -> SparseScores:
        """What is read of what is stored."""
        rows = form.rows(self.teacher_hidden, self.teacher_head, [len(self.ones)], [draw << 1])
        ids, log_probs, tail = form.read(dict(zip(form.columns, rows, strict=True)).__getitem__)
        if sparse_form == "renormalized":
            tail = torch.full_like(tail, -math.inf)
        whole = torch.cat([log_probs, tail[:, None]], -1).log_softmax(-1)
        return SparseScores(ids, whole[:, :-1], whole[:, -1], self.vocab_size, sparse_form)

    def sparse(
        self, scores: SparseScores, divergence: str, **parameters: float
    ) -> tuple[Tensor, Tensor]:
        """Values and gradient from what is kept."""
        part = sparse_part(DIVERGENCES.choose(divergence), scores)
        found = fused_sum(self.hidden, self.head, [part], weights=self.ones)
        return found.values[0], torch.autograd.grad(found.total, self.hidden)[0]

    def dropped(self, scores: SparseScores) -> Tensor:
        """The gradient of the kept symbols' part of forward KL."""
        log_probs = self.head.logits(self.hidden).log_softmax(-1).gather(-1, scores.ids)
        total = (scores.log_probs.exp() * (scores.log_probs - log_probs)).sum()
        return torch.autograd.grad(total, self.hidden)[0]


def compared(found: Tensor, whole: Tensor) -> dict[str, float]:
    """The error and the cosine of a gradient."""
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), whole.flatten(), dim=0)
    return {"error": _rounded((found - whole).norm() / whole.norm()), "cosine": _rounded(cosine)}


def _rounded(value: Tensor) -> float:
    return float(f"{float(value):.4g}")


def main(given: Sequence[str] | None = None) -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args(given).output
    problem = Problem()
    size, rows = problem.vocab_size, list[dict[str, object]]()
    whole = {name: problem.dense(name) for name in ("forward_kl", "reverse_kl")}
    for k in TOP_K:
        form = TopK(k, size)
        facts = {"k": k, "bytes": _rounded(torch.tensor(form.num_bytes(0)))}
        scores = problem.kept(form, "bucket")
        facts["tail_mass"] = _rounded(scores.tail_log_mass.exp().mean())
        rows += [
            {**facts, "policy": "bucket", "divergence": name}
            | compared(problem.sparse(scores, name)[1], whole[name][1])
            for name in whole
        ]
        alone = problem.sparse(problem.kept(form, "renormalized"), "forward_kl")[1]
        of_kept = {"drop": problem.dropped(scores), "renormalized": alone}
        rows += [
            {**facts, "policy": policy, "divergence": "forward_kl"}
            | compared(found, whole["forward_kl"][1])
            for policy, found in of_kept.items()
        ]
    for num in SAMPLES:
        gradients, total, unique = torch.zeros(()), torch.zeros(()), 0.0
        for draw in range(DRAWS):
            scores = problem.kept(Samples(num, size), "sampled", draw)
            gradients = problem.sparse(scores, "forward_kl")[1]
            total = total + gradients
            unique += float((~scores.log_probs.isneginf()).sum(-1).float().mean()) / DRAWS
        rows.append(
            {"k": num, "bytes": _rounded(torch.tensor(unique * (_id_bytes(size) + 2) + 2))}
            | {"policy": "sampled", "divergence": "forward_kl", "symbols": round(unique, 1)}
            | compared(gradients, whole["forward_kl"][1])
            | {"bias": compared(total / DRAWS, whole["forward_kl"][1])["error"]}
        )
    rounded = problem.kept(TopK(size, size), "bucket")
    values, gradient = problem.sparse(rounded, "forward_kl")
    nats = (values - whole["forward_kl"][0]).abs()
    precision = {"mean_nats": _rounded(nats.mean()), "max_nats": _rounded(nats.max())}
    write_json(
        output,
        {"preset": PRESET, "overrides": list(OVERRIDES), "seed": SEED, "draws": DRAWS}
        | {"positions": len(problem.ones), "vocab": size, **environment_facts()}
        | {"fp16": precision | compared(gradient, whole["forward_kl"][1]), "rows": rows},
    )


def _id_bytes(vocab_size: int) -> float:
    return (vocab_size - 1).bit_length() / 8


if __name__ == "__main__":
    main()
