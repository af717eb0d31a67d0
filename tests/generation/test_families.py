"""An engine is verified where it is used: every family agrees at the run's lengths, or is refused.

The oracle is transformers: its own greedy search on prompts as long as the run's.
"""

from __future__ import annotations

import pytest
import torch

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.verification import Reach, boundaries, long_pairs
from seqdistill.recipe.sequences_schema import Decoding

from .enumeration import listed, tokens
from .families import CONVERTED, END, REFUSED, STATEFUL, VOCAB, WINDOW, Tiny, build_tiny

SOURCE, NEW = 60, 20


def long_sources(tiny: Tiny) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    sources = [
        torch.randint(4, VOCAB - 1, (n,), generator=generator).tolist() for n in (5, 20, 59, 60)
    ]
    return [[*source[:-1], END] for source in sources] if tiny.kind == "seq2seq" else sources


@pytest.mark.parametrize("name", CONVERTED | REFUSED)
def test_a_family_writes_what_transformers_writes_or_is_refused(name: str) -> None:
    tiny = build_tiny(name)
    if name in REFUSED:
        with pytest.raises(EngineError, match=r"use the transformers engine$"):
            tiny.fast(reach=Reach(SOURCE, NEW))
        return
    generator, sources = tiny.fast(reach=Reach(SOURCE, NEW)), long_sources(tiny)
    assert generator.agreement.argmax_share == 1.0
    decoding = Decoding(beam_size=1, max_new_tokens=NEW)
    for ours, theirs in zip(
        generator.generate(sources, decoding),
        tiny.plain().generate(sources, decoding),
        strict=True,
    ):
        assert ours[0].token_ids == theirs[0].token_ids
        assert ours[0].log_prob == pytest.approx(theirs[0].log_prob, abs=1e-3)


@pytest.mark.parametrize("name", ["mistral-window", "qwen3-mixed", "gemma3"])
def test_a_window_counts_where_the_run_goes_beyond_it(name: str) -> None:
    """Short sentences see nothing: that is why the lengths of the run are compared."""
    tiny = build_tiny(name)
    if name != "qwen3-mixed":  # which is another model within the window, too
        assert tiny.fast(reach=Reach(5, 4)).agreement.max_nats < 1e-4
    with pytest.raises(EngineError, match="off by up to"):
        tiny.fast(reach=Reach(SOURCE, NEW))


def test_one_sequence_is_as_long_as_the_run_and_others_cross_each_boundary() -> None:
    tiny = build_tiny("mistral-window")
    facts = facts_of(tiny.model, tiny.tokenizer, kind="causal")
    config = tiny.model.config
    assert boundaries(config) == {WINDOW}
    assert boundaries(build_tiny("llama-llama3").model.config) == {24}
    assert boundaries(build_tiny("gemma3").model.config) == {WINDOW}
    pairs = [(tuple(s), tuple(t)) for s, t in tiny.verify_on]
    made = long_pairs(pairs, facts, config, Reach(50, 20))
    assert [len(s) + len(t) for s, t in made] == [WINDOW + 4, 70]
    assert all(len(target) == 8 and target[-1] == END for _, target in made)
    # Never beyond the model's 96 positions; nothing where the sentences are as long.
    assert [len(s) + len(t) for s, t in long_pairs(pairs, facts, config, Reach(500, 20))][-1] == 96
    assert long_pairs(pairs, facts, config, Reach(4, 4)) == []
    tiny = build_tiny("bart")
    facts = facts_of(tiny.model, tiny.tokenizer, kind="seq2seq")
    ((source, target),) = long_pairs(pairs, facts, tiny.model.config, Reach(70, 30))
    assert (len(source), len(target)) == (70, 30)
    assert source[0] == pairs[0][0][0] and END not in target[:-1]


@pytest.mark.parametrize("name", STATEFUL)
def test_a_model_with_states_is_written_as_each_prompt_alone_or_refused(name: str) -> None:
    """Some states take in padding, or do not move with beams; the oracle has no cache."""
    tiny = build_tiny(name)
    sources = [[5, 6, 7], [4, 8, 9, 10, 11, 6, 7, 7], [9], [12, 13, 14]]

    def alone(num_beams: int) -> list[tuple[int, ...]]:
        return [
            tuple(
                tiny.model.generate(
                    torch.tensor([source]),
                    max_new_tokens=8,
                    do_sample=False,
                    num_beams=num_beams,
                    early_stopping=num_beams > 1,
                    use_cache=False,
                    eos_token_id=END,
                    pad_token_id=END,
                )[0, len(source) :].tolist()
            )
            for source in sources
        ]

    for num_beams in (1, 3):
        decoding = Decoding(beam_size=num_beams, max_new_tokens=8)
        found = [best.token_ids for (best,) in tiny.plain().generate(sources, decoding)]
        assert found == alone(num_beams)
    with pytest.raises(EngineError, match="needs an architecture that CTranslate2 converts"):
        tiny.fast()
    decoding = Decoding(beam_size=1, max_new_tokens=8)
    if name in ("jamba", "lfm2"):
        samples = tiny.sampler("transformers", decoding).sample(sources, seed=1)
        assert tokens(listed(samples)) == alone(1)
    else:
        with pytest.raises(
            ModelError, match=r"hand on a cache alone|must give the model's own logits"
        ):
            tiny.sampler("transformers", decoding)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_weights_that_are_no_numbers_are_named(name: str, wrong: float) -> None:
    tiny = build_tiny(name)
    parameters = dict(tiny.model.named_parameters())
    broken = next(key for key in parameters if key.endswith("k_proj.weight"))
    with torch.no_grad():
        parameters[broken][0, 0] = wrong
    with pytest.raises(ModelError, match=f"finite numbers, but '{broken}' holds NaN") as refused:
        tiny.fast()
    assert not isinstance(refused.value, EngineError), "no engine would do better"
