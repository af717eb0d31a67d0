"""Random numbers of rollouts: others at every update, micro-batch and process, alike on a resume.

With both engines and a student whose weights stand still, so that only the numbers can differ.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

import pytest
from tests.tiny import EOS, character_tokenizer, tiny_model

from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.sampling import Sampler, TransformersSampler
from seqdistill.models.adapters import adapt
from seqdistill.sources.rollout_sampler import RolloutSampler

UPDATES = 4
PROMPTS = [EncodedExample(f"e{i}", (5, 6, 7 + i % 3, EOS), ()) for i in range(8)]
SAMPLED = Decoding(mode="sample", max_new_tokens=6, sampling_temperature=2.0)
MakeSampler = Callable[[str], Sampler]
Outputs = list[list[tuple[int, ...]]]
"""Of each micro-batch in turn, the token ids of its sequences."""


def with_transformers(name: str) -> Sampler:
    model = tiny_model(name)
    return TransformersSampler(
        model, character_tokenizer(closes=False), kind=adapt(model).kind, decoding=SAMPLED
    )


def with_ctranslate2(name: str) -> Sampler:
    model = tiny_model(name)
    engine = CTranslate2Generator(
        model,
        character_tokenizer(closes=False),
        kind=adapt(model).kind,
        verify_on=[((5, 6, 7, EOS), (4, 7, EOS))],
        threads=1,
    )
    return CTranslate2Sampler(model, engine, SAMPLED)


both_engines = pytest.mark.parametrize("make", [with_transformers, with_ctranslate2])
one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "llama"])


def rollouts(writer: RolloutSampler, updates: Sequence[int], micro_batches: int = 2) -> Outputs:
    """The same prompts every time."""
    found = []
    for update in updates:
        writer.begin_update(update, UPDATES)
        for _ in range(micro_batches):
            found.append([one.example.target_ids for one in writer.complete(PROMPTS).listed()])
        writer.end_update()
    return found


def all_differ(found: Outputs) -> bool:
    return all(first != second for first, second in itertools.combinations(found, 2))


@one_of_each_kind
@both_engines
def test_every_update_and_micro_batch_draws_numbers_of_its_own(
    make: MakeSampler, name: str
) -> None:
    assert all_differ(rollouts(RolloutSampler(make(name), seed=5), range(1, UPDATES + 1)))


@one_of_each_kind
@both_engines
def test_every_process_and_every_run_seed_draws_numbers_of_its_own(
    make: MakeSampler, name: str
) -> None:
    found: Outputs = []
    for rank in range(3):
        writer = RolloutSampler(make(name), seed=5, rank=rank, world_size=3)
        found += rollouts(writer, [1, 2])
    assert all_differ(found)
    assert all_differ(
        rollouts(RolloutSampler(make(name), seed=5), [1, 2])
        + rollouts(RolloutSampler(make(name), seed=6), [1, 2])
    )


@one_of_each_kind
@both_engines
@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_run_draws_the_numbers_of_an_uninterrupted_one(
    make: MakeSampler, name: str, rank: int
) -> None:
    """In a new process: the sampler is a new one, and has drawn nothing before."""

    def writer() -> RolloutSampler:
        return RolloutSampler(make(name), seed=5, rank=rank, world_size=2)

    whole = rollouts(writer(), range(1, UPDATES + 1))
    for stop in range(1, UPDATES):
        first, second = writer(), writer()
        before = rollouts(first, range(1, stop + 1))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + rollouts(second, range(stop + 1, UPDATES + 1)) == whole
