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
from seqdistill.evaluation.settings import EvaluationSettings, interval_columns
from seqdistill.evaluation.systems import (
    SystemResult,
    curves,
    evaluate_system,
    evaluate_translations,
)
from seqdistill.generation.decoding import Decoding, Hypothesis
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.likelihood import perplexity_statistics

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


def number(value: object) -> float:
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("settings", [SETTINGS, ERRORS])
def test_the_gap_is_what_beam_search_gains_whichever_way_the_metric_counts(
    settings: EvaluationSettings,
) -> None:
    metric = settings.main_metric
    found = evaluate_translations(
        system(GreedyOrBeam(greedy=fixed(BAD), beam=fixed(GOOD))),
        REFERENCES,
        settings,
        teacher=None,
    ).row
    gap = number(found["greedy_beam_gap"])
    assert gap > 0.0, "beam search is better here"
    by_rows = number(found[f"{metric.name}_beam"]) - number(found[f"{metric.name}_greedy"])
    assert gap == pytest.approx(abs(by_rows))
    low, high = number(found["greedy_beam_gap_low"]), number(found["greedy_beam_gap_high"])
    assert low <= gap <= high


def test_a_system_that_does_not_need_beam_search_has_no_gap() -> None:
    row = result(GOOD, "seq_kd").row
    assert [row[f"greedy_beam_gap{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]


def test_lengths_count_tokens_of_outputs_and_references_ends_included() -> None:
    row = result(GOOD, "seq_kd").row
    written = [len(TOKENIZER(text).input_ids) for text in GOOD]
    references = [len(example.target_ids) for example in EXAMPLES]
    for mode in ("greedy", "beam"):
        assert row[f"length_{mode}"] == pytest.approx(sum(written) / 4)
        assert row[f"length_ratio_{mode}"] == pytest.approx(sum(written) / sum(references))
    perfect = result(REFERENCES, "seq_kd").row
    assert perfect["length_ratio_beam"] == 1.0


def test_mode_share_has_an_interval_around_the_mean_of_its_sentences() -> None:
    shares = [0.1, 0.2, 0.5, 0.8]
    best = [Hypothesis((5, 2), math.log(share), True) for share in shares]
    row = analyses.mode_share_columns(best, SETTINGS)
    assert number(row["mode_share"]) == pytest.approx(0.4)
    assert 0.1 <= number(row["mode_share_low"]) < 0.4 < number(row["mode_share_high"]) <= 0.8
    half = analyses.mode_share_columns([best[0], None], SETTINGS)
    assert (half["mode_share"], half["unfinished"]) == (pytest.approx(0.05), 1)


def test_perplexity_and_entropy_are_per_token_and_surrounded_by_their_intervals() -> None:
    row = evaluate_system(system(fixed(GOOD)), REFERENCES, SETTINGS, teacher=None).row
    for key in ("perplexity", "entropy_nats"):
        assert number(row[f"{key}_low"]) <= number(row[key]) <= number(row[f"{key}_high"])
    found = predictions([(4, 2), (5, 6, 2)], math.log(3.0), [[4, 2], [5, 6, 2]])
    columns = analyses.prediction_columns(found, SETTINGS)
    assert number(columns["perplexity"]) == pytest.approx(3.0)
    assert number(columns["entropy_nats"]) == pytest.approx(math.log(3.0))


def test_an_impossible_reference_has_no_number_and_no_interval() -> None:
    statistics = perplexity_statistics([1.0, math.inf], [1, 1])
    assert interval_columns("perplexity", statistics, SETTINGS) == {
        "perplexity": None,
        "perplexity_low": None,
        "perplexity_high": None,
    }


def test_agreement_is_the_share_of_positions_with_the_same_likeliest_token() -> None:
    targets = [(4, 2), (5, 6, 2)]
    own = predictions(targets, 1.0, [[4, 2], [5, 7, 2]])
    teacher = predictions(targets, 2.0, [[4, 9], [5, 6, 2]])
    row = analyses.token_agreement_columns(own, teacher, SETTINGS)
    assert number(row["agreement_top1"]) == pytest.approx(3 / 5)
    assert analyses.token_agreement_columns(own, own, SETTINGS)["agreement_top1"] == 1.0


def test_other_tokens_do_not_correspond_so_there_is_no_agreement() -> None:
    own = predictions([(4, 2)], 1.0, [[4, 2]])
    teacher = predictions([(4, 5, 2)], 1.0, [[4, 5, 2]])
    assert analyses.token_agreement_columns(own, teacher, SETTINGS) == {"agreement_top1": None}


def test_a_student_is_held_against_its_teachers_outputs_not_the_references() -> None:
    teacher = result(BAD, "teacher")
    assert "agreement_top1" not in teacher.row
    row = evaluate_system(
        system(fixed([*BAD[:2], *GOOD[2:]])), REFERENCES, SETTINGS, teacher=teacher
    ).row
    outputs = [*BAD[:2], *GOOD[2:]]
    expected = CORPUS_METRICS["bleu"].statistics(outputs, BAD).score().value
    assert number(row["bleu_to_teacher"]) == pytest.approx(expected)
    low, high = number(row["bleu_to_teacher_low"]), number(row["bleu_to_teacher_high"])
    assert low <= expected <= high
    assert row["exact_match_to_teacher"] == 0.5
    assert row["agreement_top1"] == 1.0, "both are the same model here"


def test_a_teacher_that_says_nothing_cannot_be_agreed_with() -> None:
    assert analyses.output_agreement_columns(GOOD, [""] * 4, ERRORS) == {
        "token_error_rate_to_teacher": None,
        "exact_match_to_teacher": None,
    }


def test_a_teachers_output_without_an_answer_is_left_out_of_the_agreement() -> None:
    settings = dataclasses.replace(ERRORS, metrics=("answer_accuracy",))
    texts = ["so #### 3", "so #### 4", "so #### 5"]
    found = analyses.output_agreement_columns(texts, ["#### 3", "no idea", "#### 6"], settings)
    assert found["answer_accuracy_to_teacher"] == 50.0
    assert found["exact_match_to_teacher"] == 0.0
    none = analyses.output_agreement_columns(texts, ["who knows"] * 3, settings)
    assert none["answer_accuracy_to_teacher"] is None


def test_curves_stand_by_system_and_start_with_every_reference() -> None:
    own: SystemResult = result(GOOD, "seq_kd")
    outputs_alone = evaluate_translations(
        system(fixed(GOOD), name="copy"), REFERENCES, SETTINGS, teacher=None
    )
    found: Any = curves([own, outputs_alone])
    assert list(found["entropy_by_position"]) == ["seq_kd"]
    curve = found["entropy_by_position"]["seq_kd"]
    assert curve["counts"][0] == len(EXAMPLES)
    assert len(curve["counts"]) == len(curve["entropy_nats"])
    weighted = sum(n * h for n, h in zip(curve["counts"], curve["entropy_nats"], strict=True))
    assert weighted / sum(curve["counts"]) == pytest.approx(number(own.row["entropy_nats"]))
