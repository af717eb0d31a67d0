"""REINFORCE with every baseline against the gradient of the expected reward, by enumeration.

Every sequence over three symbols, every micro-batch of them with its exact probability, in fp64.
The objective is the one that trains; only the sampler is replaced by enumeration.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.head import Head
from seqdistill.core.origins import Origin
from seqdistill.core.scores import NoScores
from seqdistill.core.terms import Reduction, Term
from seqdistill.data.encoding import EncodedExample
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.sources.completions import Completion, CompletionSource, PromptCompletions, Prompts
from seqdistill.sources.rewarded import Baseline, RewardedSource

from .writing import batched

REWARDED = Term.of("negative_log_likelihood", token_weights=["advantages"])
END, WORDS = 0, (1, 2)
CUT = tuple(itertools.product(WORDS, (END, *WORDS)))
SEQUENCES: tuple[tuple[int, ...], ...] = ((END,), *CUT)
"""All that can be written in two symbols: ended at once, or cut or ended in the second place."""
CONTEXTS: tuple[tuple[int, ...], ...] = ((), (1,), (2,))
REWARDS = dict(zip(SEQUENCES, (3.0, -1.0, 0.5, 2.0, 0.0, 7.0, 4.0), strict=True))


def hidden_states() -> Tensor:
    """One for every prefix."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()


HEAD = Head(torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64))


def log_prob(hidden: Tensor, sequence: tuple[int, ...]) -> Tensor:
    table = HEAD.logits(hidden).log_softmax(-1)
    steps = [table[CONTEXTS.index(sequence[:t]), symbol] for t, symbol in enumerate(sequence)]
    return torch.stack(steps).sum()


def gradient_of_expected_reward(hidden: Tensor) -> Tensor:
    """By its definition: of the sum over all sequences of q(y) r(y)."""
    total = torch.stack([REWARDS[y] * log_prob(hidden, y).exp() for y in SEQUENCES]).sum()
    (gradient,) = torch.autograd.grad(total, hidden)
    return gradient


class Dictated(CompletionSource):
    """A source of the sequences that it is told to give."""

    def __init__(self, samples_per_prompt: int) -> None:
        self._samples_per_prompt = samples_per_prompt
        self.next: Sequence[tuple[int, ...]] = ()
        self.origins: Sequence[Origin] | None = None
        self.updates: list[int] = []

    @property
    def sequences_per_prompt(self) -> int:
        return self._samples_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        self.updates.append(update)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = list(state["updates"])

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """What was dictated for one micro-batch, side by side for each prompt."""
        (prompts,) = batches
        asked = [prompt for prompt in prompts for _ in range(self._samples_per_prompt)]
        origins: Sequence[Origin] = self.origins or ["student"] * len(asked)
        written = [
            Completion(EncodedExample(prompt.id, prompt.source_ids, sequence), origin)
            for prompt, sequence, origin in zip(asked, self.next, origins, strict=True)
        ]
        return [batched(written)]


def reward(written: Sequence[Completion]) -> list[float]:
    return [REWARDS[one.example.target_ids] for one in written]


def loss_gradient(hidden: Tensor, written: Sequence[Completion], reduction: Reduction) -> Tensor:
    """The gradient of the training objective's mean over these sequences."""
    width = max(len(one.example.target_ids) for one in written)
    ids = torch.zeros(len(written), width, dtype=torch.long)
    mask = torch.zeros(len(written), width, dtype=torch.bool)
    places = torch.zeros(len(written), width, dtype=torch.long)
    for row, one in enumerate(written):
        for time, symbol in enumerate(one.example.target_ids):
            ids[row, time], mask[row, time] = symbol, True
            places[row, time] = CONTEXTS.index(one.example.target_ids[:time])
    batch = SequenceBatch(
        tuple(one.example.id for one in written),
        ids,
        mask,
        ids,
        mask,
        origins=tuple(one.origin for one in written),
        advantages=torch.tensor([one.advantage for one in written], dtype=torch.float64),
    )
    objective = WeightedObjective([REWARDED], reduction=reduction)
    loss, _ = objective(StudentStates(hidden[places], HEAD), NoScores(), batch)
    (gradient,) = torch.autograd.grad(loss.total / loss.count, hidden)
    return gradient


def micro_batches(hidden: Tensor, size: int) -> Iterator[tuple[tuple[tuple[int, ...], ...], float]]:
    """Every micro-batch of independent samples with its probability."""
    probabilities = {y: float(log_prob(hidden.detach(), y).exp()) for y in SEQUENCES}
    assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-12)
    for sequences in itertools.product(SEQUENCES, repeat=size):
        yield sequences, math.prod(probabilities[y] for y in sequences)


def expected_gradient(
    hidden: Tensor,
    baseline: Baseline,
    *,
    prompts: int,
    samples: int,
    before: Sequence[Sequence[tuple[int, ...]]] = (),
    reduction: Reduction = "sum",
) -> Tensor:
    """The mean over all micro-batches, after updates that wrote what `before` says."""
    asked = [EncodedExample(f"p{number}", (9,), ()) for number in range(prompts)]
    total = torch.zeros_like(hidden)
    for sequences, probability in micro_batches(hidden, prompts * samples):
        dictated = Dictated(samples)
        writer = RewardedSource(dictated, reward, baseline=baseline)
        for update, earlier in enumerate(before, start=1):
            writer.begin_update(update, 9)
            dictated.next = earlier
            writer.complete(asked)
            writer.end_update()
        writer.begin_update(len(before) + 1, 9)
        dictated.next = sequences
        total += probability * loss_gradient(hidden, writer.complete(asked).listed(), reduction)
    return -total


