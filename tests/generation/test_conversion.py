"""What conversion and its verification promise: the live model untouched, wrong ones refused."""

from __future__ import annotations

import copy

import pytest
import torch
from ctranslate2.converters import transformers as loaders
from transformers import PreTrainedModel

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.generation import conversion, ctranslate2_model
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.scoring import Prediction, token_log_probs
from seqdistill.generation.verification import require_agreement
from seqdistill.recipe.sequences_schema import Decoding

from .families import END, both_engines, build_tiny, every_model, one_of_each_kind


@every_model
@pytest.mark.parametrize("compute_type", ["float32", "int8"])
def test_the_live_model_is_bitwise_unchanged_by_conversion(name: str, compute_type: str) -> None:
    tiny = build_tiny(name)
    if name == "t5-untied-gated" and compute_type == "int8":
        pytest.skip("its random weights are beyond the int8 tolerance")
    tiny.model.train()
    before = copy.deepcopy(tiny.model.state_dict())
    settings = tiny.model.config.to_dict()
    generator = tiny.fast(compute_type=compute_type)
    generator.generate(tiny.sources, Decoding(max_new_tokens=3))
    generator.refresh(tiny.model)
    assert all(module.training for module in tiny.model.modules())
    after = tiny.model.state_dict()
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert tiny.model.config.to_dict() == settings


@one_of_each_kind
@both_engines
def test_decoding_leaves_modes_random_state_and_generation_config_alone(
    engine: str, name: str
) -> None:
    tiny = build_tiny(name)
    tiny.model.train()
    next(tiny.model.children()).eval()
    modes = [module.training for module in tiny.model.modules()]
    assert len(set(modes)) == 2
    inherited = tiny.model.generation_config
    said = inherited.to_dict()
    state = torch.get_rng_state()
    tiny.generator(engine).generate(tiny.sources, Decoding(mode="sample", max_new_tokens=3))
    assert [module.training for module in tiny.model.modules()] == modes
    assert tiny.model.generation_config is inherited
    assert inherited.to_dict() == said
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("compute_type", ["float32", "int8"])
def test_ctranslate2s_own_loader_of_a_trained_marian_is_refused(
    monkeypatch: pytest.MonkeyPatch, compute_type: str
) -> None:
    tiny = build_tiny("marian")
    assert tiny.fast().agreement.max_nats < 1e-4
    mute = build_tiny("marian-mute-pad")
    with torch.no_grad():
        mute.model.get_input_embeddings().weight[-1].normal_(std=0.4)
    assert mute.fast().agreement.max_nats < 1e-4
    monkeypatch.setattr(conversion, "loader_for", lambda model: loaders.MarianMTLoader())
    with pytest.raises(ModelError, match=r"off by up to .* use the transformers engine"):
        mute.fast(compute_type=compute_type)


class _LoaderWithOneWrongNumber(loaders.BartLoader):
    """The right structure, with the words of the decoder slightly too large."""

    def get_model_spec(self, model: PreTrainedModel) -> object:
        spec = super().get_model_spec(model)
        spec.decoder.scale_embeddings *= 1.05
        return spec


def test_a_loader_with_one_wrong_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build_tiny("bart")
    monkeypatch.setattr(conversion, "loader_for", lambda model: _LoaderWithOneWrongNumber())
    with pytest.raises(ModelError, match=r"within 0\.001 nats"):
        tiny.fast()


def test_disagreement_and_nan_are_refused_with_their_size() -> None:
    def said(*log_probs: float, best: float = -0.5) -> list[list[Prediction]]:
        return [[Prediction(log_prob, 7, best) for log_prob in log_probs]]

    live = said(-1.0, -2.0)
    found = require_agreement(live, said(-1.0, -2.0005), compute_type="float32")
    assert (found.num_tokens, found.argmax_share) == (2, 1.0)
    assert [found.mean_nats, found.max_nats] == pytest.approx([0.00025, 0.0005])
    for wrong in (-2.002, float("nan"), float("-inf")):
        with pytest.raises(EngineError, match="over 2 tokens it is off by up to"):
            require_agreement(live, said(-1.0, wrong), compute_type="float32")
    with pytest.raises(EngineError, match="over 2 tokens it is off by up to"):
        require_agreement(live, said(-1.0, -2.0, best=-0.4), compute_type="float32")
    with pytest.raises(ModelError, match="some of them are NaN") as refused:
        require_agreement(said(float("nan")), said(-1.0), compute_type="float32")
    assert not isinstance(refused.value, EngineError), "no other engine would do better"


