"""What explains a system's quality: each column against its definition, or against itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import sacrebleu
from tests.evaluation.test_systems import (
    BAD,
    EXAMPLES,
    GOOD,
    REFERENCES,
    SETTINGS,
    TOKENIZER,
    FixedGenerator,
    fixed,
    result,
    system,
)

from seqdistill.evaluation import analyses
from seqdistill.evaluation.likelihood import ReferencePredictions
from seqdistill.evaluation.settings import EvaluationSettings, measured
from seqdistill.evaluation.systems import evaluate_outputs, evaluate_system
from seqdistill.generation.decoding import Hypothesis
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.metrics.likelihood import perplexity_statistics
from seqdistill.recipe.schema import EvaluationSection
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import Sampled, Value, number

ERRORS = dataclasses.replace(SETTINGS, metrics=("token_error_rate",))


class GreedyOrBeam:
    """Two generators: one for greedy decoding, one for beam search."""

    def __init__(self, greedy: FixedGenerator, beam: FixedGenerator) -> None:
        self._greedy, self._beam = greedy, beam

    def generate(self, sources: Any, decoding: Decoding, **given: Any) -> list[list[Hypothesis]]:
        chosen = self._greedy if decoding.beam_size == 1 else self._beam
        return chosen.generate(sources, decoding, **given)


def predictions(
    target_ids: list[tuple[int, ...]], nats: float, top_ids: list[list[int]]
) -> ReferencePredictions:
    shaped = [np.full(len(ids), nats) for ids in target_ids]
    return ReferencePredictions(
        tuple(target_ids), tuple(shaped), tuple(shaped), tuple(np.asarray(ids) for ids in top_ids)
    )


def ends(value: Value | None) -> tuple[float, float, float]:
    """Low, value, high, all of which must have been measured and lie in this order."""
    assert value is not None and value.value is not None
    assert value.low is not None and value.high is not None
    assert value.low <= value.value <= value.high
    return value.low, value.value, value.high


@pytest.mark.parametrize("settings", [SETTINGS, ERRORS])
def test_the_gap_is_what_beam_search_gains_whichever_way_the_metric_counts(
    settings: EvaluationSettings,
) -> None:
    name = settings.main_metric.name
    decodes = GreedyOrBeam(greedy=fixed(BAD), beam=fixed(GOOD))
    row = evaluate_outputs(system(decodes), REFERENCES, settings, teacher=None).row
    _, gap, _ = ends(row.greedy_beam_gap)
    assert gap > 0.0, "beam search is better here"
    assert gap == pytest.approx(abs((row.score(name) or 0) - (row.score(name, "greedy") or 0)))
    alike = evaluate_outputs(system(fixed(GOOD)), REFERENCES, settings, teacher=None).row
    assert ends(alike.greedy_beam_gap) == (0.0, 0.0, 0.0)


def test_lengths_count_tokens_of_outputs_and_references_ends_included() -> None:
    row = result(GOOD, "seq_kd").row
    lengths = [len(TOKENIZER(text).input_ids) for text in GOOD]
    references = [len(example.target_ids) for example in EXAMPLES]
    for decoded in (row.greedy, row.beam):
        assert decoded.length == pytest.approx(sum(lengths) / 4)
        assert decoded.length_ratio == pytest.approx(sum(lengths) / sum(references))
    assert result(REFERENCES, "seq_kd").row.beam.length_ratio == 1.0


def test_mode_share_has_an_interval_around_the_mean_of_its_sentences() -> None:
    shares = [0.1, 0.2, 0.5, 0.8]
    best = [Hypothesis((5, 2), math.log(share), True) for share in shares]
    low, value, high = ends(analyses.mode_share(best, SETTINGS))
    assert value == pytest.approx(0.4)
    assert 0.1 <= low < 0.4 < high <= 0.8
    assert analyses.mode_share([best[0], None], SETTINGS).value == pytest.approx(0.05)


def test_perplexity_and_entropy_are_per_token_with_intervals() -> None:
    found = predictions([(4, 2), (5, 6, 2)], math.log(3.0), [[4, 2], [5, 6, 2]])
    fields = analyses.predicted(found, SETTINGS)
    assert ends(fields["perplexity"])[1] == pytest.approx(3.0)
    assert ends(fields["entropy_nats"])[1] == pytest.approx(math.log(3.0))
    assert ends(fields["loss_nats"])[1] == pytest.approx(math.log(3.0))
    # An impossible reference has no number and no interval.
    statistics = perplexity_statistics([1.0, math.inf], [1, 1])
    assert measured(statistics, SETTINGS) == Value()


def test_agreement_is_the_fraction_of_positions_with_the_same_likeliest_token() -> None:
    targets = [(4, 2), (5, 6, 2)]
    own = predictions(targets, 1.0, [[4, 2], [5, 7, 2]])
    teacher = predictions(targets, 2.0, [[4, 9], [5, 6, 2]])
    assert ends(analyses.token_agreement(own, teacher, SETTINGS))[1] == pytest.approx(3 / 5)
    assert ends(analyses.token_agreement(own, own, SETTINGS))[1] == 1.0
    other = predictions([(4, 5, 2)], 1.0, [[4, 5, 2]])
    assert analyses.token_agreement(own, other, SETTINGS) is None, "other tokens: no agreement"


def test_a_student_is_compared_with_its_teachers_outputs_not_the_references() -> None:
    teacher, outputs = result(BAD, "teacher"), [*BAD[:2], *GOOD[2:]]
    assert teacher.row.agreement_top1 is teacher.row.to_teacher is None
    row = evaluate_system(system(fixed(outputs)), REFERENCES, SETTINGS, teacher=teacher).row
    expected = corpus_metrics()["bleu"].statistics(outputs, BAD).score().value
    assert ends(row.to_teacher)[1] == pytest.approx(expected)
    assert row.exact_match_to_teacher == 0.5
    assert ends(row.agreement_top1)[1] == 1.0, "both are the same model here"
    kept = "it keeps"  # less than half of its teacher's score
    for texts, its, is_fault in ((BAD, GOOD, True), (GOOD, BAD, False)):
        by = result(its, "teacher")
        row = evaluate_system(system(fixed(texts)), REFERENCES, SETTINGS, teacher=by).row
        assert any(kept in fault for fault in row.faults) == is_fault


def test_a_teachers_output_without_an_answer_is_left_out_of_the_agreement() -> None:
    assert analyses.agreement_with_outputs(GOOD, [""] * 4, ERRORS) == (None, None)
    settings = dataclasses.replace(ERRORS, metrics=("answer_accuracy",))
    texts = ["so #### 3", "so #### 4", "so #### 5"]
    theirs = ["#### 3", "no idea", "#### 6"]
    score, exact = analyses.agreement_with_outputs(texts, theirs, settings)
    assert (ends(score)[1], exact) == (50.0, 0.0)
    assert analyses.agreement_with_outputs(texts, ["who knows"] * 3, settings) == (None, 0.0)


def test_the_entropy_curve_begins_with_every_reference_and_averages_to_the_entropy() -> None:
    own = result(GOOD, "seq_kd")
    assert own.predictions is not None
    curve = analyses.entropy_curve(own.predictions)
    assert curve.counts[0] == len(EXAMPLES)
    weighted = sum(n * h for n, h in zip(curve.counts, curve.entropy_nats, strict=True))
    assert weighted / sum(curve.counts) == pytest.approx(ends(own.row.entropy_nats)[1])


FEW = EXAMPLES[:2]
SAMPLING = EvaluationSettings(
    EvaluationSection(
        max_new_tokens=30,
        bootstrap_resamples=50,
        sampling_temperatures=(0.5, 1.0),
        samples_per_source=2,
    ),
    metrics=("bleu", "token_error_rate"),
)


def writes(groups: list[list[str]], *, finished: bool = True) -> FixedGenerator:
    return FixedGenerator(
        {
            example.source_ids: [
                Hypothesis(tuple(TOKENIZER(text).input_ids), -1.0, finished) for text in group
            ]
            for example, group in zip(FEW, groups, strict=True)
        }
    )


def scores(groups: list[list[str]], *, finished: bool = True) -> tuple[Sampled, ...]:
    found = analyses.sampled_outputs(writes(groups, finished=finished), FEW, TOKENIZER, SAMPLING)
    return analyses.sampled_scores(found, REFERENCES[:2], SAMPLING)


def test_each_temperature_is_asked_for_from_the_whole_distribution() -> None:
    generator = writes([[REFERENCES[0]] * 2, [REFERENCES[1]] * 2])
    analyses.sampled_outputs(generator, FEW, TOKENIZER, SAMPLING)
    asked = [decoding for _, decoding in generator.asked]
    assert asked == [
        Decoding(mode="sample", n_best=2, sampling_temperature=t, max_new_tokens=30)
        for t in (0.5, 1.0)
    ]
    assert all((decoding.top_k, decoding.top_p) == (0, 1.0) for decoding in asked)


def test_a_score_is_of_all_samples_together() -> None:
    groups = [
        ["the cat sat on a mat today", "a cat"],
        ["a dog ran over the green hill", "the dog ran"],
    ]
    found = scores(groups)
    every = [text for group in groups for text in group]
    doubled = [reference for reference in REFERENCES[:2] for _ in range(2)]
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
