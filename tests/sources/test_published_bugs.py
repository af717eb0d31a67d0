"""One test for each bug that a public tool has shipped in how training sequences are written."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.tiny import PAD, character_tokenizer, collator, tiny_model

from seqdistill.core.batch import SequenceBatch
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.models.adapters import SequenceModel, adapt
from seqdistill.sources.completions import Completion
from seqdistill.sources.rollout_batches import RolloutBatches
from seqdistill.sources.rollout_sampler import RolloutSampler

from .writing import PROMPTS

one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "bart", "llama", "gpt2"])


@dataclasses.dataclass
class OnPolicy:
    """A student with the source of its own rollouts, and what was written."""

    student: SequenceModel
    source: RolloutBatches
    written: list[Completion]


def on_policy(
    name: str, *, temperature: float = 1.0, dropout: float = 0.0, pad_id: int = PAD
) -> OnPolicy:
    model = tiny_model(name, dropout=dropout)
    student = adapt(model)
    decoding = Decoding(
        mode="sample", max_new_tokens=6, sampling_temperature=temperature, batch_tokens=40
    )
    sampler = TransformersSampler(
        model, character_tokenizer(closes=False), kind=student.kind, decoding=decoding
    )
    written: list[Completion] = []
    prompts = [EncodedExample(e.id, e.source_ids, ()) for e in PROMPTS]
    source = RolloutBatches(
        prompts,
        RolloutSampler(sampler, seed=2, samples_per_prompt=2),
        collator(student.kind, pad_id=pad_id),
        batch_tokens=4000,
        expected_new_tokens=6,
        seed=1,
        on_completions=lambda update, batch: written.extend(batch.listed()),
    )
    source.begin_update(1, 3)
    return OnPolicy(student, source, written)


def log_probs_of_targets(
    student: SequenceModel, batch: SequenceBatch, temperature: float = 1.0
) -> torch.Tensor:
    """log q of every target by the training forward pass, 0 where nothing counts."""
    with torch.no_grad():
        states = student.states(batch)
        log_probs = (states.head.logits(states.hidden) / temperature).log_softmax(-1)
    chosen = log_probs.gather(2, batch.target_ids[:, :, None])[:, :, 0]
    return torch.where(batch.target_mask, chosen, 0.0)


@one_of_each_kind
def test_training_reads_the_rollout_where_the_sampler_wrote_it(name: str) -> None:
    """distillm: labels of rollouts unshifted while those of data are shifted, so the first response
    token had no loss. TRL: completion tokens lost to a slice at the batch's longest prompt. Here
    what training says of each target is what the sampler said when it drew it."""
    bench = on_policy(name)
    batch = bench.source.next_batch()
    assert len({len(one.example.source_ids) for one in bench.written}) > 2
    for row, one in enumerate(bench.written):
        counted = batch.target_ids[row][batch.target_mask[row]].tolist()
        assert tuple(counted) == one.example.target_ids, "the first to the last token, no other"
    assert batch.sampled_log_probs is not None
    expected = log_probs_of_targets(bench.student, batch)
    assert torch.allclose(batch.sampled_log_probs, expected, atol=1e-3)
    assert (expected[batch.target_mask] < -0.1).any(), "the test must see uncertain tokens"
