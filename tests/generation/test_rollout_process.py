"""A process of its own that writes: as a sampler here would, whatever happens to it."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator

import pytest
import torch
from tests.jobs import naive
from tests.tiny import character_tokenizer, random_examples, tiny_model

from seqdistill.core.errors import RecipeError, UserError
from seqdistill.generation.following_difficulty import following_difficulty
from seqdistill.generation.rollout_process import RolloutProcess, Writer
from seqdistill.generation.sampling import Sampler, TransformersSampler
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import Decoding

SOURCES = [example.source_ids for example in random_examples(6)]
DECODING = Decoding(mode="sample", max_new_tokens=6)
WEIGHTS = 40
"""Symbols that both models know."""


def pair(kind: str, seed: int) -> LoadedModel:
    tokenizer = character_tokenizer(closes=kind == "mbart")
    return LoadedModel(tiny_model(kind, seed=seed), tokenizer, kind)


def sampler(student: LoadedModel) -> Sampler:
    return TransformersSampler(
        student.model, student.tokenizer, kind=student.kind, decoding=DECODING
    )


def broken(how: str, student: LoadedModel) -> Sampler:
    if how == "dies":
        os._exit(3)
    raise RecipeError("top_p must be that; lower it")


def process_of(kind: str, make: object = sampler, *, teacher: bool = False) -> RolloutProcess:
    return RolloutProcess(
        Writer(
            pair(kind, 1),
            make,  # type: ignore[arg-type]
            device="cpu",
            teacher=pair(kind, 3) if teacher else None,
        ),
        threads=1,
    )


@pytest.fixture(params=["mbart", "llama"])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_it_writes_what_a_sampler_with_the_copied_weights_does(kind: str) -> None:
    process, live = process_of(kind), pair(kind, 7)
    for _ in range(2):
        process.sync(live.model)
        process.ask(SOURCES, seed=11)
        expected = sampler(live).sample(SOURCES, seed=11)
        with torch.no_grad():  # training goes on meanwhile
            for weight in live.model.parameters():
                weight += 0.05
        found = process.answer()
        assert found.completions.rows() == expected.rows()
        assert torch.equal(found.completions.finished, expected.finished)
        assert found.difficulty_gaps is None and found.seconds > 0.0
    process.close()


def test_gaps_are_the_students_following_difficulty_less_the_teachers(kind: str) -> None:
    process, live, teacher = process_of(kind, teacher=True), pair(kind, 7), pair(kind, 3)
    process.sync(live.model)
    process.ask(SOURCES, seed=2)
    found = process.answer()
    process.close()
    start = live.tokenizer.bos_token_id if kind == "llama" else live.tokenizer.eos_token_id

    def difficulty(of: LoadedModel, source: tuple[int, ...], target: tuple[int, ...]) -> float:
        nats = [
            -sum(naive.log_probs(naive.plain_logits(of.model, given, target), target))
            for given in (source, (start,))
        ]
        return float(nats[0] / nats[1])

    expected = [
        difficulty(live, source, target) - difficulty(teacher, source, target)
        for source, target in zip(SOURCES, found.completions.rows(), strict=True)
    ]
    assert found.difficulty_gaps == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_model_that_is_wholly_sure_without_a_prompt_has_a_difficulty() -> None:
    sure = pair("llama", 7)
    sure.model.get_parameter("model.norm.weight").data *= 1e5
    nothing = (sure.tokenizer.bos_token_id,)
    answer = (int(naive.plain_logits(sure.model, nothing, (0,))[-1].argmax()),)
    alike, surprised = following_difficulty(sure, [nothing, SOURCES[0]], [answer, answer])
    assert alike == 1.0 < surprised < float("inf")


def test_one_that_is_killed_is_started_again_and_writes_the_same() -> None:
    process, live = process_of("llama"), pair("llama", 7)
    process.sync(live.model)
    process.ask(SOURCES, seed=11)
    before = process.answer().completions.rows()
    assert process.process_id is not None
    process.ask(SOURCES, seed=11)
    os.kill(process.process_id, signal.SIGKILL)
    assert process.answer().completions.rows() == before
    os.kill(process.process_id, signal.SIGKILL)  # while it waits
    process.ask(SOURCES, seed=11)
    assert process.answer().completions.rows() == before
    assert process.restarts == 2
    process.close()


@pytest.mark.parametrize(
    ("how", "match"), [("dies", r"died 3 times .*exit code 3"), ("refuses", r"top_p must be that")]
)
def test_what_it_cannot_do_is_the_trainers_error(how: str, match: str) -> None:
    process = process_of("llama", functools.partial(broken, how))
    process.sync(pair("llama", 7).model)
    process.ask(SOURCES, seed=1)
    with pytest.raises(UserError, match=match):
        process.answer()
    process.close()
