"""What samplers owe training: the distribution of now, and nothing else touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.generation import ctranslate2_model, sampling
from seqdistill.generation.sampling import (
    Sampler,
    TeacherMixedSampler,
    TransformersSampler,
    drawn,
)
from seqdistill.recipe.sequences_schema import Decoding

from .enumeration import (
    cut,
    every_sequence,
    greedy,
    listed,
    plain_log_probs,
    probabilities,
    require_drawn_from,
    require_same_distribution,
    tokens,
)
from .families import END, Tiny, both_engines, build_tiny, every_model, one_of_each_kind, small
from .test_engines import forbid_everything

SAMPLED = Decoding(mode="sample", max_new_tokens=7)
GREEDY = Decoding(mode="beam", beam_size=1, max_new_tokens=7)


def moved(tiny: Tiny, by: float = 0.2) -> Tiny:
    """The same with other weights."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return tiny


@pytest.mark.parametrize(
    ("engine", "name", "rows", "temperature"),
    [
        ("transformers", "mbart", 9, 1.7),
        ("transformers", "llama", 5, 1.0),
        ("ctranslate2", "mbart", 5, 1.0),
        ("ctranslate2", "llama", 9, 1.7),
    ],
)
def test_rollouts_follow_the_distribution_and_so_do_their_log_probs(
    engine: str, name: str, rows: int, temperature: float
) -> None:
    """Prompts of two lengths in one batch: padding must not move either distribution."""
    tiny = small(name, rows=rows)
    forbid_everything(tiny)
    decoding = Decoding(mode="sample", sampling_temperature=temperature, max_new_tokens=3)
    long, short = tiny.sources
    sampler = tiny.sampler(engine, decoding, vocab_size=None if rows == 5 else 5)
    samples = listed(sampler.sample([long, short] * 2500, seed=11))
    for source, found in ((long, samples[::2]), (short, samples[1::2])):
        probs = probabilities(tiny, source, temperature=temperature)
        require_drawn_from(found, probs, told=engine == "transformers")


@one_of_each_kind
@both_engines
def test_a_refreshed_sampler_samples_the_new_weights(engine: str, name: str) -> None:
    tiny = small(name)
    decoding = Decoding(mode="sample", max_new_tokens=3, sampling_temperature=2.0)
    sampler, source = tiny.sampler(engine, decoding), tiny.sources[0]
    stale = probabilities(tiny, source, temperature=2.0)
    for seed in (1, 2):
        moved(tiny, 0.15)
        sampler.refresh()
        samples = tokens(listed(sampler.sample([source] * 3000, seed=seed)))
        require_same_distribution(samples, probabilities(tiny, source, temperature=2.0))
        with pytest.raises(AssertionError, match="another distribution"):
            require_same_distribution(samples, stale)


@one_of_each_kind
@both_engines
def test_the_same_seed_writes_the_same_and_another_writes_anew(engine: str, name: str) -> None:
    tiny = build_tiny(name)
    sampler = tiny.sampler(engine, SAMPLED)
    first = listed(sampler.sample(tiny.sources * 3, seed=1))
    sampler.refresh()
    assert listed(sampler.sample(tiny.sources * 3, seed=1)) == first
    assert listed(sampler.sample(tiny.sources * 3, seed=2)) != first
    assert listed(sampler.sample([], seed=1)) == []
    assert isinstance(sampler, Sampler)


@one_of_each_kind
@both_engines
def test_sampling_leaves_modes_gradients_and_random_state_alone(engine: str, name: str) -> None:
    """Guards against rollouts with dropout on, and training that goes on in evaluation mode."""
    tiny = build_tiny(name)
    for module in tiny.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
        for dropout in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, dropout, None), float):
                setattr(module, dropout, 0.5)
    quiet = listed(build_tiny(name).sampler(engine, SAMPLED).sample(tiny.sources, seed=3))
    tiny.model.train()
    next(tiny.model.children()).eval()
    modes = [module.training for module in tiny.model.modules()]
    said, state = tiny.model.generation_config.to_dict(), torch.get_rng_state()
    sampler = tiny.sampler(engine, SAMPLED)
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
    samples = listed(tiny.sampler("transformers", decoding).sample(tiny.sources * 2, seed=5))
    for source, sample in zip(tiny.sources * 2, samples, strict=True):
        assert sample.log_probs is not None and len(sample.log_probs) == len(sample.token_ids)
        for t, (token, found) in enumerate(zip(sample.token_ids, sample.log_probs, strict=True)):
            plain = plain_log_probs(tiny, source, [*sample.token_ids[:t]])
            expected = (plain / 1.7).log_softmax(-1)[token]
            assert found == pytest.approx(float(expected), abs=1e-3)


