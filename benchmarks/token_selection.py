"""Measures TIP's loss with a share of the tokens against the loss on all of them.

    python -m benchmarks.token_selection    # writes docs/results/token_selection.json

`all` is reverse KL at every position: heads, loss, gradients of hidden states and of the weight.
The others are the same with `top_tokens`, its measuring of every position included, in two halves
that are measured one after the other, as the micro-batches of an update are. The student's body is
no part of it: where tokens are selected it runs once more, without a gradient. Times are medians of
rounds in which all take turns, memory is the peak of a fresh process over what it held before.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.families import TOKEN_WEIGHTS
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores
from seqdistill.core.terms import Term
from seqdistill.jobs.measuring import in_turns, peak_over_held
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import weights_of_update
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

OUTPUT = Path("docs/results/token_selection.json")
VOCAB, DIM, SEQUENCES, LENGTH = 32_000, 1024, 4, 128
"""Of each of the two micro-batches."""
FORMS: dict[str, float | None] = {"all": None, "0.5": 0.5, "0.2": 0.2, "0.1": 0.1}


class Problem:
    """Random fp32 states of two micro-batches and both heads."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, spread: float = 1.0) -> Tensor:
            return torch.empty(*shape).normal_(0.0, spread, generator=generator)

        self.head = Head(normal(VOCAB, DIM, spread=0.05).requires_grad_())
        teacher = Head(normal(VOCAB, DIM, spread=0.05))
        mask = torch.ones(SEQUENCES, LENGTH, dtype=torch.bool)
        ids = torch.zeros(SEQUENCES, LENGTH, dtype=torch.long)
        names = tuple(map(str, range(SEQUENCES)))
        self.batch = SequenceBatch(names, ids, mask, ids, mask)
        self.hidden = [normal(SEQUENCES, LENGTH, DIM).requires_grad_() for _ in range(2)]
        self.scores = [DenseScores(normal(SEQUENCES, LENGTH, DIM), teacher) for _ in range(2)]

    def loss(self, fraction: float | None) -> None:
        """One update's loss and gradients, on all tokens where no fraction is given."""
        chosen = [] if fraction is None else [TOKEN_WEIGHTS.choose("top_tokens", fraction=fraction)]
        objective = WeightedObjective(
            [Term.of("reverse_kl", token_weights=chosen)], reduction="token"
        )
        states = [StudentStates(hidden, self.head) for hidden in self.hidden]
        with torch.no_grad():
            measured = [
                objective.measured(own, scores, self.batch)
                for own, scores in zip(states, self.scores, strict=True)
                if chosen
            ]
        weights = weights_of_update(chosen, measured) if chosen else [{}, {}]
        for own, scores, known in zip(states, self.scores, weights, strict=True):
            total, _ = objective(own, scores, self.batch, None, known)
            torch.autograd.backward(total.total)

    def clear(self) -> None:
        """Forgets the gradients of the last call."""
        for tensor in (*self.hidden, self.head.weight):
            tensor.grad = None


def _loss_of(problem: Problem, fraction: float | None, _round: int) -> None:
    problem.loss(fraction)


def main() -> None:
    """Without arguments: everything; memory in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="measured ones, after one more")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--memory", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    problem = Problem()
    if given.memory:
        print(peak_over_held(lambda: problem.loss(FORMS[given.memory])))
        return
    taken = in_turns(
        {form: functools.partial(_loss_of, problem, fraction) for form, fraction in FORMS.items()},
        before=lambda _form: problem.clear(),
        least=given.rounds,
        most=given.rounds,
    )
    rows = []
    for form, rounds in taken.items():
        words = [sys.executable, "-m", "benchmarks.token_selection", "--memory", form]
        extra = int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
        wall = round(statistics.median(one.wall_s for one in rounds), 3)
        cpu = round(statistics.median(one.cpu_s for one in rounds), 3)
        rows.append({"tokens": form, "wall_s": wall, "cpu_s": cpu, "extra_bytes": extra})
        print(json.dumps(rows[-1]), file=sys.stderr)
    shape = {"vocab": VOCAB, "dim": DIM, "micro_batches": 2, "positions": 2 * SEQUENCES * LENGTH}
    facts = {"threads": torch.get_num_threads(), **environment_facts()}
    write_json(given.output, {**shape, "dtype": "float32", **facts, "rows": rows})


if __name__ == "__main__":
    main()
