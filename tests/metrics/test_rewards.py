"""Rewards: the named ones lie in [0, 1], a user's is found, called and held to its promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqdistill.core import families
from seqdistill.core.errors import DataError, RecipeError, UserError
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.metrics.rewards import Reward, reward_function
from seqdistill.testing import check_reward

REWARDS = [
    name
    for name, member in families.REWARDS.items()
    if name != "entailment" and isinstance(member.target, str)  # others are not the package's
]
PROMPTS = ["add 1 and 2", "add 3 and 4", "add 5 and 6"]
REFERENCES = ["one and two is #### 3", "three and four is #### 7", "five and six is #### 11"]
OUTPUTS = ["one and two is #### 3", "and three is #### 8", ""]

# A user's module: one function a line, but for those whose line is told.
ONE_LINERS = {
    "brief": "[1 / (1 + len(text)) for text in completions]",
    "too_few": "[0.0]",
    "infinite": '[float("nan") for _ in completions]',
    "nothing": "None",
    "texts": '["1.0" for _ in completions]',
    "digits": '"1" * len(completions)',
    "by_output": "dict.fromkeys(range(len(completions)), 1.0)",
    "nested": "[[1.0] for _ in completions]",
    "huge": "[10**400 for _ in completions]",
    "arrays": "np.arange(len(completions))",
    "truths": "(bool(text) for text in completions)",
    "looks_up": "[score(text) for text in completions]",
    "parses": "[json.loads(text) for text in completions]  # the line of parses",
    "lazily": "(1 / len(text) for text in completions)  # the line of lazily",
}
OWN = "import json\nimport numpy as np\nlimit = 3\n" + "\n".join(
    f"def {name}(prompts, completions, references): return {body}"
    for name, body in ONE_LINERS.items()
)
OWN += """
def score(text):
    return {"a": 1.0}[text]  # the line of score

def mute(prompts, completions, references):
    raise TimeoutError  # the line of mute

def completions_alone(completions):  # the line of completions_alone
    return [0.0 for _ in completions]
"""
UNUSABLE = {
    "broken_rewards": "import no_such_package_anywhere\n",
    "raising_rewards": "\nseconds = 1 / 0\n",
    "misspelt_rewards": "\n\ndef f(:\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable module of a user, by its name."""
    (tmp_path / "own_rewards.py").write_text(OWN)
    for name, text in UNUSABLE.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_rewards"
    for name in ("own_rewards", *UNUSABLE):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", REWARDS)
def test_the_reference_is_paid_most_and_every_reward_lies_in_the_unit_interval(name: str) -> None:
    reward = reward_function(name)
    right, wrong, silent = reward(PROMPTS, OUTPUTS, REFERENCES)
    assert right == pytest.approx(1.0)
    assert 1.0 > wrong >= silent == 0.0
    if name in corpus_metrics():
        mean = corpus_metrics()[name].statistics(OUTPUTS, REFERENCES).score().value / 100
        assert name == "bleu" or mean == pytest.approx((right + wrong + silent) / 3)
    check_reward(name)
    with pytest.raises(DataError, match=f"reward {name} compares with references"):
        reward(PROMPTS, OUTPUTS, [None] * 3)


def test_whatever_lists_numbers_is_taken(own: str) -> None:
    for name, expected in (("brief", [1.0, 0.5]), ("arrays", [0.0, 1.0]), ("truths", [0.0, 1.0])):
        reward: Reward = reward_function(f"{own}:{name}")
        assert reward(PROMPTS, ["", "a"], [None] * 2) == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("rougel", r"one of exact_answer, .* Did you mean 'rouge_l'"),
        ("no_such_module_anywhere:f", "Cannot import.*no_such_module_anywhere"),
        ("broken_rewards:f", "Cannot import.*no_such_package_anywhere"),
        ("own_rewards:brie", "found nothing of that name. Did you mean 'brief'"),
        ("own_rewards:limit", "found int of that name"),
        ("own_rewards:", "found nothing"),
        (":brief", "Cannot import"),
        ("raising_rewards:f", r"ZeroDivisionError: division by zero at \S+raising_rewards.py:2"),
        ("misspelt_rewards:f", "misspelt_rewards.py, line 3"),
        ("folder/own_rewards.py:brief", "name a module, no file, .* in PYTHONPATH"),
    ],
)
def test_what_cannot_be_imported_or_called_is_told(own: str, path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        reward_function(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "one number for each of the 3 outputs, found 1"),
        ("infinite", "must be finite, found nan for the output 'one and two"),
        ("nothing", "must return a list of numbers.*found NoneType"),
        ("texts", "must return a list of numbers.*found str '1.0' in it"),
        ("digits", "must return a list of numbers.*found str;"),
        ("by_output", "must return a list of numbers.*found dict;"),
        ("nested", r"must return a list of numbers.*found list '\[1.0\]' in it"),
        ("huge", "must return a list of numbers.*found int .* too large"),
    ],
)
def test_a_function_that_breaks_its_promise_is_named(own: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reward_function(f"{own}:{name}")(PROMPTS, OUTPUTS, REFERENCES)


@pytest.mark.parametrize(
    ("name", "place", "told", "cause"),
    [
        ("looks_up", "score", "KeyError: 'b'", KeyError),
        ("parses", "parses", "JSONDecodeError: Expecting value", json.JSONDecodeError),
        ("lazily", "lazily", "ZeroDivisionError: division by zero", ZeroDivisionError),
        ("mute", "mute", "TimeoutError at", TimeoutError),
        ("completions_alone", "completions_alone", "3 were given", TypeError),
    ],
)
def test_what_a_function_raises_is_told_with_its_name_and_the_line_of_the_users_own_code(
    own: str, name: str, place: str, told: str, cause: type[Exception]
) -> None:
    line = 1 + OWN[: OWN.index(f"# the line of {place}")].count("\n")
    with pytest.raises(UserError) as caught:
        reward_function(f"{own}:{name}")(PROMPTS, ["a", "b", ""], [None] * 3)
    message = str(caught.value)
    assert f"reward {own}:{name} must return a list of numbers" in message
    assert told in message
    assert f"{own}.py:{line}; fix the function" in message
    assert type(caught.value.__cause__) is cause