@one_of_each_kind
def test_refresh_takes_the_weights_of_now(name: str) -> None:
    tiny = build_tiny(name)
    generator = tiny.fast()
    stale = generator.generate(tiny.sources, Decoding(max_new_tokens=6))
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    assert generator.generate(tiny.sources, Decoding(max_new_tokens=6)) == stale
    generator.refresh(tiny.model)
    fresh = generator.generate(tiny.sources, Decoding(max_new_tokens=6))
    assert fresh != stale
    assert fresh == tiny.fast().generate(tiny.sources, Decoding(max_new_tokens=6))


def test_rows_of_the_embedding_without_a_token_can_be_read_and_written() -> None:
    tiny = build_tiny("llama", num_names=15)
    generator, plain = tiny.fast(verify_on=[([5], [20, 23, END])]), tiny.plain()
    sources = [[22], [16, 17], [9]]
    decoding = Decoding(beam_size=3, n_best=3, max_new_tokens=6)
    written = generator.generate(sources, decoding)
    assert max(max(h.token_ids) for answers in written for h in answers) >= 15
    for left, right in zip(written, plain.generate(sources, decoding), strict=True):
        assert [h.token_ids for h in left] == [h.token_ids for h in right]
    tiny = build_tiny("llama", num_names=6)
    tiny.tokenizer.add_tokens(["<unused_7>"])
    strings = conversion.unique_token_strings(tiny.tokenizer, 9)
    assert strings[6:] == ("<unused_7>", "<<unused_7>>", "<unused_8>")


@every_model
def test_scoring_equals_one_unpadded_forward_a_sentence(name: str) -> None:
    tiny = build_tiny(name)
    facts = facts_of(tiny.model, tiny.tokenizer, kind=tiny.kind)
    pairs = [(source, [6, 5, 4, 9, 10][:size]) for size, source in enumerate(tiny.sources)]
    scores = token_log_probs(tiny.model, pairs, facts=facts)
    assert scores[0] == []
    for (source, target), row in zip(pairs[1:], scores[1:], strict=True):
        with torch.no_grad():
            if tiny.kind == "seq2seq":
                read = torch.tensor([[facts.start_id, *target[:-1]]])
                logits = tiny.model(
                    input_ids=torch.tensor([source]), decoder_input_ids=read
                ).logits[0]
            else:
                logits = tiny.model(input_ids=torch.tensor([source + target])).logits[0]
                logits = logits[len(source) - 1 : -1]
        if facts.suppressed_ids:
            logits = logits[:, :-1]
        expected = logits.double().log_softmax(-1)
        for position, token in enumerate(target):
            assert row[position] == pytest.approx(float(expected[position, token]), abs=1e-4)


def test_what_cannot_be_converted_is_refused() -> None:
    for name in ("mbart", "llama"):
        tiny = build_tiny(name)
        long: list[tuple[list[int], list[int]]] = [([5] * 97, [4] * 97)] if name == "llama" else []
        with pytest.raises(ModelError, match="at least one sentence pair"):
            tiny.fast(verify_on=long)
        with pytest.raises(ModelError, match=r"float32.*got 'int4'"):
            tiny.fast(compute_type="int4")
    tiny = build_tiny("mbart")
    tiny.model.config.decoder_start_token_id = None
    tiny.model.generation_config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        tiny.fast()


def test_torch_keeps_its_threads_through_decoding_and_after_an_error() -> None:
    """CTranslate2 and torch share OpenMP."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(RuntimeError), ctranslate2_model.torch_threads_kept():
            torch.set_num_threads(1)  # what a worker of one thread does to the shared setting
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
