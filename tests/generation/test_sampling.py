"""What both samplers owe training: the student's distribution of now, and nothing else touched."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.generation import sampling
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.sampling import Sampler, TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator

from .conftest import CAUSAL, END, SEQ2SEQ, Tiny, build_tiny
from .enumeration import Sample, every_sequence, listed, require_same_distribution

MakeSampler = Callable[[Tiny, Decoding], Sampler]


def with_transformers(tiny: Tiny, decoding: Decoding) -> Sampler:
    return TransformersSampler(tiny.model, tiny.tokenizer, kind=tiny.kind, decoding=decoding)


def with_ctranslate2(tiny: Tiny, decoding: Decoding) -> Sampler:
    generator = CTranslate2Generator(
        tiny.model, tiny.tokenizer, kind=tiny.kind, verify_on=tiny.verify_on, threads=1
    )
    return CTranslate2Sampler(tiny.model, generator, decoding)


both_samplers = pytest.mark.parametrize("make", [with_transformers, with_ctranslate2])
every_model = pytest.mark.parametrize("name", SEQ2SEQ + CAUSAL)
one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "llama"])
SAMPLED = Decoding(mode="sample", max_new_tokens=7)
GREEDY = Decoding(mode="beam", beam_size=1, max_new_tokens=7)


def small(name: str) -> Tiny:
    """A model of five symbols, with sentences that it can read."""
    tiny = build_tiny(name, vocab_size=5)
    end = [END] if tiny.kind == "seq2seq" else []
    sources = [[4, 3, 3, *end], [3, *end]]
    return Tiny(tiny.model, tiny.tokenizer, tiny.kind, sources, [([4, 3, END], [4, 3, END])])


def plain_log_probs(tiny: Tiny, source: list[int], written: list[int]) -> torch.Tensor:
    """log p(. | source, written) of one unpadded forward pass, dropout off."""
    with torch.no_grad():
        if tiny.kind == "seq2seq":
            read = torch.tensor([[tiny.model.config.decoder_start_token_id, *written]])
            logits = tiny.model(input_ids=torch.tensor([source]), decoder_input_ids=read).logits
        else:
            logits = tiny.model(input_ids=torch.tensor([source + written])).logits
    last: torch.Tensor = logits[0, -1].double()
    if tiny.model.config.pad_token_id == last.numel() - 1:
        last[-1] = -torch.inf  # marian-mute-pad: its last symbol is no output
    return last.log_softmax(-1)


def probabilities(
    tiny: Tiny, source: list[int], *, longest: int, temperature: float = 1.0, size: int = 5
) -> dict[tuple[int, ...], float]:
    def next_log_probs(written: list[int]) -> torch.Tensor:
        return (plain_log_probs(tiny, source, written)[:size] / temperature).log_softmax(-1)

    return every_sequence(next_log_probs, end=END, longest=longest)


def tokens(samples: list[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids for sample in samples]


@one_of_each_kind
@both_samplers
def test_a_refreshed_sampler_samples_the_new_weights(make: MakeSampler, name: str) -> None:
    tiny = small(name)
    sampler = make(tiny, Decoding(mode="sample", max_new_tokens=3, sampling_temperature=2.0))
    source = tiny.sources[0]
    stale = probabilities(tiny, source, longest=3, temperature=2.0)
    generator = torch.Generator().manual_seed(3)
    for seed in (1, 2):
        with torch.no_grad():
            for parameter in tiny.model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
        sampler.refresh()
        samples = tokens(listed(sampler.sample([source] * 3000, seed=seed)))
        require_same_distribution(samples, probabilities(tiny, source, longest=3, temperature=2.0))
        with pytest.raises(AssertionError, match="another distribution"):
            require_same_distribution(samples, stale)


@one_of_each_kind
@both_samplers
def test_the_same_seed_writes_the_same_and_another_writes_anew(
    make: MakeSampler, name: str
) -> None:
    tiny = build_tiny(name)
    sampler = make(tiny, SAMPLED)
    first = listed(sampler.sample(tiny.sources * 3, seed=1))
    sampler.refresh()
    assert listed(sampler.sample(tiny.sources * 3, seed=1)) == first
    assert listed(sampler.sample(tiny.sources * 3, seed=2)) != first
    assert listed(sampler.sample([], seed=1)) == []
    assert isinstance(sampler, Sampler)


@one_of_each_kind
@both_samplers
def test_sampling_leaves_modes_gradients_and_random_state_alone(
    make: MakeSampler, name: str
) -> None:
    """Guards against rollouts with dropout on, and training that goes on in evaluation mode."""
    tiny = build_tiny(name)
    for module in tiny.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
        for dropout in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, dropout, None), float):
                setattr(module, dropout, 0.5)
    quiet = listed(make(build_tiny(name), SAMPLED).sample(tiny.sources, seed=3))
    tiny.model.train()
    next(tiny.model.children()).eval()
    modes = [module.training for module in tiny.model.modules()]
    said, state = tiny.model.generation_config.to_dict(), torch.get_rng_state()
    sampler = make(tiny, SAMPLED)
    sampler.refresh()
    assert listed(sampler.sample(tiny.sources, seed=3)) == quiet, "dropout was on"
    assert [module.training for module in tiny.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.model.generation_config.to_dict() == said
    assert all(parameter.grad is None for parameter in tiny.model.parameters())
    assert all(parameter.requires_grad for parameter in tiny.model.parameters())


@every_model
def test_log_probs_are_those_of_the_distribution_sampled_from(name: str) -> None:
    tiny = build_tiny(name)
    decoding = Decoding(mode="sample", sampling_temperature=1.7, max_new_tokens=6)
    samples = listed(with_transformers(tiny, decoding).sample(tiny.sources * 2, seed=5))
    for source, sample in zip(tiny.sources * 2, samples, strict=True):
        assert sample.log_probs is not None and len(sample.log_probs) == len(sample.token_ids)
        for t, (token, found) in enumerate(zip(sample.token_ids, sample.log_probs, strict=True)):
            plain = plain_log_probs(tiny, source, [*sample.token_ids[:t]])
            expected = (plain / 1.7).log_softmax(-1)[token]
            assert found == pytest.approx(float(expected), abs=1e-3)


@every_model
@both_samplers
def test_greedy_rollouts_are_the_beam_of_one(make: MakeSampler, name: str) -> None:
    tiny = build_tiny(name)
    samples = listed(make(tiny, GREEDY).sample(tiny.sources, seed=0))
    plain = TransformersGenerator(tiny.model, tiny.tokenizer, kind=tiny.kind)
    expected = [best.token_ids for (best,) in plain.generate(tiny.sources, GREEDY)]
    assert tokens(samples) == expected
    assert all(sample.log_probs is None for sample in samples), "a greedy token is not drawn"


@one_of_each_kind
@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_samples_do_not_depend_on_how_prompts_are_batched(name: str, budget: int) -> None:
    tiny = build_tiny(name)
    whole = listed(with_transformers(tiny, SAMPLED).sample(tiny.sources * 5, seed=9))
    cut = Decoding(mode="sample", max_new_tokens=7, batch_tokens=budget)
    found = listed(with_transformers(tiny, cut).sample(tiny.sources * 5, seed=9))
    assert tokens(found) == tokens(whole)


@one_of_each_kind
def test_samples_do_not_depend_on_how_often_finished_rows_are_looked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is asked seldom: what a row goes on with after its end is cut off."""
    tiny = build_tiny(name)
    long = Decoding(mode="sample", max_new_tokens=20)
    at_once = listed(with_transformers(tiny, long).sample(tiny.sources * 9, seed=9))
    assert 0.2 < sum(sample.finished for sample in at_once) / len(at_once) < 0.9
    monkeypatch.setattr(sampling, "_LOOK_EVERY", {})
    found = listed(with_transformers(tiny, long).sample(tiny.sources * 9, seed=9))
    assert tokens(found) == tokens(at_once)
    for one, other in zip(found, at_once, strict=True):
        assert one.finished == other.finished
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@one_of_each_kind
def test_top_k_and_top_p_cut_the_distribution_and_its_log_probs(name: str) -> None:
    tiny = small(name)
    source = tiny.sources[0]
    for decoding in (
        Decoding(mode="sample", max_new_tokens=2, top_k=3),
        Decoding(mode="sample", max_new_tokens=2, top_p=0.8),
    ):

        def cut(written: list[int], decoding: Decoding = decoding) -> torch.Tensor:
            log_probs = plain_log_probs(tiny, source, written)
            ordered = log_probs.sort(descending=True)
            before = ordered.values.exp().cumsum(0) - ordered.values.exp()
            kept = before < decoding.top_p - 1e-12
            if decoding.top_k:
                kept[decoding.top_k :] = False
            out = torch.full_like(log_probs, -torch.inf)
            out[ordered.indices[kept]] = log_probs[ordered.indices[kept]]
            return out.log_softmax(-1)

        probs = every_sequence(cut, end=END, longest=2)
        samples = listed(with_transformers(tiny, decoding).sample([source] * 3000, seed=2))
        require_same_distribution(tokens(samples), probs, least_degrees=2)
        for sample in samples[:50]:
            assert sample.log_probs is not None
            assert math.exp(sum(sample.log_probs)) == pytest.approx(
                probs[sample.token_ids], rel=1e-3
            )