@every_model
def test_greedy_rollouts_are_the_beam_of_one(name: str) -> None:
    tiny = build_tiny(name)
    samples = listed(tiny.sampler("transformers", GREEDY).sample(tiny.sources, seed=0))
    expected = [best.token_ids for (best,) in tiny.plain().generate(tiny.sources, GREEDY)]
    assert tokens(samples) == expected
    assert all(sample.log_probs is None for sample in samples), "a greedy token is not drawn"


@one_of_each_kind
@both_engines
def test_greedy_rollouts_are_the_likeliest_shared_ids(engine: str, name: str) -> None:
    tiny = small(name, rows=9)
    found = tiny.sampler(engine, GREEDY, vocab_size=5).sample(tiny.sources, seed=0)
    expected = [tuple(greedy(tiny, source, 7, size=5)) for source in tiny.sources]
    assert tokens(listed(found)) == expected


@every_model
def test_a_forced_token_is_the_second_likeliest_and_greedy_decoding_goes_on_from_it(
    name: str,
) -> None:
    tiny = build_tiny(name)
    decoding = GREEDY.model_copy(update={"batch_tokens": 12})
    sampler = tiny.sampler("transformers", decoding)
    assert isinstance(sampler, TransformersSampler)
    places = [0, 2, 6, 1, -1, 0, 4, 5]
    found = tokens(listed(sampler.greedy_after_wrong_token(tiny.sources * 2, places)))
    forced = 0
    for source, place, tokens_found in zip(tiny.sources * 2, places, found, strict=True):
        written: list[int] = []
        while len(written) < 7 and written[-1:] != [END]:
            order = plain_log_probs(tiny, source, written).argsort(descending=True).tolist()
            second = next(token for token in order[1:] if token != END)
            forced += len(written) == place
            written.append(second if len(written) == place else order[0])
        assert tokens_found == tuple(written)
    assert forced >= 4, "outputs must be long enough for this test to say something"
    assert tokens(listed(sampler.greedy_after_wrong_token(tiny.sources, [-1] * 4))) == tokens(
        listed(sampler.sample(tiny.sources, seed=0))
    )


@one_of_each_kind
def test_samples_do_not_depend_on_batches_or_on_how_often_finished_rows_are_looked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is asked seldom: what a row goes on with after its end is cut off."""
    tiny = build_tiny(name)
    long = Decoding(mode="sample", max_new_tokens=20)
    whole = listed(tiny.sampler("transformers", long).sample(tiny.sources * 4, seed=9))
    assert 0.2 < sum(sample.finished for sample in whole) / len(whole) < 0.9
    for batch_tokens in (1, 12, 1024):
        decoding = long.model_copy(update={"batch_tokens": batch_tokens})
        found = listed(tiny.sampler("transformers", decoding).sample(tiny.sources * 4, seed=9))
        assert tokens(found) == tokens(whole)
        monkeypatch.setattr(sampling, "_LOOK_EVERY", {})
    for one, other in zip(found, whole, strict=True):
        assert one.finished == other.finished
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@one_of_each_kind
def test_groups_that_are_sampled_together_are_those_sampled_apart(
    name: str, decoding: Decoding
) -> None:
    tiny = build_tiny(name)
    sampler = tiny.sampler("transformers", decoding)
    groups = [tiny.sources * 3, tiny.sources[:1], [], tiny.sources[1:]]
    together = sampler.sample_all(groups, seeds=[5, 6, 7, 8]).split([*map(len, groups)])
    for group, seed, found in zip(groups, (5, 6, 7, 8), together, strict=True):
        apart = listed(sampler.sample(group, seed=seed))
        assert tokens(listed(found)) == tokens(apart)
        for one, other in zip(listed(found), apart, strict=True):
            assert one.finished == other.finished
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@pytest.mark.parametrize("vocab_size", [300, 320, 1000, 8192])
def test_a_token_of_many_is_the_one_that_the_whole_cumulative_sum_gives(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    masses = torch.rand(200, vocab_size, generator=generator) ** 20
    masses *= torch.rand(masses.shape, generator=generator) < 0.3
    masses[:, :70], masses[:, -70:] = 0.0, 0.0  # whole blocks of nothing
    uniforms = torch.rand(200, dtype=torch.float64, generator=generator)
    uniforms[0], uniforms[1] = 0.0, 1.0 - 2**-53
    found = drawn(masses, uniforms)
    assert bool((masses[torch.arange(200), found] > 0.0).all())
    cumulative = masses.double().cumsum(dim=1)
    level = (1.0 - uniforms)[:, None] * cumulative[:, -1:]
    assert torch.equal(found, torch.searchsorted(cumulative, level)[:, 0])


@one_of_each_kind
@pytest.mark.parametrize("limits", [{"top_k": 3}, {"top_p": 0.8}])
def test_top_k_and_top_p_cut_the_distribution_and_its_log_probs(
    name: str, limits: dict[str, Any]
) -> None:
    tiny = small(name)
    source = tiny.sources[0]
    decoding = SAMPLED.model_copy(update={"max_new_tokens": 2, **limits})

    def next_log_probs(written: list[int]) -> torch.Tensor:
        return cut(plain_log_probs(tiny, source, written), decoding)

    samples = listed(tiny.sampler("transformers", decoding).sample([source] * 3000, seed=2))
    require_drawn_from(samples, every_sequence(next_log_probs, longest=2), least_degrees=2)


def test_bf16_rollouts_are_near_and_their_log_probs_fp32() -> None:
    tiny = build_tiny("mbart")
    rough, exact = (
        listed(
            tiny.sampler("transformers", SAMPLED, precision=precision).sample(tiny.sources, seed=1)
        )
        for precision in ("bf16", "fp32")
    )
    first = [
        (a.log_probs or ())[0] - (b.log_probs or ())[0] for a, b in zip(rough, exact, strict=True)
    ]
    assert 0.0 < max(map(abs, first)) < 0.5


def test_a_refresh_that_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against weights that were not synchronised (TRL #5312)."""
    tiny = build_tiny("llama")
    sampler = tiny.sampler("ctranslate2", SAMPLED)
    monkeypatch.setattr(ctranslate2_model, "with_weights_of", lambda *_, converted, **__: converted)
    sampler.refresh()  # nothing has changed yet
    moved(tiny)
    with pytest.raises(ModelError, match="off by up to"):
        sampler.refresh()


