"""Settings of a recipe's sequences reach who writes, how, and how much is learned from it.

Models are tiny and real where what is written is looked at; where shares and seeds are counted, a
sampler without a model writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU, CHRF
from tests.jobs import naive
from tests.jobs.test_rollouts_while_training import place_for, recipe_in
from tests.sources.writing import DiceSampler
from tests.tiny import character_tokenizer

from seqdistill.assembly import sequences
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import build_source, training_sequences
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.progress import NoProgress
from seqdistill.core.source import Source
from seqdistill.sources.completions import Completion

EACH_KIND = pytest.mark.parametrize("kind", ["mbart", "llama"])
GREEDY = ("sequences.decoding.beam_size=1", "sequences.decoding.max_new_tokens=12")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: place_for(tmp_path_factory.mktemp(kind), kind) for kind in ("mbart", "llama")}


@pytest.fixture
def place(places: dict[str, Path]) -> Path:
    return places["mbart"]


@dataclasses.dataclass
class Told:
    """What a source told of each update: sequences by micro-batch, facts, and its batches."""

    written: list[list[list[Completion]]] = dataclasses.field(default_factory=list)
    facts: list[dict[str, float]] = dataclasses.field(default_factory=list)
    batches: list[SequenceBatch] = dataclasses.field(default_factory=list)

    @property
    def all(self) -> list[Completion]:
        return [one for update in self.written for batch in update for one in batch]


def prepared_in(place: Path, method: str, *given: str) -> Prepared:
    return prepare(recipe_in(place, method, "training.batch_tokens=60", *given))


def told_by(
    prepared: Prepared,
    *,
    updates: int = 3,
    dev_losses: Sequence[float] = (),
    rank: int = 0,
    world_size: int = 1,
    micro_batches: int = 2,
) -> Told:
    """What the recipe's source says in a run of so many updates."""
    told = Told()
    source = build_source(
        prepared,
        training_sequences(prepared, NoProgress())[0],
        rank=rank,
        world_size=world_size,
        on_completions=lambda update, written: told.written[update - 1].append(written.listed()),
    )
    for update in range(1, updates + 1):
        told.written.append([])
        source.begin_update(update, updates)
        told.batches += [source.next_batch() for _ in range(micro_batches)]
        told.facts.append({name: part.mean for name, part in source.end_update().items()})
        for loss in dev_losses[update - 1 : update]:
            source.dev_scored({"loss_nats": loss})
    return told


class Asked(DiceSampler):
    """A sampler that notes what it was made with and what it is asked."""

    made: list[Asked]

    def __init__(self, *models: object, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.asked: list[tuple[int, list[Source]]] = []
        self.made.append(self)

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        self.asked.append((seed, list(prompts)))
        return super().sample(prompts, seed=seed)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Asked]]:
    """Dice in the place of every sampler, by the name of whose place it is."""
    found: dict[str, list[Asked]] = {}
    for name in ("TransformersSampler", "CTranslate2Sampler", "TeacherMixedSampler"):
        found[name] = []
        monkeypatch.setattr(sequences, name, type(name, (Asked,), {"made": found[name]}))
    return found


def references_of(prepared: Prepared) -> dict[str, tuple[int, ...]]:
    tokenizer = character_tokenizer(closes=True)
    return {one.id: tuple(tokenizer(one.target).input_ids) for one in prepared.train_examples}


# What is there before training.


def test_references_are_learned_from_as_they_are(place: Path) -> None:
    prepared = prepared_in(place, "baseline")
    references, found = references_of(prepared), told_by(prepared, updates=8)
    for batch in found.batches:
        for name, row, mask in zip(
            batch.example_ids, batch.target_ids, batch.target_mask, strict=True
        ):
            assert tuple(row[mask].tolist()) == references[name]
    assert {name for batch in found.batches for name in batch.example_ids} == set(references)


def test_the_teacher_writes_what_it_finds_likeliest(place: Path) -> None:
    prepared = prepared_in(place, "seq_kd", *GREEDY, "sequences.decoding.mode=beam")
    examples, facts = training_sequences(prepared, NoProgress())
    teacher = naive.plain_model(place / "teacher")
    assert examples and facts == {}
    for one in examples:
        assert one.target_ids == naive.greedy(teacher, one.source_ids, 12)


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
    "similarity", ["smoothed_bleu", "smoothed_bleu_of_tokens", "sentence_bleu", "sentence_chrf"]
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
