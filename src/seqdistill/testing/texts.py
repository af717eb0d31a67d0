"""What every reward and every metric must satisfy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.metrics.rewards import reward_function

PROMPTS = ("what is 2 + 3?", "name a colour", "and the sum of 1 and 1 is?", "go on")
OUTPUTS = ("it is #### 5", "red, blue or green", "#### 3", "")
REFERENCES = ("it is #### 5", "red #### 1", "it is two #### 2", "on and on #### 4")


def check_reward(
    name: str,
    *,
    prompts: Sequence[str] = PROMPTS,
    completions: Sequence[str] = OUTPUTS,
    references: Sequence[str | None] = REFERENCES,
    **parameters: Any,
) -> None:
    """Runs the suite of the family on the registered reward with these parameters.

    Raises AssertionError for the first property that does not hold, and UserError for what is no
    list of finite numbers.
    """
    reward = reward_function(name, parameters=parameters)
    given: Any = [list(prompts), list(completions), list(references)]
    before = copy.deepcopy(given)
    values = list(reward(*given))
    assert len(values) == len(completions), "one number for each completion"
    assert np.isfinite(values).all(), "finite numbers"
    assert given == before, "the texts are left as they are"
    assert list(reward(*given)) == values, "the same again"
    reverse = list(reward(*(texts[::-1] for texts in given)))
    assert reverse == values[::-1], "a completion's reward does not depend on where it stands"
    for place, value in enumerate(values):
        (alone,) = reward(*(texts[place : place + 1] for texts in given))
        assert alone == value, "a completion's reward does not depend on the others"


def check_metric(
    name: str, *, outputs: Sequence[str] = OUTPUTS, references: Sequence[str] = REFERENCES
) -> None:
    """Runs the suite of the family on the registered metric.

    Raises AssertionError for the first property that does not hold, and UserError for what is
    neither statistics nor a list of finite numbers.
    """
    metric = corpus_metrics()[name]
    for text in references:
        assert metric.compares_with(text), f"{text!r} must be a reference: give others that are"
    found = metric.statistics(outputs, references)
    value = found.score().value
    assert np.isfinite(value), "a finite number"
    assert len(found.rows) == len(outputs), "one row for each output"
    again = metric.statistics(outputs, references)
    assert np.array_equal(found.rows, again.rows) and found.signature == again.signature, (
        "the same again"
    )
    reverse = metric.statistics(outputs[::-1], references[::-1])
    assert np.allclose(reverse.rows, found.rows[::-1]), "rows are their outputs' own"
    sums = sum(
        metric.statistics([o], [r]).rows.sum(axis=0)
        for o, r in zip(outputs, references, strict=True)
    )
    assert np.isclose(found.score_of_sums(np.asarray(sums)), value), (
        "rows of parts add up to the score of the whole"
    )
    best = metric.statistics(references, references).score().value
    assert metric.score_key(best) >= metric.score_key(value), (
        "references score at least as well as outputs: check higher_is_better"
    )
