"""A system's row of numbers and its paired tests, with scripted and with real generators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import sacrebleu
import torch
from tests.tiny import EOS, character_tokenizer, collator, tiny_adapter, tiny_model
from transformers import PreTrainedTokenizerBase

from seqdistill.compression.pruning import prune
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.data.text_encoding import encode
from seqdistill.evaluation.dev import DevScorer, GeneratorFactory, best_of, texts_of
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.evaluation.systems import (
    SystemResult,
    SystemUnderTest,
    compare_systems,
    evaluate_system,
)
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.metrics.error_rates import sequence_error_rate, token_error_rate
from seqdistill.models.adapters import SequenceModel
from seqdistill.recipe.schema import EvaluationSection
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import START, number

Source = tuple[int, ...]


class FixedGenerator:
    """Answers each source with the hypotheses listed for it."""

    def __init__(self, answers: Mapping[Source, list[Hypothesis]]) -> None:
        self._answers = answers
        self.asked: list[tuple[list[Source], Decoding]] = []

    def generate(
        self,
        sources: Sequence[Any],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        keys = [tuple(source) for source in sources]
        self.asked.append((keys, decoding))
        return [self._answers[key] for key in keys]


def says(
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[Source, str],
    *,
    log_prob: float = -1.0,
    finished: bool = True,
) -> FixedGenerator:
    """A generator whose one hypothesis for each source is that text."""
    return FixedGenerator(
        {
            source: [Hypothesis(tuple(tokenizer(text).input_ids), log_prob, finished)]
            for source, text in texts.items()
        }
    )


SETTINGS = EvaluationSettings(
    EvaluationSection(
        beam_size=3, length_penalty=0.0, max_new_tokens=12, bootstrap_resamples=60, confidence=0.9
    ),
    metrics=("bleu", "chrf"),
)
TOKENIZER = character_tokenizer()
REFERENCES = [
    "the cat sat on the mat today",
    "a dog ran over the green hill",
    "we like small and quick models",
    "this is the last of the lines",
]
TEXTS = [Example(str(i), f"source {'abcd'[i]}", text) for i, text in enumerate(REFERENCES)]
EXAMPLES = encode(TEXTS, TOKENIZER, "seq2seq")
GOOD = ["the cat sat on the mat", "a dog ran over the hill", "we like quick models", "no"]
BAD = ["cat", "the hill", "models models models", "this is the"]


def fixed(texts: list[str], *, log_prob: float = -1.0, finished: bool = True) -> FixedGenerator:
    answers = {e.source_ids: text for e, text in zip(EXAMPLES, texts, strict=True)}
    return says(TOKENIZER, answers, log_prob=log_prob, finished=finished)


def system(generator: SequenceGenerator, *, name: str = "word_kd") -> SystemUnderTest:
    return SystemUnderTest(
        name=name,
        method=name,
        init="scratch",
        bytes=1234,
        engine="transformers float32",
        model=tiny_adapter("mbart"),
        tokenizer=TOKENIZER,
        generator=generator,
        examples=EXAMPLES,
        collator=collator("seq2seq"),
    )


def result(texts: list[str], name: str) -> SystemResult:
    return evaluate_system(system(fixed(texts), name=name), REFERENCES, SETTINGS, teacher=None)


def test_scores_are_sacrebleus_with_intervals_and_signatures() -> None:
    row = result(GOOD, "word_kd").row
    bleu = sacrebleu.corpus_bleu(GOOD, [REFERENCES]).score
    score = row.beam.scores["bleu"]
    assert score.value == row.score("bleu", "greedy") == pytest.approx(bleu)
    assert row.score("chrf") == pytest.approx(sacrebleu.corpus_chrf(GOOD, [REFERENCES]).score)
    assert score.low is not None and score.high is not None
    assert score.low < bleu < score.high
    assert "version:" in score.signature and "nc:" in row.beam.scores["chrf"].signature


def test_the_chosen_metrics_and_no_others_are_scored_greedy_and_by_beam() -> None:
    metrics = ("sequence_error_rate", "token_error_rate")
    settings = dataclasses.replace(SETTINGS, metrics=metrics)
    row = evaluate_system(system(fixed(GOOD)), REFERENCES, settings, teacher=None).row
    assert tuple(row.beam.scores) == tuple(row.greedy.scores) == metrics, "the main metric is first"
    for name, statistics in zip(metrics, (sequence_error_rate, token_error_rate), strict=True):
        value = statistics(GOOD, REFERENCES).score().value
        assert row.score(name, "greedy") == row.score(name) == value


def test_weights_that_are_not_zero_are_counted_tied_ones_once() -> None:
    pruned = system(fixed(GOOD))
    prune(pruned.model.module, pruned_share=0.9, scheme="class_blind")
    row = evaluate_system(pruned, REFERENCES, SETTINGS, teacher=None).row
    values = torch.cat([parameter.flatten() for parameter in set(pruned.model.parameters())])
    assert row.nonzero == int((values != 0).sum())
    assert row.density == pytest.approx(float((values != 0).double().mean()))
    assert 0.1 < float((values != 0).double().mean()) < 0.2  # biases and norms are never pruned


def test_outputs_without_an_end_or_without_text_have_no_mass_and_are_faults() -> None:
    found = evaluate_system(
        system(fixed(GOOD, log_prob=0.0, finished=False)), REFERENCES, SETTINGS, teacher=None
    )
    assert number(found.row.mode_share) == 0.0
    assert found.row.unfinished == 4
    assert list(found.beam.texts) == GOOD
    assert "4 of 4 outputs have no end" in found.row.faults
    answers: dict[tuple[int, ...], list[Hypothesis]] = {e.source_ids: [] for e in EXAMPLES}
    found = evaluate_system(system(FixedGenerator(answers)), REFERENCES, SETTINGS, teacher=None)
    assert found.beam.texts == ("", "", "", "")
    assert (number(found.row.mode_share), found.row.score("bleu")) == (0.0, 0.0)
    assert (found.row.unfinished, found.row.empty) == (4, 4)
    started = dataclasses.replace(system(FixedGenerator(answers)), method=START)
    assert evaluate_system(started, REFERENCES, SETTINGS, teacher=None).row.faults == ()


def test_mode_share_is_the_live_models_own_probability_of_its_beam_output() -> None:
    model = tiny_model("mbart", vocab_size=len(TOKENIZER))
    model.final_logits_bias[0, EOS] += 4.0  # so that outputs end
    generator = TransformersGenerator(model, TOKENIZER, kind="seq2seq")
    under_test = dataclasses.replace(system(generator), model=SequenceModel(model))
    row = evaluate_system(under_test, REFERENCES, SETTINGS, teacher=None).row
    shares = []
    for example in EXAMPLES:
        ((best, *_),) = generator.generate([example.source_ids], SETTINGS.beam)
        read = torch.tensor([[EOS, *best.token_ids[:-1]]])
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([example.source_ids]), decoder_input_ids=read
            ).logits[0]
        log_probs = logits.double().log_softmax(-1)
        total = sum(log_probs[t, token].item() for t, token in enumerate(best.token_ids))
        shares.append(math.exp(total) if best.token_ids[-1] == EOS else 0.0)
    assert number(row.mode_share) == pytest.approx(sum(shares) / len(shares), rel=1e-3)
    assert sum(shares) > 0.0, "at least one output must end for this test to say something"


def test_a_comparison_has_the_sign_of_the_difference_and_names_both() -> None:
    good, bad = result(GOOD, "word_kd"), result(BAD, "baseline")
    for test, mirrored in zip(
        compare_systems(good, bad, SETTINGS), compare_systems(bad, good, SETTINGS), strict=True
    ):
        assert (test.system, test.versus) == ("word_kd", "baseline")
        assert test.delta > 0.0
        assert mirrored.delta == pytest.approx(-test.delta)
        assert 0.0 < test.p_value <= 1.0
        assert "60 trials" in test.test


def dev_scorer(make: GeneratorFactory, *, chooses: str = "loss_nats") -> DevScorer:
    return DevScorer(
        examples=EXAMPLES,
        references=REFERENCES,
        tokenizer=TOKENIZER,
        generator=make,
        metrics=("bleu", "chrf", "token_error_rate"),
        loss=lambda examples: TokenSum(torch.tensor(5.0), torch.tensor(2.0)),
        max_new_tokens=9,
        chooses=chooses,
    )


def test_dev_scores_are_greedy_and_of_the_best_hypothesis() -> None:
    generator = fixed(GOOD)
    asked: list[object] = []

    def make(model: object) -> SequenceGenerator:
        asked.append(model)
        return generator

    model = tiny_model("mbart")
    found = dev_scorer(make)(model)
    assert asked == [model], "each scoring must use the model's present weights"
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(GOOD, [REFERENCES]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(GOOD, [REFERENCES]).score)
    assert found["loss_nats"] == 2.5
    assert found["token_error_rate"] == token_error_rate(GOOD, REFERENCES).score().value
    assert generator.asked[0][1] == Decoding(beam_size=1, max_new_tokens=9)


@pytest.mark.parametrize(
    ("written", "chooses", "advice"),
    [
        # Single characters share no run of four words: BLEU is 0, chrF is not.
        (["the cat"] * 4, "bleu", "training.eval_metric=chrf"),
        (["zzz"] * 4, "bleu", "training.eval_metric=loss"),
        (GOOD, "bleu", None),
        (["the cat"] * 4, "chrf", None),
        (["zzz"] * 4, "loss_nats", None),
        (REFERENCES, "token_error_rate", None),  # no errors are no fault
    ],
)
def test_a_choice_by_zeros_is_warned_of_once_and_what_would_tell_is_named(
    written: list[str], chooses: str, advice: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    generator, model = fixed(written), tiny_model("mbart")
    score = dev_scorer(lambda _model: generator, chooses=chooses)
    score(model)
    assert caplog.text == ""
    for _ in range(3):
        score(model)
    warnings = [record.getMessage() for record in caplog.records]
    assert [advice in warning for warning in warnings if advice] == ([True] if advice else [])
    assert len(warnings) == (advice is not None)


def test_best_texts_keep_the_order_and_drop_special_tokens() -> None:
    first, second = EncodedExample("1", (5, EOS), ()), EncodedExample("2", (6, EOS), ())
    ids = tuple(TOKENIZER("a cat").input_ids)
    answers: dict[tuple[int, ...], list[Hypothesis]] = {
        (5, EOS): [Hypothesis(ids, -1.0, True), Hypothesis((7, EOS), -2.0, True)],
        (6, EOS): [],
    }
    best = best_of(FixedGenerator(answers), [second, first], Decoding())
    assert texts_of(best, TOKENIZER) == ["", "a cat"]
