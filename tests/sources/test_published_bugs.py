"""A bug that public tools have shipped in how training sequences are written."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import EOS, character_tokenizer, collator, tiny_model

from seqdistill.data.batching import EpochBatches
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.models.adapters import SequenceModel
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources.completions import Completion
from seqdistill.sources.rollouts import RolloutBatches, RolloutSampler

from .writing import batched, prompts_alone

one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "bart", "llama", "gpt2"])


@one_of_each_kind
def test_training_reads_the_rollout_where_the_sampler_wrote_it(name: str) -> None:
    """distillm: labels of rollouts unshifted while those of data are shifted, so the first response
    token had no loss. TRL: completion tokens lost to a slice at the batch's longest prompt; the end
    token masked where it also pads (#6357; the TAID code stripped it); the sampler's temperature
    taken for the loss's. Here what training says of each target is what the sampler said when it
    drew it, and the same sequence gives the same batch whoever wrote it."""
    model = tiny_model(name)
    student = SequenceModel(model)
    decoding = Decoding(mode="sample", max_new_tokens=6, sampling_temperature=4.0, batch_tokens=40)
    sampler = TransformersSampler(
        model, character_tokenizer(closes=False), kind=student.kind, decoding=decoding
    )
    written: list[Completion] = []
    collate = collator(student.kind, pad_id=EOS)
    source = RolloutBatches(
        prompts_alone(),
        RolloutSampler(sampler, seed=2, samples_per_prompt=2),
        collate,
        EpochBatches(prompts_alone(), "seq2seq", batch_tokens=2000, expected_new_tokens=6, seed=1),
        on_completions=lambda update, batch: written.extend(batch.listed()),
    )
    source.begin_update(1, 3)
    batch = source.next_batch()
    assert len({len(one.example.source_ids) for one in written}) > 2
    assert {one.finished for one in written} == {True, False}
    for row, one in enumerate(written):
        counted = batch.target_ids[row][batch.target_mask[row]].tolist()
        assert tuple(counted) == one.example.target_ids, "the first to the last token, no other"
        assert (counted[-1] == EOS) == one.finished
    states = student.train().states(batch)
    logits = states.head.logits(states.hidden)

    def log_probs_at(temperature: float) -> torch.Tensor:
        of_targets = (logits / temperature).log_softmax(-1).gather(2, batch.target_ids[:, :, None])
        return torch.where(batch.target_mask, of_targets[:, :, 0], 0.0)

    assert batch.sampled_log_probs is not None
    assert torch.allclose(batch.sampled_log_probs, log_probs_at(4.0), atol=1e-3)
    assert not torch.allclose(batch.sampled_log_probs, log_probs_at(1.0), atol=0.1)
    assert (batch.sampled_log_probs[batch.target_mask] < -0.1).any(), "uncertain tokens are seen"
    torch.autograd.backward(logits.sum())  # what was sampled can be learned from
    assert any(parameter.grad is not None for parameter in student.parameters())
    data = batched([Completion(one.example, "reference") for one in written]).collated(collate)
    for field in ("decoder_input_ids", "target_ids", "target_mask"):
        assert torch.equal(getattr(data, field), getattr(batch, field)), field
    assert data.sampled_log_probs is None and data.advantages is None
