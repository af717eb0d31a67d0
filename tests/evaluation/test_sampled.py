"""Samples at each temperature: asked for as said, pooled over samples, diverse or not."""

from __future__ import annotations

import pytest
import sacrebleu
from tests.evaluation.fixed import FixedGenerator
from tests.tiny import EOS, character_tokenizer

from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.sampled import sampled_outputs, sampled_scores
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.generation.decoding import Decoding, Hypothesis
from seqdistill.recipe.schema import EvaluationSection
from seqdistill.records.results import Sampled, number

TOKENIZER = character_tokenizer()
REFERENCES = ["the cat sat on the mat", "a dog ran over the hill"]
SETTINGS = EvaluationSettings(
    EvaluationSection(
        max_new_tokens=30,
        bootstrap_resamples=50,
        sampling_temperatures=(0.5, 1.0),
        samples_per_source=2,
    ),
    metrics=("bleu", "token_error_rate"),
)
EXAMPLES = [EncodedExample("1", (5, EOS), (6, EOS)), EncodedExample("2", (7, EOS), (6, EOS))]


def writes(groups: list[list[str]], *, finished: bool = True) -> FixedGenerator:
    return FixedGenerator(
        {
            example.source_ids: [
                Hypothesis(tuple(TOKENIZER(text).input_ids), -1.0, finished) for text in group
            ]
            for example, group in zip(EXAMPLES, groups, strict=True)
        }
    )


def scores(groups: list[list[str]], *, finished: bool = True) -> tuple[Sampled, ...]:
    found = sampled_outputs(writes(groups, finished=finished), EXAMPLES, TOKENIZER, SETTINGS)
    return sampled_scores(found, REFERENCES, SETTINGS)


def test_each_temperature_is_asked_for_from_the_whole_distribution() -> None:
    generator = writes([[REFERENCES[0]] * 2, [REFERENCES[1]] * 2])
    sampled_outputs(generator, EXAMPLES, TOKENIZER, SETTINGS)
    asked = [decoding for _, decoding in generator.asked]
    assert asked == [
        Decoding(mode="sample", n_best=2, sampling_temperature=t, max_new_tokens=30)
        for t in (0.5, 1.0)
    ]
    assert all((decoding.top_k, decoding.top_p) == (0, 1.0) for decoding in asked)


def test_a_score_is_of_all_samples_together() -> None:
    groups = [["the cat sat on a mat", "a cat"], ["a dog ran over the hill", "the dog ran"]]
    found = scores(groups)
    every = [text for group in groups for text in group]
    doubled = [reference for reference in REFERENCES for _ in range(2)]
    expected = sacrebleu.corpus_bleu(every, [doubled]).score
    assert [at.temperature for at in found] == [0.5, 1.0]
    for at in found:
        score = at.scores["bleu"]
        assert score.value == pytest.approx(expected)
        assert score.low is not None and score.high is not None
        assert score.low <= expected <= score.high
        assert list(at.scores) == ["bleu", "token_error_rate"]


def test_equal_samples_are_as_alike_as_can_be_and_others_less() -> None:
    same = scores([[REFERENCES[0]] * 2, [REFERENCES[1]] * 2])[1]
    other = scores([[REFERENCES[0], "we like quick models"], [REFERENCES[1], "no such thing"]])[1]
    assert number(same.self_bleu) == pytest.approx(100.0)
    assert other.self_bleu is not None and other.self_bleu.value is not None
    assert other.self_bleu.value < 10.0


def test_samples_that_do_not_end_and_repeat_are_told() -> None:
    text = "go on and on go on and on go on and on"
    found = scores([[text, text], [text, text]], finished=False)[1]
    assert found.finished_fraction == 0.0
    assert (found.repetition or 0.0) > 0.4
