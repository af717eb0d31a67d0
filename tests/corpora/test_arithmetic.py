"""The bundled arithmetic keeps its promises; chains and marked steps are right by an oracle."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from corpora.arithmetic import build
from corpora.arithmetic.chains import Sum, chain_problem, draw_sum, reductions, shapes
from corpora.arithmetic.problems import MAX_PIECES, STEP, Problem, count_pieces, reason_to_drop
from corpora.arithmetic.word_problems import completion_of, mark_steps, word_problem

from seqdistill.data.readers import read_examples
from seqdistill.metrics.answers import answer_accuracy, final_answer
from seqdistill.metrics.arithmetic import evaluate

BUNDLE = Path(__file__).parents[2] / "src/seqdistill/bundled/arithmetic"
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    table: list[Row] = pq.read_table(BUNDLE / "corpus.parquet").to_pylist()
    return table


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BUNDLE / "corpus.json").read_text("utf-8"))
    return content


# --- the bundled file ---------------------------------------------------------------------------


def test_manifest_names_checksum_size_and_counts(rows: list[Row], manifest: dict[str, Any]) -> None:
    content = (BUNDLE / "corpus.parquet").read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest["sha256"]
    assert len(content) == manifest["bytes"] < 2_000_000
    found = Counter(row["split"] for row in rows)
    assert found == {"train": 24_000, "dev": 500, "test": 1000, "new-templates": 500}
    assert {part: counts["all"]["pairs"] for part, counts in manifest["counts"].items()} == found
    assert len({row["id"] for row in rows}) == len(rows)


def test_every_step_is_right_and_the_last_one_is_the_answer(rows: list[Row]) -> None:
    for row in rows[::25]:
        steps = STEP.findall(row["completion"])
        assert steps, row
        for expression, result in steps:
            assert evaluate(expression) == Fraction(result), row
        assert final_answer(row["completion"]) == Fraction(steps[-1][1]), row


def test_the_answer_of_a_chain_is_what_python_computes(rows: list[Row]) -> None:
    chains = [row for row in rows if row["template"].startswith("chain/")]
    for row in chains[::50]:
        expression = row["prompt"].partition(" ")[2].removeprefix("is ").removeprefix("out ")
        assert final_answer(row["completion"]) == eval(expression.rstrip(".?")), row


def test_held_out_templates_are_nowhere_else_and_the_others_are_in_train(rows: list[Row]) -> None:
    templates: dict[str, set[str]] = {}
    for row in rows:
        templates.setdefault(row["split"], set()).add(row["template"])
    assert not templates["new-templates"] & (templates["train"] | templates["test"])
    assert templates["test"] | templates["dev"] <= templates["train"]
    for kind in ("words/", "chain/"):
        assert any(name.startswith(kind) for name in templates["new-templates"])


def test_no_template_has_the_same_numbers_twice(rows: list[Row]) -> None:
    keys = Counter(Problem(r["template"], r["prompt"], r["completion"]).key for r in rows)
    assert keys.most_common(1)[0][1] == 1
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_problems_are_short_lines(rows: list[Row]) -> None:
    for row in rows[::4]:
        assert "\n" not in row["prompt"] + row["completion"]
        problem = Problem(row["template"], row["prompt"], row["completion"])
        assert count_pieces(problem) <= MAX_PIECES


def test_recipes_read_all_parts_and_references_are_right() -> None:
    for spec, split, size in (
        ("bundled:arithmetic", "dev", 500),
        ("bundled:arithmetic", "test", 1000),
        ("bundled:arithmetic/new-templates", "test", 500),
    ):
        examples = read_examples(spec, split=split)
        assert len(examples) == size
        targets = [example.target or "" for example in examples]
        assert answer_accuracy(targets, targets).score().value == 100.0


# --- chains -------------------------------------------------------------------------------------


def every_way_down(whole: Sum) -> list[int | None]:
    """Where all orders of steps end: a number, or None at a dead end."""
    if whole.number is not None:
        return [whole.number]
    found = [end for _, rest in reductions(whole) for end in every_way_down(rest)]
    return found or [None]


@pytest.mark.parametrize("shape", shapes()[::13])
def test_every_order_of_steps_keeps_the_value_of_the_sum(shape: str) -> None:
    draw = Random(shape)
    several = 0
    for _ in range(20):
        whole = draw_sum(shape, draw)
        expected = eval(str(whole))
        ends = every_way_down(whole)
        assert set(ends) <= {expected, None}, whole
        assert expected < 0 or expected in ends or "n-n" in shape, f"{whole} has no way down"
        several += len(ends) > 1
    assert several or "(" in shape or shape.count("n") == 3, "there is only one order"


def test_a_step_rewrites_the_sum_and_nothing_else() -> None:
    whole = Sum(((1, (7,)), (1, (Sum(((1, (9,)), (-1, (4,)))), 3)), (-1, (6,))))
    assert str(whole) == "7 + (9 - 4) * 3 - 6"
    assert [(step, str(rest)) for step, rest in reductions(whole)] == [
        ("<<9-4=5>>", "7 + 5 * 3 - 6")
    ]
    rest = next(reductions(whole))[1]
    assert [(step, str(after)) for step, after in reductions(rest)] == [
        ("<<5*3=15>>", "7 + 15 - 6")
    ]


def test_neighbours_in_a_sum_keep_their_signs() -> None:
    whole = Sum(((1, (20,)), (-1, (30,)), (1, (12,)), (-1, (1,))))
    found = {step: str(rest) for step, rest in reductions(whole)}
    assert found == {"<<30-12=18>>": "20 - 18 - 1", "<<12-1=11>>": "20 - 30 + 11"}


def test_a_chain_is_the_same_for_the_same_seed_and_its_orders_vary() -> None:
    shape = "n*n+n*n"
    assert chain_problem(shape, "a") == chain_problem(shape, "a")
    firsts = set()
    for seed in range(40):
        problem = chain_problem(shape, str(seed))
        assert problem is not None
        assert reason_to_drop(problem) is None
        step = STEP.findall(problem.completion)[0][0].replace("*", " * ")
        firsts.add(step in problem.prompt.split("+")[0])
    assert firsts == {True, False}, "either product may come first"


def test_shapes_are_all_different() -> None:
    assert len(set(shapes())) == len(shapes()) > 100


# --- word problems ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "marked"),
    [
        ("He has 9-6=3 people", "He has <<9-6=3>> people"),
        ("so 180 carrot / 15 carrot/minute = 12 minutes", "so <<180/15=12>> minutes"),
        ("spends 9 toy cars * £10 = £90 on cars.", "spends <<9*10=90>> on cars."),
        ("is $450,000 x 6/100 = $27,000.", "is <<450000*6/100=27000>>."),
        ("That is 25 x 0.8 = 20.0 liters", "That is <<25*0.8=20>> liters"),
        ("total 13 students - 5 play music - 3 = 5", "total <<13-5-3=5>>"),
        (
            "12 and 4 make 12 + 4 = 16, then 16 ÷ 4 = 4.",
            "12 and 4 make <<12+4=16>>, then <<16/4=4>>.",
        ),
        ("nothing to compute in 3 days", "nothing to compute in 3 days"),
        ("T = 220 - 141 = 79", None),
        ("so 2(40+38) = 156", None),
        ("or 15/60 = 1/4 of it", None),
        ("gets 48=48 emails", None),
        ("141 + T = 220", None),
    ],
)
def test_equations_become_steps_or_are_given_up(line: str, marked: str | None) -> None:
    assert mark_steps(line) == marked


def test_a_solution_becomes_one_line_without_empty_talk() -> None:
    solution = (
        "Let's solve this:\n\n1. Bought:\n   - First find all: 3 bags * 4 eggs = 12 eggs\n"
        "   • He keeps 10 because 12 - 2 = 10\n#### 10"
    )
    assert completion_of(solution) == "<<3*4=12>> eggs. <<12-2=10>>."


def test_a_word_problem_ends_with_its_answer() -> None:
    def generator(draw: Random, difficulty: float) -> dict[str, Any]:
        bags = draw.randint(2, 9)
        steps = f"There are {bags} bags * €1.5 = €{bags * 1.5} in all.\n#### x"
        question = f"{bags}.0 bags at €1.5,  how much?"
        return {"question": question, "answer": bags * 1.5, "metadata": {"answer_cot": steps}}

    problem = word_problem(7, generator, "seed")
    assert problem is not None
    assert problem == word_problem(7, generator, "seed")
    assert reason_to_drop(problem) is None
    assert problem.prompt.endswith("bags at $1.5, how much?")
    assert ".0" not in problem.prompt


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("so <<3*4=12>> #### 12", None),
        ("so <<3*4=12>> #### 12.0", None),
        ("so 12 #### 12", "no step"),
        ("so <<3*0.5=1>> #### 1", "a step is wrong"),
        ("so <<3*4=12>> #### 13", "the last step is not the answer"),
        ("so <<3*4=12>> is 12", "the last step is not the answer"),
        ("so <<3-4=-1>> #### -1", "negative answer"),
        ("so <<1/32=0.03125>> #### 0.03125", "long decimals"),
        ("so " * 140 + "<<3*4=12>> #### 12", "length"),
    ],
)
def test_each_rule_names_its_reason(completion: str, reason: str | None) -> None:
    assert reason_to_drop(Problem("words/1", "How many?", completion)) == reason


# --- division -----------------------------------------------------------------------------------


def test_division_holds_out_templates_and_repeats_no_numbers() -> None:
    makers = dict(list(build.makers_of_chains().items())[:5])
    sizes = {"test": 12, "dev": 4, "train": 24, "new-templates": 5}
    parts, facts = build.divide(makers, sizes=sizes)
    assert {part: len(found) for part, found in parts.items()} == sizes
    assert (facts["templates"], facts["new_templates"]) == (4, 1)
    keys = [problem.key for found in parts.values() for problem in found]
    assert len(set(keys)) == len(keys)
    new = {problem.template for problem in parts["new-templates"]}
    assert not new & {p.template for p in parts["train"] + parts["dev"] + parts["test"]}
    assert max(Counter(p.template for p in parts["train"]).values()) == 24 / 4
    again, _ = build.divide(dict(reversed(makers.items())), sizes=sizes)
    assert again == parts


def test_templates_whose_steps_cannot_be_marked_are_counted_and_left_out() -> None:
    chains = build.makers_of_chains()
    makers = {"chain/n+n+n": chains["chain/n+n+n"], "words/0": lambda seed: None}
    usable, removed = build.usable_templates(makers)
    assert usable == ["chain/n+n+n"]
    assert removed == {"steps of another form": 1}


def test_too_few_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MAX_SEEDS", 20)

    def one(seed: str) -> Problem:
        return Problem("words/1", "3 bags of 4?", "<<3*4=12>> #### 12")

    with pytest.raises(ValueError, match="test must hold 5 problems, but only 1"):
        build.divide({"words/1": one}, sizes={"test": 5, "dev": 0, "train": 0, "new-templates": 0})
