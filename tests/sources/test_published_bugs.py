"""One test for each bug that a public tool has shipped in how training sequences are written."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.tiny import EOS, PAD, character_tokenizer, collator, tiny_model

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.schedules import Schedule
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.models.adapters import SequenceModel, adapt
from seqdistill.sources.completions import Completion
from seqdistill.sources.mixture import MixtureSource
from seqdistill.sources.rollout_batches import RolloutBatches
from seqdistill.sources.rollout_sampler import RolloutSampler
from seqdistill.sources.stored import StoredCompletions

from .writing import PROMPTS, DiceSampler, batched

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


@one_of_each_kind
def test_rollouts_and_data_lie_alike_in_a_batch(name: str) -> None:
    """distillm, once more: the same sequence gives the same batch whoever wrote it."""
    bench = on_policy(name)
    batch = bench.source.next_batch()
    as_data = [Completion(one.example, "reference") for one in bench.written]
    data = batched(as_data).collated(collator(bench.student.kind))
    assert torch.equal(data.decoder_input_ids, batch.decoder_input_ids)
    assert torch.equal(data.target_ids, batch.target_ids)
    assert torch.equal(data.target_mask, batch.target_mask)
    assert data.sampled_log_probs is None and data.advantages is None


@one_of_each_kind
def test_the_end_token_is_scored_where_it_also_pads(name: str) -> None:
    """TRL #6357 masked it, the TAID code stripped it: the student never learned to stop."""
    bench = on_policy(name, pad_id=EOS, temperature=4.0)
    batch = bench.source.next_batch()
    finished = [one.finished for one in bench.written]
    assert set(finished) == {True, False}
    for row, one in enumerate(bench.written):
        last = batch.target_ids[row][batch.target_mask[row]][-1].item()
        assert (last == EOS) == one.finished
        assert int(batch.target_mask[row].sum()) == len(one.example.target_ids)


def test_the_samplers_temperature_is_not_the_losss() -> None:
    """TRL's GKD sampled at 0.9 and its Liger path took that for the loss: here the batch says what
    its tokens were drawn from, and training's own forward pass knows no temperature."""
    bench = on_policy("mbart", temperature=2.0)
    batch = bench.source.next_batch()
    assert batch.sampled_log_probs is not None
    at_two = log_probs_of_targets(bench.student, batch, temperature=2.0)
    assert torch.allclose(batch.sampled_log_probs, at_two, atol=1e-3)
    assert not torch.allclose(at_two, log_probs_of_targets(bench.student, batch), atol=0.1)


def test_what_was_sampled_can_be_learned_from() -> None:
    bench = on_policy("llama")
    bench.student.train()
    batch = bench.source.next_batch()
    states = bench.student.states(batch)
    logits = states.head.logits(states.hidden)
    torch.autograd.backward(logits.sum())
    assert any(parameter.grad is not None for parameter in bench.student.parameters())


def test_all_processes_throw_one_coin_for_a_batch() -> None:
    """A coin from a process's own stream lets some generate while others wait, or hang."""
    ranks = [
        MixtureSource(
            RolloutSampler(DiceSampler(), seed=3, rank=rank, world_size=3),
            StoredCompletions("reference"),
            Schedule.constant(0.5),
            coin="batch",
            seed=3,
        )
        for rank in range(3)
    ]
    decisions = set()
    for update in range(1, 40):
        for writer in ranks:
            writer.begin_update(update, 40)
        # Two micro-batches on each process, of other prompts: still one coin.
        by = {
            one.origin
            for rank, writer in enumerate(ranks)
            for _ in range(2)
            for one in writer.complete(PROMPTS[4 * rank : 4 * rank + 4]).listed()
        }
        assert len(by) == 1
        decisions |= by
    assert decisions == {"student", "reference"}
