"""An engine is verified where it is used: every family agrees at the run's lengths, or is refused.

The oracle is transformers: its own greedy search on prompts as long as the run's.
"""

from __future__ import annotations

import pytest
import torch

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.generation.verification import Reach, boundaries, long_pairs

from .conftest import END, Tiny
from .enumeration import listed
from .families import CAUSAL, SEQ2SEQ, STATEFUL, VOCAB, WINDOW, family

# What CTranslate2 4.8 computes otherwise than transformers 5, or not at all.
REFUSED = {
    "falcon-new",
    "gemma2",
    "gemma2-scalar",
    "gemma3",
    "gpt-bigcode-heads",
    "gpt-neo-local",
    "gpt-neox-theta",
    "gpt2-scaled",
    "led",
    "llama-3.1",
    "llama-dynamic",
    "llama-llama3",
    "llama-longrope",
    "llama-narrow-heads",
    "llama-wide-heads",
    "llama-yarn",
    "mistral-window",
    "mixtral",
    "mpt",
    "phi3",
    "phi3-longrope",
    "phi3-partial",
    "phi3-window",
    "qwen2-mixed",
    "qwen2-window",
    "qwen3-mixed",
    "starcoder2",
}
SOURCE, NEW = 60, 20


def long_sources(tiny: Tiny) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    sources = [torch.randint(4, VOCAB, (n,), generator=generator).tolist() for n in (5, 20, 59, 60)]
    return [[*source[:-1], END] for source in sources] if tiny.kind == "seq2seq" else sources


def converted(tiny: Tiny, reach: Reach) -> CTranslate2Generator:
    return CTranslate2Generator(
        tiny.model,
        tiny.tokenizer,
        kind=tiny.kind,
        verify_on=tiny.verify_on,
        reach=reach,
        threads=1,
    )


@pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
def test_a_family_writes_what_transformers_writes_or_is_refused(name: str) -> None:
    tiny = family(name)
    sources = long_sources(tiny)
    if name in REFUSED:
        with pytest.raises(EngineError, match=r"use the transformers engine$"):
            converted(tiny, Reach(max(map(len, sources)), NEW))
        return
    generator = converted(tiny, Reach(max(map(len, sources)), NEW))
    assert generator.agreement.argmax_share == 1.0
    decoding = Decoding(beam_size=1, max_new_tokens=NEW)
    plain = TransformersGenerator(tiny.model, tiny.tokenizer, kind=tiny.kind)
    for ours, theirs in zip(
        generator.generate(sources, decoding), plain.generate(sources, decoding), strict=True
    ):
        assert ours[0].token_ids == theirs[0].token_ids
        assert ours[0].log_prob == pytest.approx(theirs[0].log_prob, abs=1e-3)


@pytest.mark.parametrize("name", ["mistral-window", "qwen3-mixed", "gemma3"])
def test_a_window_counts_where_the_run_goes_beyond_it(name: str) -> None:
    """Short sentences see nothing: that is why the lengths of the run are compared."""
    tiny = family(name)
    if name != "qwen3-mixed":  # which is another model within the window, too
        assert converted(tiny, Reach(5, 4)).agreement.max_nats < 1e-4
    with pytest.raises(EngineError, match="off by up to"):
        converted(tiny, Reach(SOURCE, NEW))


def test_one_sequence_is_as_long_as_the_run_and_others_cross_each_boundary() -> None:
    tiny = family("mistral-window")
    facts = facts_of(tiny.model, tiny.tokenizer, kind="causal")
    config = tiny.model.config
    assert boundaries(config) == {WINDOW}
    assert boundaries(family("llama-llama3").model.config) == {24}
    assert boundaries(family("gemma3").model.config) == {WINDOW}
    pairs = [(tuple(s), tuple(t)) for s, t in tiny.verify_on]
    made = long_pairs(pairs, facts, config, Reach(50, 20))
    assert [len(s) + len(t) for s, t in made] == [WINDOW + 4, 70]
    assert all(len(target) == 8 and target[-1] == END for _, target in made)
    # Never beyond the model's 96 positions; nothing where the sentences are as long.
    assert [len(s) + len(t) for s, t in long_pairs(pairs, facts, config, Reach(500, 20))][-1] == 96
    assert long_pairs(pairs, facts, config, Reach(4, 4)) == []
    tiny = family("bart")
    facts = facts_of(tiny.model, tiny.tokenizer, kind="seq2seq")
    ((source, target),) = long_pairs(pairs, facts, tiny.model.config, Reach(70, 30))
    assert (len(source), len(target)) == (70, 30)
    assert source[0] == pairs[0][0][0] and END not in target[:-1]


@pytest.mark.parametrize("name", STATEFUL)
def test_a_model_with_states_is_written_right_or_refused(name: str) -> None:
    """The oracle is transformers' own greedy search of each prompt alone."""
    tiny = family(name)
    sources = [[5, 6, 7], [4, 8, 9, 10, 11, 6, 7, 7], [9], [12, 13, 14]]
    alone = [
        tiny.model.generate(
            torch.tensor([source]), max_new_tokens=8, do_sample=False, eos_token_id=END
        )[0, len(source) :].tolist()
        for source in sources
    ]
    with pytest.raises(EngineError, match="needs an architecture that CTranslate2 converts"):
        converted(tiny, Reach())
    decoding = Decoding(beam_size=1, max_new_tokens=8)
    plain = TransformersGenerator(tiny.model, tiny.tokenizer, kind="causal")
    assert [list(best.token_ids) for (best,) in plain.generate(sources, decoding)] == alone
    if name == "mamba":
        with pytest.raises(ModelError, match="hand on a cache alone"):
            TransformersSampler(tiny.model, tiny.tokenizer, kind="causal", decoding=decoding)
    else:
        sampler = TransformersSampler(tiny.model, tiny.tokenizer, kind="causal", decoding=decoding)
        assert [list(s.token_ids) for s in listed(sampler.sample(sources, seed=1))] == alone


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_weights_that_are_no_numbers_are_named(name: str, wrong: float) -> None:
    tiny = family(name)
    parameters = dict(tiny.model.named_parameters())
    broken = next(key for key in parameters if key.endswith("k_proj.weight"))
    with torch.no_grad():
        parameters[broken][0, 0] = wrong
    with pytest.raises(ModelError, match=f"finite numbers, but '{broken}' holds NaN") as refused:
        converted(tiny, Reach())
    assert not isinstance(refused.value, EngineError), "no engine would do better"