def test_a_marian_model_whose_mute_row_begins_to_move_is_loaded_anew() -> None:
    tiny = build_tiny("marian-mute-pad")
    generator = tiny.fast()
    with torch.no_grad():
        tiny.model.get_input_embeddings().weight[-1].normal_(std=0.4)
    generator.refresh(tiny.model)
    assert generator.agreement.max_nats < 1e-3
    assert generator.agreement.num_tokens > 5, "more than one sentence was compared"


def teacher_of(name: str) -> Tiny:
    """Another model of the same kind, with two symbols more: a padded tail."""
    return moved(build_tiny(name, vocab_size=7, num_names=5))


def mixed(
    student: Tiny, teacher: Tiny, decoding: Decoding = SAMPLED, *, share: float = 0.2
) -> TeacherMixedSampler:
    return TeacherMixedSampler(
        student.model,
        student.tokenizer,
        teacher=teacher.model,
        kind=student.kind,
        decoding=decoding,
        vocab_size=5,
        teacher_fraction=share,
    )


@pytest.mark.parametrize(("name", "temperature"), [("mbart", 1.0), ("llama", 1.5)])
def test_samples_follow_the_mixture_of_both_at_every_token(name: str, temperature: float) -> None:
    student, teacher = small(name), teacher_of(name)
    decoding = Decoding(mode="sample", max_new_tokens=3, sampling_temperature=temperature)
    long, short = student.sources
    sampler = mixed(student, teacher, decoding, share=0.4)
    samples = listed(sampler.sample([long, short] * 2500, seed=3))
    for source, found in ((long, samples[::2]), (short, samples[1::2])):

        def mixture(written: list[int], source: list[int] = source) -> torch.Tensor:
            q = plain_log_probs(student, source, written)[:5] / temperature
            p = plain_log_probs(teacher, source, written)[:5] / temperature
            return (0.6 * q.softmax(-1) + 0.4 * p.softmax(-1)).log()

        require_drawn_from(found, every_sequence(mixture, longest=3))


@one_of_each_kind
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_is_the_student_and_of_all_the_teacher(name: str, share: float) -> None:
    student, other = small(name), moved(small(name))
    writer = student if share == 0.0 else other
    sampler = writer.sampler("transformers", SAMPLED)
    alone = listed(sampler.sample(student.sources * 20, seed=8))
    found = listed(mixed(student, other, share=share).sample(student.sources * 20, seed=8))
    assert tokens(found) == tokens(alone)
    for left, right in zip(found, alone, strict=True):
        assert left.log_probs == pytest.approx(right.log_probs, abs=1e-5)
    with pytest.raises(RecipeError, match="mode: sample"):
        mixed(student, other, GREEDY)


@pytest.mark.parametrize("teacher_mixed", [False, True])
@one_of_each_kind
def test_no_gradient_flows_through_sampling(name: str, teacher_mixed: bool) -> None:
    """Many trainers: a graph of every step, or dropout, while a student in training writes."""
    student, teacher = small(name), teacher_of(name)
    seen: set[tuple[bool, bool]] = set()

    def look(module: torch.nn.Module, *_: object) -> None:
        seen.add((torch.is_grad_enabled(), module.training))

    origin = [student, teacher] if teacher_mixed else [student]
    sampler = mixed(student, teacher) if teacher_mixed else student.sampler("transformers", SAMPLED)
    for writer in origin:
        writer.model.train()
        for module in writer.model.modules():
            module.register_forward_hook(look)
    with torch.enable_grad():
        listed(sampler.sample(student.sources, seed=1))
    assert seen == {(False, False)}, "(a graph was built, dropout was on)"
    assert all(module.training for w in origin for module in w.model.modules())