BEFORE = [[(1, 2), (END,)], [(2, 1), (2, 1)]]


@pytest.mark.parametrize(
    ("baseline", "prompts", "samples", "before", "reduction"),
    [
        ("none", 2, 1, [], "sum"),
        ("leave_one_out", 1, 2, [], "sum"),
        ("leave_one_out", 1, 2, [], "sequence"),
        ("leave_one_out", 1, 3, [], "sum"),
        ("moving_average", 2, 1, [], "sum"),
        ("moving_average", 1, 1, [], "sum"),
        ("moving_average", 2, 1, BEFORE, "sum"),
        ("moving_average", 1, 2, BEFORE, "sequence"),
    ],
)
def test_the_mean_gradient_is_that_of_the_expected_reward_whatever_the_baseline(
    baseline: Baseline,
    prompts: int,
    samples: int,
    before: list[list[tuple[int, ...]]],
    reduction: Reduction,
) -> None:
    hidden = hidden_states()
    found = expected_gradient(
        hidden, baseline, prompts=prompts, samples=samples, before=before, reduction=reduction
    )
    expected = gradient_of_expected_reward(hidden)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


UPDATES = (
    [(1, 2), (END,), (2, 1), (1, END), (2, 2), (1, 1)],
    [(2, END), (2, 1), (1, 1), (END,), (END,), (1, 2)],
    [(END,), (2, 2), (1, 2), (2, 1), (1, END), (1, END)],
)
"""Three samples of two prompts, in each of three updates."""


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "moving_average"])
@pytest.mark.parametrize("split", [False, True])
def test_advantages_and_metrics_are_those_of_a_naive_loop(baseline: Baseline, split: bool) -> None:
    """In one micro-batch an update or in one for each prompt; a resumed source goes on alike."""
    asked = [EncodedExample("p", (9,), ()), EncodedExample("q", (9,), ())]
    dictated, state, average = Dictated(3), None, None
    for update, sequences in enumerate(UPDATES, start=1):
        source = RewardedSource(dictated, reward, baseline=baseline)
        if state is not None:
            source.load_state_dict(state)
        source.begin_update(update, 9)
        gained, expected, spreads = list[float](), list[float](), list[float]()
        parts = [[place] for place in range(2)] if split else [[0, 1]]
        for part in parts:
            dictated.next = [y for place in part for y in sequences[3 * place : 3 * place + 3]]
            found = source.complete([asked[place] for place in part])
            assert found.advantages is not None and found.rewards is not None
            assert found.rewards.tolist() == [REWARDS[y] for y in dictated.next]
            gained += found.advantages.tolist()
            for start in range(0, len(dictated.next), 3):
                own = [REWARDS[y] for y in dictated.next[start : start + 3]]
                spreads.append(statistics.pstdev(own))
            for place, y in enumerate(dictated.next):
                alike = place // 3 * 3
                others = [REWARDS[z] for z in dictated.next]
                if baseline == "leave_one_out":
                    others = others[alike : alike + 3]
                    place -= alike
                others.pop(place)
                base = sum(others) / len(others)
                if baseline == "moving_average" and average is not None:
                    base = average
                expected.append(REWARDS[y] - (0.0 if baseline == "none" else base))
        assert gained == pytest.approx(expected, abs=1e-12)
        mean = sum(REWARDS[y] for y in sequences) / len(sequences)
        average = mean if average is None else 0.9 * average + 0.1 * mean
        metrics = source.end_update()
        assert metrics["reward"].mean == pytest.approx(mean, abs=1e-12)
        assert metrics["reward_std_within_prompt"].mean == pytest.approx(sum(spreads) / 2)
        absolute = sum(map(abs, expected)) / len(expected)
        assert metrics["absolute_advantage"].mean == pytest.approx(absolute)
        state = source.state_dict()


def test_only_what_the_student_wrote_is_rewarded() -> None:
    """Of p one answer is the student's, so that it has no spread; of q two are."""
    dictated = Dictated(3)
    dictated.next = [(1, 2), (END,), (2, 1), (1, END), (2, 2), (1, 1)]
    dictated.origins = ["student", "reference", "reference", "student", "reference", "student"]
    source = RewardedSource(dictated, reward, baseline="none")
    source.begin_update(1, 9)
    found = source.complete([EncodedExample("p", (9,), ()), EncodedExample("q", (9,), ())])
    own = [REWARDS[dictated.next[place]] for place in (0, 3, 5)]
    assert found.advantages is not None and found.rewards is not None
    assert found.advantages.tolist() == [own[0], 0.0, 0.0, own[1], 0.0, own[2]]
    assert found.rewards.isnan().tolist() == [False, True, True, False, True, False]
    metrics = source.end_update()
    assert metrics["reward"].mean == pytest.approx(sum(own) / 3)
    assert metrics["reward_std_within_prompt"].mean == pytest.approx(statistics.pstdev(own[1:]))


def test_the_source_within_is_told_of_updates_and_kept() -> None:
    source = RewardedSource(Dictated(1), reward, baseline="none")
    source.begin_update(3, 9)
    again = Dictated(1)
    RewardedSource(again, reward, baseline="none").load_state_dict(source.state_dict())
    assert again.updates == [3]
