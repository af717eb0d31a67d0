"""Settings of a recipe's sequences reach who writes, how, and how much is learned from it.

Models are tiny and real where what is written is looked at; where shares and seeds are counted, a
sampler without a model writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, CHRF
from tests.jobs.runs import folder_for, recipe_in
from tests.tiny import character_tokenizer

from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import training_sequences
from seqdistill.core.progress import NoProgress


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: folder_for(tmp_path_factory.mktemp(kind), kind) for kind in ("mbart", "llama")}


@pytest.fixture
def place(places: dict[str, Path]) -> Path:
    return places["mbart"]


def prepared_in(place: Path, method: str, *given: str) -> Prepared:
    return prepare(recipe_in(place, method, "training.batch_tokens=60", *given))


def hypotheses(place: Path, *given: str) -> dict[str, list[tuple[int, ...]]]:
    """The teacher's outputs by example, best first."""
    beam = ("sequences.decoding.beam_size=4", "sequences.decoding.n_best=4", *given)
    examples, _ = training_sequences(prepared_in(place, "seq_kd", *beam), NoProgress())
    found: dict[str, list[tuple[int, ...]]] = {}
    for one in examples:
        found.setdefault(one.id, []).append(one.target_ids)
    return found


def test_as_many_outputs_are_learned_from_as_are_asked_for(place: Path) -> None:
    four, two = hypotheses(place), hypotheses(place, "sequences.decoding.n_best=2")
    assert max(map(len, four.values())) == 4 and all(
        len(set(outputs)) == len(outputs) for outputs in four.values()
    )
    assert max(map(len, two.values())) == 2


@pytest.mark.parametrize(
    "similarity", ["smoothed_bleu_of_tokens", "sentence_bleu", "sentence_chrf"]
)
def test_interpolation_takes_the_output_most_like_the_reference(
    place: Path, similarity: str
) -> None:
    given = (
        "sequences.decoding.beam_size=4",
        "sequences.decoding.n_best=4",
        f"sequences.similarity={similarity}",
    )
    prepared = prepared_in(place, "seq_inter", *given)
    examples, facts = training_sequences(prepared, NoProgress())
    summary = facts["interpolation"]
    assert isinstance(summary, dict) and summary["similarity"] == similarity
    outputs, tokenizer = hypotheses(place), character_tokenizer()
    by_id = {one.id: one.target for one in prepared.train_examples}
    assert {one.id for one in examples} == set(outputs)

    def like(ids: Sequence[int], name: str) -> float:
        metric = CHRF() if similarity == "sentence_chrf" else BLEU(effective_order=True)
        text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return float(metric.sentence_score(text, [str(by_id[name])]).score)

    for one in examples:
        assert one.target_ids in outputs[one.id]
        if similarity.startswith("sentence"):
            best = max(like(ids, one.id) for ids in outputs[one.id])
            assert like(one.target_ids, one.id) == pytest.approx(best)
