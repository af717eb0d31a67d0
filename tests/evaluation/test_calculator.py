"""The calculator: a scripted model that computes wrongly, and a tiny real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.evaluation.test_systems import TOKENIZER, FixedGenerator
from tests.tiny import EOS, character_tokenizer
from transformers import PreTrainedTokenizerFast

from seqdistill.core.errors import RecipeError
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation import calculator
from seqdistill.evaluation.calculator import (
    CalculatedOutput,
    calculated,
    first_correction,
    greedy_with_calculator,
)
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.recipe.schema import EvaluationSection
from seqdistill.recipe.sequences_schema import Decoding

SIGNS = [*"0123456789", *"<>=+-*/()#"]
GREEDY = Decoding(beam_size=1, max_new_tokens=200)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer(closes=False, extra=SIGNS)


class ScriptedGenerator:
    """Writes, after a beginning, what its rule says the whole text is."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, whole: Callable[[str], str]) -> None:
        self._tokenizer = tokenizer
        self._whole = whole
        self.calls: list[tuple[int, int]] = []

    def generate(
        self,
        sources: Sequence[Any],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        self.calls.append((len(sources), decoding.max_new_tokens))
        return [[self._one(source, decoding.max_new_tokens)] for source in sources]

    def _one(self, source: Sequence[int], room: int) -> Hypothesis:
        begun = self._tokenizer.decode(list(source)).removeprefix("q:")
        whole = self._whole(begun)
        assert whole.startswith(begun)
        rest = self._tokenizer(whole[len(begun) :], add_special_tokens=False).input_ids
        ids = (*rest, EOS)[:room]
        return Hypothesis(tuple(ids), 0.0, finished=ids[-1] == EOS)


def prompt(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    ids: list[int] = tokenizer("q:", add_special_tokens=False).input_ids
    return ids


def off_by_one(begun: str) -> str:
    """Adds one to what it computes last: 3*4=13, and goes on with what stands there."""
    if ">>" not in begun:
        return "so <<3*4=13>> a. <<13+1=15>> #15"
    result = begun.rsplit("=", 1)[1].removesuffix(">>")
    if begun.count(">>") == 1:
        return f"{begun} a. <<{result}+1={int(result) + 2}>> #{int(result) + 2}"
    return f"{begun} #{result}"


def test_later_steps_start_from_the_right_result(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = ScriptedGenerator(tokenizer, off_by_one)
    assert isinstance(generator, SequenceGenerator)
    (found,) = greedy_with_calculator(generator, [prompt(tokenizer)], GREEDY, tokenizer=tokenizer)
    assert found.text == "so <<3*4=12>> a. <<12+1=13>> #13"
    assert (found.num_corrections, found.finished) == (2, True)
    assert found.token_ids[-1] == EOS
    assert tokenizer.decode(list(found.token_ids), skip_special_tokens=True) == found.text
    assert len(generator.calls) == 3


def test_a_right_output_is_the_plain_greedy_one(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = ScriptedGenerator(tokenizer, lambda begun: "a <<3*4=12>> b <<1/3=0.33>> #12")
    prompts = [prompt(tokenizer)] * 3
    plain = generator.generate(prompts, GREEDY)
    found = greedy_with_calculator(generator, prompts, GREEDY, tokenizer=tokenizer)
    assert [output.token_ids for output in found] == [best.token_ids for (best,) in plain]
    assert all(output.num_corrections == 0 for output in found)
    assert len(generator.calls) == 2, "one call for all prompts, and no second round"


def test_nothing_grows_beyond_the_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    for limit in range(1, 34):
        decoding = Decoding(beam_size=1, max_new_tokens=limit)
        generator = ScriptedGenerator(tokenizer, off_by_one)
        (found,) = greedy_with_calculator(
            generator, [prompt(tokenizer)], decoding, tokenizer=tokenizer
        )
        assert len(found.token_ids) <= limit
        assert first_correction(found.text) is None
        assert found.finished == (limit == 33)
        rooms = [room for _, room in generator.calls]
        # 13 and 28 tokens are there when the first and the second result have been put right.
        assert rooms == [limit - used for used in (0, 13, 28)[: len(rooms)]]


def test_an_endless_calculation_is_left_after_so_many_rounds(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    generator = ScriptedGenerator(tokenizer, lambda begun: begun + "<<1+1=3>>")
    decoding = Decoding(beam_size=1, max_new_tokens=2000)
    (found,) = greedy_with_calculator(generator, [prompt(tokenizer)], decoding, tokenizer=tokenizer)
    assert found.num_corrections == calculator.MAX_ROUNDS
    assert found.text == "<<1+1=2>>" * calculator.MAX_ROUNDS + "<<1+1=3>>"
    assert "1 of 1 outputs keep a wrong step" in caplog.text


@pytest.mark.parametrize(
    ("text", "corrected"),
    [
        ("<<3*4=12>>", None),
        ("<<3*4=12.0>>", None),
        ("<<3*4=13>> and more", "<<3*4=12>>"),
        ("<<3*4=$12>>", None),
        ("<<3/4=6/8>>", None),
        ("<<3*4=>>", "<<3*4=12>>"),
        ("<<3*4=1 2>>", "<<3*4=12>>"),
        ("<<3*4=3*4>>", "<<3*4=12>>"),
        ("<<1/4=0.5>>", "<<1/4=0.25>>"),
        ("<<10/3=3.333>>", None),
        ("<<10/3=3.3>>", "<<10/3=3.33>>"),
        ("<<10/3=3.4>>", "<<10/3=3.33>>"),
        ("<<2-5=3>>", "<<2-5=-3>>"),
        ("<<(1+2)*3=8>>", "<<(1+2)*3=9>>"),
        ("<<5/0=7>>", None),
        ("<<a+1=7>>", None),
        ("<<2**9=7>>", None),
        ("<<3*4=13", None),
        ("3*4=13", None),
        ("<<3*4=12=13>>", None),
        ("<<1+1=2>> <<2+2=5>> <<3+3=7>>", "<<1+1=2>> <<2+2=4>>"),
    ],
)
def test_the_first_wrong_step_is_put_right(text: str, corrected: str | None) -> None:
    found = first_correction(text)
    assert (None if found is None else "".join(found)) == corrected
    if found is not None:
        own, _ = found
        assert text.startswith(own)
        assert own.endswith("=")
        assert first_correction("".join(found)) is None


def test_a_result_that_cannot_be_spelled_is_left_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    poor = character_tokenizer(closes=False, extra=[sign for sign in SIGNS if sign != "2"])
    generator = ScriptedGenerator(poor, lambda begun: "<<3*4=13>>")
    (found,) = greedy_with_calculator(generator, [prompt(poor)], GREEDY, tokenizer=poor)
    assert found.text == "<<3*4=13>>"
    assert "cannot spell" in caplog.text


EXAMPLES = [EncodedExample("1", (5,), (6, EOS)), EncodedExample("2", (7,), (6, EOS))]
REFERENCES = ["<<3*4=12>> #### 12", "<<1+1=2>> #### 2"]
ASKED = EvaluationSettings(EvaluationSection(calculator=True), ("answer_accuracy",))


def test_the_outputs_with_a_calculator_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [
        CalculatedOutput((1,), text="<<3*4=12>> #### 12", num_corrections=1),
        CalculatedOutput((1,), text="<<1+1=2>> #### 3"),
    ]
    monkeypatch.setattr(calculator, "greedy_with_calculator", lambda *_, **__: outputs)
    given = (FixedGenerator({}), EXAMPLES, TOKENIZER, REFERENCES)
    found = calculated(*given, ASKED, kind="causal")
    assert found is not None
    score = found.scores["answer_accuracy"]
    assert (score.value, score.low is None, found.corrections_per_output) == (50.0, False, 0.5)
    unasked = EvaluationSettings(EvaluationSection(), ("answer_accuracy",))
    assert calculated(*given, unasked, kind="seq2seq") is None
    with pytest.raises(RecipeError, match="calculator must be left out"):
        calculated(*given, ASKED, kind="seq2seq")
