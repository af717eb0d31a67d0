"""Teacher-mixed sampling: the mixture of both distributions at every token, enumerated."""

from __future__ import annotations

import math

import pytest
import torch

from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.sampling import Sampler, TeacherMixedSampler, TransformersSampler

from .conftest import END, Tiny, build_tiny
from .enumeration import every_sequence, listed, require_same_distribution
from .test_sampling import plain_log_probs, small, tokens

one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "llama"])
SAMPLED = Decoding(mode="sample", max_new_tokens=3)


def teacher_of(name: str) -> Tiny:
    """Another model of the same kind, with two symbols more: a padded tail."""
    tiny = build_tiny(name, vocab_size=7)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return tiny


def mixed(
    student: Tiny, teacher: Tiny, decoding: Decoding = SAMPLED, *, share: float = 0.2, size: int = 5
) -> TeacherMixedSampler:
    return TeacherMixedSampler(
        student.model,
        teacher.model,
        student.tokenizer,
        kind=student.kind,
        decoding=decoding,
        vocab_size=size,
        teacher_fraction=share,
    )


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@one_of_each_kind
def test_samples_follow_the_mixture_of_both_at_every_token(name: str, temperature: float) -> None:
    student, teacher = small(name), teacher_of(name)
    decoding = Decoding(mode="sample", max_new_tokens=3, sampling_temperature=temperature)
    long, short = student.sources
    samples = listed(
        mixed(student, teacher, decoding, share=0.4).sample([long, short] * 2500, seed=3)
    )
    for source, found in ((long, samples[::2]), (short, samples[1::2])):

        def mixture(written: list[int], source: list[int] = source) -> torch.Tensor:
            q = plain_log_probs(student, source, written)[:5] / temperature
            p = plain_log_probs(teacher, source, written)[:5] / temperature
            return (0.6 * q.softmax(-1) + 0.4 * p.softmax(-1)).log()

        probs = every_sequence(mixture, end=END, longest=3)
        require_same_distribution(tokens(found), probs)
        for sample in found[:50]:
            assert sample.log_probs is not None
            assert math.exp(sum(sample.log_probs)) == pytest.approx(
                probs[sample.token_ids], rel=1e-3
            )


@one_of_each_kind
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_is_the_student_and_of_all_the_teacher(name: str, share: float) -> None:
    student = small(name)
    other = small(name)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(0.7)
    writer = student if share == 0.0 else other
    alone = listed(
        TransformersSampler(
            writer.model, writer.tokenizer, kind=writer.kind, decoding=SAMPLED
        ).sample(student.sources * 20, seed=8)
    )
    found = listed(mixed(student, other, share=share).sample(student.sources * 20, seed=8))
    assert tokens(found) == tokens(alone)
    for left, right in zip(found, alone, strict=True):
        assert left.log_probs == pytest.approx(right.log_probs, abs=1e-5)


@pytest.mark.parametrize("teacher_mixed", [False, True])
@one_of_each_kind
def test_no_gradient_flows_through_sampling(name: str, teacher_mixed: bool) -> None:
    """Many trainers: a graph of every step, or dropout, while a student in training writes."""
    student, teacher = small(name), teacher_of(name)
    seen: set[tuple[bool, bool]] = set()

    def look(module: torch.nn.Module, *_: object) -> None:
        seen.add((torch.is_grad_enabled(), module.training))

    origin = [student, teacher] if teacher_mixed else [student]
    sampler: Sampler = (
        mixed(student, teacher)
        if teacher_mixed
        else TransformersSampler(
            student.model, student.tokenizer, kind=student.kind, decoding=SAMPLED
        )
    )
    for writer in origin:
        writer.model.train()
        for module in writer.model.modules():
            module.register_forward_hook(look)
    with torch.enable_grad():
        listed(sampler.sample(student.sources, seed=1))
    assert seen == {(False, False)}, "(a graph was built, dropout was on)"
    assert all(module.training for w in origin for module in w.model.modules())


def test_the_present_weights_of_both_are_read_and_modes_kept() -> None:
    student, teacher = small("llama"), teacher_of("llama")
    sampler = mixed(student, teacher)
    assert isinstance(sampler, Sampler)
    student.model.train()
    first = listed(sampler.sample(student.sources * 9, seed=1))
    assert student.model.training and not teacher.model.training
    assert listed(sampler.sample(student.sources * 9, seed=1)) == first
    with torch.no_grad():
        student.model.get_output_embeddings().weight.mul_(-1.0)
    sampler.refresh()
    assert listed(sampler.sample(student.sources * 9, seed=1)) != first


def test_impossible_mixtures_are_refused() -> None:
    student, teacher = small("llama"), teacher_of("llama")
    with pytest.raises(RecipeError, match=r"teacher_fraction must lie in \[0, 1\], got 1.5"):
        mixed(student, teacher, share=1.5)
    with pytest.raises(RecipeError, match="mode: sample"):
        mixed(student, teacher, Decoding(mode="beam", beam_size=1))
    with pytest.raises(ModelError, match="The student must score the 6 symbols"):
        mixed(student, teacher, size=6)
