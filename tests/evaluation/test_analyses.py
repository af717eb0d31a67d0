"""What explains a system's quality: each column against its definition, or against itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from tests.evaluation.fixed import FixedGenerator
from tests.evaluation.test_systems import (
    BAD,
    EXAMPLES,
    GOOD,
    REFERENCES,
    SETTINGS,
    TOKENIZER,
    fixed,
    result,
    system,
)

from seqdistill.evaluation import analyses
from seqdistill.evaluation.likelihood import ReferencePredictions
from seqdistill.evaluation.settings import EvaluationSettings, measured
from seqdistill.evaluation.systems import evaluate_outputs, evaluate_system
from seqdistill.generation.decoding import Decoding, Hypothesis
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.metrics.likelihood import perplexity_statistics
from seqdistill.records.results import Value

ERRORS = EvaluationSettings(
    metrics=("token_error_rate",),
    beam_size=3,
    length_penalty=0.0,
    max_new_tokens=12,
    bootstrap_resamples=60,
    confidence=0.9,
    seed=1,
)


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


def test_a_system_that_does_not_need_beam_search_has_no_gap() -> None:
    assert ends(result(GOOD, "seq_kd").row.greedy_beam_gap) == (0.0, 0.0, 0.0)


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


def test_an_impossible_reference_has_no_number_and_no_interval() -> None:
    statistics = perplexity_statistics([1.0, math.inf], [1, 1])
    assert measured(statistics, SETTINGS) == Value()


def test_agreement_is_the_fraction_of_positions_with_the_same_likeliest_token() -> None:
    targets = [(4, 2), (5, 6, 2)]
    own = predictions(targets, 1.0, [[4, 2], [5, 7, 2]])
    teacher = predictions(targets, 2.0, [[4, 9], [5, 6, 2]])
    assert ends(analyses.token_agreement(own, teacher, SETTINGS))[1] == pytest.approx(3 / 5)
    assert ends(analyses.token_agreement(own, own, SETTINGS))[1] == 1.0


def test_other_tokens_do_not_correspond_so_there_is_no_agreement() -> None:
    own = predictions([(4, 2)], 1.0, [[4, 2]])
    teacher = predictions([(4, 5, 2)], 1.0, [[4, 5, 2]])
    assert analyses.token_agreement(own, teacher, SETTINGS) is None


def test_a_student_is_compared_with_its_teachers_outputs_not_the_references() -> None:
    teacher, outputs = result(BAD, "teacher"), [*BAD[:2], *GOOD[2:]]
    assert teacher.row.agreement_top1 is teacher.row.to_teacher is None
    row = evaluate_system(system(fixed(outputs)), REFERENCES, SETTINGS, teacher=teacher).row
    expected = corpus_metrics()["bleu"].statistics(outputs, BAD).score().value
    assert ends(row.to_teacher)[1] == pytest.approx(expected)
    assert row.exact_match_to_teacher == 0.5
    assert ends(row.agreement_top1)[1] == 1.0, "both are the same model here"


def test_a_teacher_that_says_nothing_cannot_be_agreed_with() -> None:
    assert analyses.agreement_with_outputs(GOOD, [""] * 4, ERRORS) == (None, None)


def test_a_teachers_output_without_an_answer_is_left_out_of_the_agreement() -> None:
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
