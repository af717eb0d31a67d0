"""Columns of outputs with a calculator: right results, for decoder-only models, when asked for."""

from __future__ import annotations

import dataclasses

import pytest
from tests.evaluation.fixed import FixedGenerator
from tests.evaluation.test_sampled import SETTINGS, TOKENIZER
from tests.tiny import EOS

from seqdistill.core.errors import RecipeError
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation import calculated
from seqdistill.generation.calculator import CalculatedOutput

EXAMPLES = [EncodedExample("1", (5,), (6, EOS)), EncodedExample("2", (7,), (6, EOS))]
REFERENCES = ["<<3*4=12>> #### 12", "<<1+1=2>> #### 2"]
ASKED = dataclasses.replace(SETTINGS, metrics=("answer_accuracy",), calculator=True)


def test_the_outputs_with_a_calculator_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [
        CalculatedOutput((1,), "<<3*4=12>> #### 12", True, 1),
        CalculatedOutput((1,), "<<1+1=2>> #### 3", True, 0),
    ]
    monkeypatch.setattr(calculated, "greedy_with_calculator", lambda *_, **__: outputs)
    found = calculated.calculated(
        FixedGenerator({}), EXAMPLES, TOKENIZER, REFERENCES, ASKED, kind="causal"
    )
    assert found is not None
    assert found.scores["answer_accuracy"].value == 50.0
    assert found.scores["answer_accuracy"].low is not None
    assert found.corrections_per_output == 0.5


def test_nothing_is_calculated_unasked_or_for_an_encoder_decoder() -> None:
    unasked = dataclasses.replace(ASKED, calculator=False)
    given = (FixedGenerator({}), EXAMPLES, TOKENIZER, REFERENCES)
    assert calculated.calculated(*given, unasked, kind="seq2seq") is None
    with pytest.raises(RecipeError, match=r"decoder-only"):
        calculated.calculated(*given, ASKED, kind="seq2seq")
