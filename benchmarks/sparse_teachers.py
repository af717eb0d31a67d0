"""Measures what is lost where a student sees some symbols of its teacher's distribution.

    python -m benchmarks.sparse_teachers    # writes docs/results/sparse_teachers.json

The bundled translator is the teacher, and the student a copy of it with one decoder layer; both
read rows of the bundled training data. The gradient of the loss for the student's last hidden
states is compared with that of the whole distribution, over all target tokens as one vector:
`error` is the length of the difference over the length of the whole, `cosine` that of the angle.
`pull` is the length of the gradient where the student is the teacher, over the same: the whole
distribution pulls nowhere then. Of samples `pull` is of the mean over many draws.
`drop` is the sum over the kept symbols alone, which no recipe does. Scores are stored and read as
training does it, rounding included.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seqdistill.assembly.comparing import check_vocabularies
from seqdistill.assembly.data import collator_for
from seqdistill.assembly.preparing import prepare
from seqdistill.core.families import SparseForm
from seqdistill.core.head import Head
from seqdistill.core.scores import SparseScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.chunked import Part
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
        self.hidden, self.teacher_hidden = own.requires_grad_(), its.requires_grad_()
        self.head, self.teacher_head = (each.head.cut(size).detached() for each in states)
        self.vocab_size, self.ones = size, torch.ones(len(own))

    def dense(self, divergence: str) -> tuple[Tensor, Tensor]:
        """Values and gradient from the teacher's whole distribution."""
        part = teacher_part(divergence, self.teacher_hidden, self.teacher_head)
        return _of(part, self.hidden, self.head)

    def kept(self, form: TopK | Samples, sparse_form: SparseForm, draw: int = 0) -> SparseScores:
        """What is read of what is stored."""
        rows = form.rows(
            self.teacher_hidden.detach(), self.teacher_head, [len(self.ones)], [draw << 1]
        )
        ids, log_probs, tail = form.read(dict(zip(form.columns, rows, strict=True)).__getitem__)
        if sparse_form == "renormalized":
            tail = torch.full_like(tail, -math.inf)
        whole = torch.cat([log_probs, tail[:, None]], -1).log_softmax(-1)
        return SparseScores(ids, whole[:, :-1], whole[:, -1], self.vocab_size, sparse_form)

    def sparse(self, scores: SparseScores, divergence: str) -> tuple[Tensor, Tensor, Tensor]:
        """Values and gradient from what is kept, and the gradient of a student that is the
        teacher."""
        part = sparse_part(divergence, scores)
        _, pull = _of(part, self.teacher_hidden, self.teacher_head)
        return (*_of(part, self.hidden, self.head), pull)

    def dropped(self, scores: SparseScores) -> tuple[Tensor, Tensor]:
        """Both gradients of the kept symbols' part of forward KL."""
        found = []
        for hidden, head in (
            (self.hidden, self.head),
            (self.teacher_hidden, self.teacher_head),
        ):
            log_probs = head.logits(hidden).log_softmax(-1).gather(-1, scores.ids)
            total = (scores.log_probs.exp() * (scores.log_probs - log_probs)).sum()
            found.append(torch.autograd.grad(total, hidden)[0])
        return found[0], found[1]


def _of(part: Part, hidden: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    found = fused_sum(hidden, head, [part], weights=torch.ones(len(hidden)))
    return found.values[0], torch.autograd.grad(found.total, hidden)[0]


def compared(found: Tensor, pull: Tensor, whole: Tensor) -> dict[str, float]:
    """The error, the cosine and the pull of gradients."""
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), whole.flatten(), dim=0)
    numbers = ((found - whole).norm() / whole.norm(), cosine, pull.norm() / whole.norm())
    return dict(zip(("error", "cosine", "pull"), map(_rounded, numbers), strict=True))


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
    exact = whole["forward_kl"][1]
    for k in TOP_K:
        form = TopK(k, size)
        facts: dict[str, object] = {"k": k, "bytes": _rounded(torch.tensor(form.num_bytes(0)))}
        scores = problem.kept(form, "bucket")
        facts["tail_mass"] = _rounded(scores.tail_log_mass.exp().mean())
        rows += [
            {**facts, "policy": "bucket", "divergence": name}
            | compared(*problem.sparse(scores, name)[1:], whole[name][1])
            for name in whole
        ]
        alone = problem.sparse(problem.kept(form, "renormalized"), "forward_kl")[1:]
        of_kept = {"drop": problem.dropped(scores), "renormalized": alone}
        rows += [
            {**facts, "policy": policy, "divergence": "forward_kl"} | compared(*found, exact)
            for policy, found in of_kept.items()
        ]
    for num in SAMPLES:
        gradient, pulls, unique = exact, 0.0 * exact, 0.0
        for draw in range(DRAWS):
            scores = problem.kept(Samples(num, size), "sampled", draw)
            _, gradient, pull = problem.sparse(scores, "forward_kl")
            pulls = pulls + pull / DRAWS
            unique += float((~scores.log_probs.isneginf()).sum(-1).float().mean()) / DRAWS
        num_bytes = torch.tensor(2 + unique * (Samples(1, size).num_bytes(0) - 2))
        row: dict[str, object] = {"k": num, "bytes": _rounded(num_bytes)}
        row |= {"symbols": round(unique, 1), "policy": "sampled", "divergence": "forward_kl"}
        rows.append(row | compared(gradient, pulls, exact))
    everything = problem.kept(TopK(size, size), "bucket")
    values, gradient, pull = problem.sparse(everything, "forward_kl")
    nats = (values - whole["forward_kl"][0]).abs()
    fp16 = {"mean_nats": _rounded(nats.mean()), "max_nats": _rounded(nats.max())}
    write_json(
        output,
        {"preset": PRESET, "overrides": list(OVERRIDES), "seed": SEED, "draws": DRAWS}
        | {"positions": len(problem.ones), "vocab": size, **environment_facts()}
        | {"fp16": fp16 | compared(gradient, pull, exact), "rows": rows},
    )


if __name__ == "__main__":
    main()
