"""What is read of layers is what transformers itself tells of them, whatever is padded."""

from __future__ import annotations

import pytest
import torch
from tests.features import PROJECTED, alone, of_layer
from tests.tiny import CAUSAL, SEQ2SEQ, collator, random_examples, tiny_adapter, tiny_model
from torch import nn

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ModelError
from seqdistill.core.families import READABLE, Stack
from seqdistill.core.features import Wanted
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.features import layers_of

EXAMPLES = random_examples(4)


@pytest.mark.parametrize("name", [*SEQ2SEQ, *CAUSAL])
def test_layers_are_read_as_transformers_tells_them(name: str) -> None:
    model, twin = tiny_model(name), tiny_model(name)  # that of transformers keeps its own hooks
    for each in (model, twin):
        each.set_attn_implementation("eager")
    adapter = SequenceModel(model)
    stacks: tuple[Stack, ...] = ("encoder", "decoder") if name in SEQ2SEQ else ("decoder",)
    reads = frozenset(READABLE if name in PROJECTED else ("hidden", "attention"))
    wanted: Wanted = {(stack, n): reads for stack in stacks for n in (1, 2)}
    states = adapter.states(collator(adapter.kind)(EXAMPLES), wanted)
    assert states.features.keys() == wanted.keys()
    for row, example in enumerate(EXAMPLES):
        whole = alone(twin, example)
        for (stack, number), found in states.features.items():
            expected = of_layer(twin, name, whole[stack], number, stack)
            assert expected.keys() == found.tensors.keys()
            mask = found.mask[row]
            for key, other in expected.items():
                own = found.tensors[key][row]
                own = own[:, mask][:, :, mask] if key == "attention" else own[mask]
                near = 1e-5 * float(other.detach().abs().max())
                torch.testing.assert_close(own, other, rtol=1e-4, atol=near, msg=key)
    last = states.features["decoder", 2].hidden
    assert torch.equal(last, states.hidden), "after the final norm"
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_is_read_of_what_nobody_asked_for() -> None:
    adapter = tiny_adapter("mbart")
    batch: SequenceBatch = collator("seq2seq")(EXAMPLES)
    assert adapter.states(batch).features == {}
    features = adapter.states(batch, {("encoder", 1): frozenset({"hidden"})}).features
    assert list(features) == [("encoder", 1)] and list(features["encoder", 1].tensors) == ["hidden"]


def test_gradient_checkpointing_changes_no_gradient_of_features() -> None:
    wanted: Wanted = {
        ("decoder", 1): frozenset({"hidden", "values"}),
        ("encoder", 2): frozenset({"hidden", "attention"}),
    }
    gradients = []
    for checkpoints in (False, True):
        adapter = tiny_adapter("mbart").train()
        adapter.module.set_attn_implementation("eager")
        if checkpoints:
            adapter.module.gradient_checkpointing_enable({"use_reentrant": False})
        features = adapter.states(collator("seq2seq")(EXAMPLES), wanted).features
        every = [tensor for each in features.values() for tensor in each.tensors.values()]
        total = torch.stack([tensor.square().sum() for tensor in every]).sum()
        torch.autograd.backward(total)
        gradients.append({n: p.grad for n, p in adapter.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_an_architecture_that_keeps_its_layers_elsewhere_is_refused() -> None:
    model = tiny_model("llama")
    model.base_model.layers = nn.Sequential(*model.base_model.layers)
    with pytest.raises(ModelError, match="must keep the layers of its decoder as one of layers"):
        layers_of(model, "decoder")


def test_what_an_architecture_does_not_tell_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tiny_adapter("llama")
    attention = adapter.module.base_model.layers[0].self_attn
    with pytest.raises(ModelError, match="must tell the weights of its self-attention"):
        adapter.try_features({("decoder", 1): frozenset({"attention"})})  # not eager
    adapter.module.set_attn_implementation("eager")
    monkeypatch.setattr(attention, "forward", lambda **given: (given["hidden_states"],) * 2)
    with pytest.raises(ModelError, match="must tell the weights of its self-attention"):
        adapter.try_features({("decoder", 1): frozenset({"attention"})})
    unlike = torch.zeros(1, 2, 3, 3)
    monkeypatch.setattr(attention, "forward", lambda **given: (given["hidden_states"], unlike))
    with pytest.raises(ModelError, match="Attention weights must sum to 1, but those that Llama"):
        adapter.try_features({("decoder", 1): frozenset({"attention"})})
    attention.qkv = attention._modules.pop("q_proj")
    with pytest.raises(ModelError, match="must tell the queries of its self-attention"):
        adapter.try_features({("decoder", 1): frozenset({"queries"})})