def test_bf16_rollouts_are_near_and_their_log_probs_fp32() -> None:
    tiny = build_tiny("mbart")
    rough = listed(
        TransformersSampler(
            tiny.model, tiny.tokenizer, kind="seq2seq", decoding=SAMPLED, precision="bf16"
        ).sample(tiny.sources, seed=1)
    )
    exact = listed(with_transformers(tiny, SAMPLED).sample(tiny.sources, seed=1))
    first = [
        (a.log_probs or ())[0] - (b.log_probs or ())[0] for a, b in zip(rough, exact, strict=True)
    ]
    assert 0.0 < max(map(abs, first)) < 0.5


def test_a_refresh_that_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against weights that were not synchronised (TRL #5312)."""
    from seqdistill.generation import ctranslate2_loading

    tiny = build_tiny("llama")
    sampler = with_ctranslate2(tiny, SAMPLED)
    monkeypatch.setattr(
        ctranslate2_loading, "with_weights_of", lambda *_, converted, **__: converted
    )
    sampler.refresh()  # nothing has changed yet
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            parameter.add_(0.1)
    with pytest.raises(ModelError, match="off by up to"):
        sampler.refresh()


def test_a_marian_model_whose_mute_row_begins_to_move_is_loaded_anew() -> None:
    tiny = build_tiny("marian-mute-pad")
    generator = CTranslate2Generator(
        tiny.model, tiny.tokenizer, kind="seq2seq", verify_on=tiny.verify_on, threads=1
    )
    with torch.no_grad():
        tiny.model.get_input_embeddings().weight[-1].normal_(std=0.4)
    generator.refresh(tiny.model)
    assert generator.agreement.max_nats < 1e-3
    assert generator.agreement.num_tokens > 5, "more than one sentence was compared"


@both_samplers
def test_what_is_no_rollout_is_refused(make: MakeSampler) -> None:
    tiny = build_tiny("llama")
    with pytest.raises(RecipeError, match="beam_size is 4"):
        make(tiny, Decoding(beam_size=4))
    with pytest.raises(RecipeError, match="use samples_per_prompt"):
        make(tiny, Decoding(mode="sample", n_best=2))
