"""How likely a model finds the references: held against a loop over single sentences in fp64."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import EOS, PAD, collator, random_examples, tiny_adapter, tiny_model

from seqdistill.data.batching import Collator
from seqdistill.evaluation.likelihood import reference_likelihood

EXAMPLES = random_examples(12)


@torch.no_grad()
def naive_nats(name: str) -> list[float]:
    """Sum of -log p over each target, one sentence at a time, through the model's own logits."""
    model = tiny_model(name).double()
    totals = []
    for example in EXAMPLES:
        target = list(example.target_ids)
        if model.config.is_encoder_decoder:
            read = torch.tensor([[EOS, *target[:-1]]])
            source = torch.tensor([example.source_ids])
            logits = model(input_ids=source, decoder_input_ids=read).logits[0]
        else:
            whole = torch.tensor([[*example.source_ids, *target[:-1]]])
            logits = model(input_ids=whole).logits[0, len(example.source_ids) - 1 :]
        log_probs = logits.double().log_softmax(-1)
        totals.append(-sum(log_probs[t, token].item() for t, token in enumerate(target)))
    return totals


@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
@pytest.mark.parametrize("name", ["mbart", "marian", "t5", "llama", "gemma2"])
def test_likelihood_equals_a_loop_over_sentences(name: str, batch_tokens: int) -> None:
    adapter = tiny_adapter(name)
    found = reference_likelihood(
        adapter, EXAMPLES, collator(adapter.kind), batch_tokens=batch_tokens
    )
    assert found.nats == pytest.approx(naive_nats(name), rel=1e-5)
    assert found.num_targets == tuple(len(example.target_ids) for example in EXAMPLES)


def test_likelihood_is_blind_to_the_pad_token_and_to_dropout() -> None:
    adapter = tiny_adapter("mbart", dropout=0.5).train()
    one = reference_likelihood(adapter, EXAMPLES, collator("seq2seq", pad_id=PAD))
    other = reference_likelihood(
        adapter.train(), EXAMPLES, Collator("seq2seq", pad_id=EOS, start_id=EOS)
    )
    assert one == other
