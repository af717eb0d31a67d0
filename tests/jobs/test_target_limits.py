"""References leave examples out by their length where they are learned from, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.jobs.recipe_bench import bench
from tests.jobs.runs import folder_for, losses, recipe_in, trained

from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import DataError
from seqdistill.data.batching import EpochBatches
from seqdistill.data.dataset import cut_unread_targets
from seqdistill.data.encoding import EncodedExample

LIMIT = 12
LIMITED = f"data.max_target_tokens={LIMIT}"
OVERLONG = "blau " * 60
"""Beyond the limit, and beyond the 40 positions of both models."""
REWARD = "objective.reward.function=tests.jobs.naive:letters_of_the_reference"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Data whose second prompt has an overlong completion."""
    place = folder_for(tmp_path, "llama")
    rows = [f"eins {letter}\tzwei {letter}" for letter in "abcdefgh"]
    rows[1] = f"eins b\t{OVERLONG}"
    text = "\n".join(["source\ttarget", *rows]) + "\n"
    (place / "train.tsv").write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("method", ["baseline", "gkd", "minillm"])
def test_what_is_learned_from_leaves_out_what_is_too_long(place: Path, method: str) -> None:
    prepared = prepare(recipe_in(place, method, LIMITED))
    assert prepared.num_too_long == 1 and len(prepared.train) == 7
    with pytest.raises(DataError, match="40 positions, but example"):
        prepare(recipe_in(place, method, "data.max_target_tokens=1000"))


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("on_policy_kd", []),
        ("seq_kd", []),
        ("seq_inter", []),
        ("gkd_rl", [REWARD]),
        ("gkd", ["sequences.mixture.student_fraction=1"]),
        ("gkd", ["sequences.mixture.others=teacher"]),
    ],
)
def test_a_prompt_is_kept_whatever_nobody_learns_from_it(
    place: Path, method: str, given: list[str]
) -> None:
    for limit in (LIMITED, "data.max_target_tokens=1000"):
        prepared = prepare(recipe_in(place, method, limit, *given))
        assert prepared.num_too_long == 0 and len(prepared.train) == 8
        kept = prepared.train_examples[1]
        assert kept.target is not None and kept.target.strip() == OVERLONG.strip()
    with pytest.raises(DataError, match="max_source_tokens"):
        prepare(recipe_in(place, method, LIMITED, *given, "data.max_source_tokens=3"))


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_the_kept_prompt_is_answered_and_learned_from(place: Path, engine: str) -> None:
    given = (LIMITED, f"sequences.rollouts.engine={engine}", "training.batch_tokens=4000")
    recipe = recipe_in(place, "on_policy_kd", *given)
    found = bench(recipe)
    found.batch()
    written = {one.example.id for one in found.written}
    assert written == {example.id for example in found.prepared.train_examples}
    assert len(losses(trained(recipe))) == 4


def test_an_unread_target_counts_as_much_as_the_limit_in_a_batch() -> None:
    batches = []
    for length in (LIMIT, 10 * LIMIT):
        examples = [EncodedExample(f"{i}", (4, 5), (6,) * (length if i else 3)) for i in range(9)]
        cut = cut_unread_targets(examples, max_target_tokens=LIMIT)
        planned = EpochBatches(cut, "causal", batch_tokens=60, seed=1)
        batches.append([planned.next() for _ in range(6)])
    assert batches[0] == batches[1]
