"""Samples at each temperature: asked for as said, pooled over samples, diverse or not."""

from __future__ import annotations

import dataclasses

import pytest
import sacrebleu
from tests.evaluation.fixed import FixedGenerator
from tests.tiny import EOS, character_tokenizer

from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.sampled import sampled_columns, sampled_outputs
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.generation.decoding import Decoding, Hypothesis

TOKENIZER = character_tokenizer()
REFERENCES = ["the cat sat on the mat", "a dog ran over the hill"]
SETTINGS = EvaluationSettings(
    metrics=("bleu", "token_error_rate"),
    beam_size=5,
    length_penalty=1.0,
    max_new_tokens=30,
    bootstrap_resamples=50,
    confidence=0.95,
    seed=1,
    sampling_temperatures=(0.5, 1.0),
    samples_per_source=2,
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


def columns(groups: list[list[str]], *, finished: bool = True) -> dict[str, object]:
    found = sampled_outputs(writes(groups, finished=finished), EXAMPLES, TOKENIZER, SETTINGS)
    return sampled_columns(found, REFERENCES, SETTINGS)


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
    found = columns(groups)
    every = [text for group in groups for text in group]
    doubled = [reference for reference in REFERENCES for _ in range(2)]
    expected = sacrebleu.corpus_bleu(every, [doubled]).score
    for suffix in ("sample_t0.5", "sample_t1"):
        assert found[f"bleu_{suffix}"] == pytest.approx(expected)
        low, high = found[f"bleu_{suffix}_low"], found[f"bleu_{suffix}_high"]
        assert isinstance(low, float) and isinstance(high, float)
        assert low <= expected <= high
        assert isinstance(found[f"token_error_rate_{suffix}"], float)


def test_equal_samples_are_as_alike_as_can_be_and_others_less() -> None:
    same = columns([[REFERENCES[0]] * 2, [REFERENCES[1]] * 2])
    other = columns([[REFERENCES[0], "we like quick models"], [REFERENCES[1], "no such thing"]])
    assert same["self_bleu_sample_t1"] == pytest.approx(100.0)
    assert isinstance(other["self_bleu_sample_t1"], float)
    assert other["self_bleu_sample_t1"] < 10.0


def test_samples_that_do_not_end_and_repeat_are_told() -> None:
    text = "go on and on go on and on go on and on"
    found = columns([[text, text], [text, text]], finished=False)
    assert found["finished_share_sample_t1"] == 0.0
    assert isinstance(found["repetition_sample_t1"], float)
    assert found["repetition_sample_t1"] > 0.4


def test_no_temperature_no_columns() -> None:
    settings = dataclasses.replace(SETTINGS, sampling_temperatures=())
    assert sampled_outputs(writes([["a"], ["b"]]), EXAMPLES, TOKENIZER, settings) == []
    assert sampled_columns([], REFERENCES, settings) == {}
