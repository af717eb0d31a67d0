"""What a model predicts at each reference position: against a loop over sentences in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import EOS, PAD, VOCAB, collator, random_examples, tiny_adapter, tiny_model

from seqdistill.core.head import Head
from seqdistill.data.collating import Collator
from seqdistill.evaluation import likelihood
from seqdistill.evaluation.likelihood import reference_nats, reference_predictions

EXAMPLES = random_examples(12)


@torch.no_grad()
def naive_log_probs(name: str) -> list[np.ndarray]:
    """(positions, vocab) of each target, one sentence at a time, by the model's own logits."""
    model = tiny_model(name).double()
    found = []
    for example in EXAMPLES:
        target = list(example.target_ids)
        if model.config.is_encoder_decoder:
            read = torch.tensor([[EOS, *target[:-1]]])
            source = torch.tensor([example.source_ids])
            logits = model(input_ids=source, decoder_input_ids=read).logits[0]
        else:
            whole = torch.tensor([[*example.source_ids, *target[:-1]]])
            logits = model(input_ids=whole).logits[0, len(example.source_ids) - 1 :]
        found.append(logits.double().log_softmax(-1).numpy())
    return found


@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
@pytest.mark.parametrize("name", ["mbart", "marian", "t5", "llama", "gemma2"])
def test_predictions_equal_a_loop_over_sentences(
    name: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 5 * VOCAB)  # several chunks in a batch
    adapter = tiny_adapter(name)
    found = reference_predictions(
        adapter, EXAMPLES, collator(adapter.kind), batch_tokens=batch_tokens
    )
    for position, log_probs in enumerate(naive_log_probs(name)):
        target = EXAMPLES[position].target_ids
        assert found.target_ids[position] == target
        nats = -log_probs[np.arange(len(target)), list(target)]
        assert found.nats[position] == pytest.approx(nats, rel=1e-4, abs=1e-5)
        entropy = -(np.exp(log_probs) * log_probs).sum(axis=1)
        assert found.entropy_nats[position] == pytest.approx(entropy, rel=1e-4, abs=1e-5)
        assert found.top_ids[position].tolist() == log_probs.argmax(axis=1).tolist()


@pytest.mark.parametrize("name", ["mbart", "t5", "llama", "gemma2"])
def test_the_loss_on_dev_is_the_mean_over_all_tokens_however_batched(name: str) -> None:
    adapter = tiny_adapter(name, dropout=0.5).train()
    found = reference_predictions(adapter, EXAMPLES, collator(adapter.kind))
    mean = np.concatenate(found.nats).mean()
    for batch_tokens in (1, 30, 4096):
        adapter.train()
        loss = reference_nats(adapter, EXAMPLES, collator(adapter.kind), batch_tokens=batch_tokens)
        assert loss.mean == pytest.approx(mean, rel=1e-5)


def test_predictions_are_blind_to_the_pad_token_and_to_dropout() -> None:
    adapter = tiny_adapter("mbart", dropout=0.5).train()
    one = reference_predictions(adapter, EXAMPLES, collator("seq2seq", pad_id=PAD))
    other = reference_predictions(
        adapter.train(), EXAMPLES, Collator("seq2seq", pad_id=EOS, start_id=EOS)
    )
    for ours, theirs in zip(one.nats, other.nats, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_certainty_has_no_entropy_and_ignorance_the_logarithm_of_the_vocabulary() -> None:
    hidden, targets = torch.ones(3, 1), torch.tensor([0, 1, 2])
    even = Head(torch.zeros(7, 1))
    nats, entropy, _ = likelihood._predictions(hidden, even, targets)
    assert nats.tolist() == pytest.approx([np.log(7)] * 3)
    assert entropy.tolist() == pytest.approx([np.log(7)] * 3)
    impossible = Head(torch.zeros(7, 1), torch.tensor([0.0, *[-torch.inf] * 6]))
    nats, entropy, top = likelihood._predictions(hidden, impossible, targets)
    assert nats.tolist() == [0.0, torch.inf, torch.inf]
    assert (entropy.tolist(), top.tolist()) == ([0.0] * 3, [0] * 3)
