"""Two adapters make every architecture look alike: held against the models' own logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import transformers
from tests.tiny import (
    CAUSAL,
    EOS,
    SEQ2SEQ,
    VOCAB,
    collator,
    random_examples,
    tiny_adapter,
    tiny_model,
)
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError
from seqdistill.core.source import SourceInputs
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, kind_of

EXAMPLES = random_examples(4)


def own_logits(model: PreTrainedModel, example: EncodedExample) -> Tensor:
    """What the model itself says of one example without any padding, at its target positions."""
    if kind_of(model) == "seq2seq":
        decoder_ids = torch.tensor([[EOS, *example.target_ids[:-1]]])
        source = torch.tensor([example.source_ids])
        logits: Tensor = model(input_ids=source, decoder_input_ids=decoder_ids).logits[0]
        return logits
    whole = torch.tensor([[*example.source_ids, *example.target_ids[:-1]]])
    logits = model(input_ids=whole).logits[0, len(example.source_ids) - 1 :]
    return logits


def right_to_left(batch: SequenceBatch) -> SequenceBatch:
    """The same causal batch, padded on the left."""
    num_padding = (~batch.decoder_mask).sum(dim=1).tolist()

    def rolled(tensor: Tensor) -> Tensor:
        return torch.stack([row.roll(n) for row, n in zip(tensor, num_padding, strict=True)])

    return SequenceBatch(
        batch.example_ids,
        rolled(batch.decoder_input_ids),
        rolled(batch.decoder_mask),
        rolled(batch.target_ids),
        rolled(batch.target_mask),
    )


@pytest.mark.parametrize("name", [*SEQ2SEQ, *CAUSAL])
def test_padded_states_through_the_head_equal_each_sentences_own_logits(name: str) -> None:
    """Whatever stands under the padding; and their gradients are the model's own."""
    through_head, through_model = tiny_model(name), tiny_model(name)
    adapter = SequenceModel(through_head)
    batch = collator(adapter.kind)(EXAMPLES)
    noise = torch.randint(4, VOCAB, (8, 40), generator=torch.Generator().manual_seed(1))

    def scribbled(ids: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, ids, noise[: ids.shape[0], : ids.shape[1]])

    ids = scribbled(batch.decoder_input_ids, batch.decoder_mask)
    changed = dataclasses.replace(batch, decoder_input_ids=ids)
    if batch.source is not None:
        ids = scribbled(batch.source.tensors["input_ids"], batch.source.mask)
        source = SourceInputs({"input_ids": ids}, batch.source.mask)
        changed = dataclasses.replace(changed, source=source)
    assert not torch.equal(changed.decoder_input_ids, batch.decoder_input_ids)
    states = adapter.states(changed)
    found = states.head.logits(states.hidden)
    expected = [own_logits(through_model, example) for example in EXAMPLES]
    for row, own in enumerate(expected):
        # Products of other shapes round otherwise, on some processors by 1.4e-5 of the largest.
        near = 5e-5 * float(own.detach().abs().max())
        torch.testing.assert_close(found[row][batch.target_mask[row]], own, rtol=1e-5, atol=near)
    for logits in (found[batch.target_mask], torch.cat(expected)):
        torch.autograd.backward(logits.log_softmax(-1)[:, 5].sum())
    ours, theirs = (
        {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        for model in (through_head, through_model)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CAUSAL)
def test_left_padding_equals_right_padding(name: str) -> None:
    adapter = tiny_adapter(name)
    right = collator("causal")(EXAMPLES)
    left = right_to_left(right)
    assert not torch.equal(left.decoder_mask, right.decoder_mask)
    hidden = adapter.states(left).hidden[left.decoder_mask]
    torch.testing.assert_close(hidden, adapter.states(right).hidden[right.decoder_mask])
    torch.autograd.backward(hidden.sum())  # finite where left padding sees nothing
    gradients = [p.grad for p in adapter.parameters() if p.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


def lying(change: Callable[[Tensor], Tensor]) -> PreTrainedModel:
    """A Llama whose forward pass does something to its logits that its layers do not tell."""

    class LyingForCausalLM(transformers.LlamaForCausalLM):
        def forward(self, *arguments: object, **named: object) -> object:
            output = super().forward(*arguments, **named)
            output.logits = change(output.logits)
            return output

    # As models start: all logits well below 1, where a cap of 30 is nearly the identity.
    config = tiny_model("llama").config
    config.initializer_range = 0.02
    return LyingForCausalLM(config).eval()


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits * 1.1,
        lambda logits: torch.tanh(logits / 30) * 30,
        lambda logits: logits + 0.01 * torch.eye(VOCAB)[7],
        lambda logits: logits.roll(1, dims=-1),
        lambda logits: logits * float("nan"),
    ],
    ids=["scale", "cap", "bias", "order", "nan"],
)
def test_a_head_that_lies_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match="LyingForCausalLM must give the model's own logits"):
        SequenceModel(lying(change))


def test_the_honest_head_is_not_refused_and_a_model_without_one_is() -> None:
    SequenceModel(lying(lambda logits: logits))
    with pytest.raises(ModelError, match="must end in a linear output layer"):
        SequenceModel(tiny_model("bart").base_model)


@pytest.mark.parametrize("training", [True, False])
def test_adapting_leaves_the_model_in_its_mode_and_unhooked(training: bool) -> None:
    model = tiny_model("mbart", dropout=0.5).train(training)
    adapter = SequenceModel(model)
    assert adapter.training is training
    assert all(module.training is training for module in model.modules())
    assert not model.get_output_embeddings()._forward_pre_hooks
