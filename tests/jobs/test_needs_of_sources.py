"""What data a recipe needs by who writes: references or prompts alone, and of what length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from tests.jobs.runs import bench, folder_for, losses, recipe_in, student_of, trained
from tests.tiny import character_tokenizer

from seqdistill.assembly import sequences
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import training_sequences
from seqdistill.core.errors import DataError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.data.batching import EpochBatches
from seqdistill.data.dataset import cut_unread_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.recipe.loading import load_recipe

ALL_BY_THE_STUDENT = ("1", "{start: 1, end: 1, shape: linear}", "{start: 1, shape: adaptive}")


def test_prompts_alone_are_enough_for_a_mixture_that_is_all_the_students(tmp_path: Path) -> None:
    place = folder_for(tmp_path, "llama")
    rows = [json.dumps({"prompt": f"eins {word}"}) for word in ("rot", "blau", "zwei", "drei")]
    (place / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = (
        f"data.train={place / 'prompts.jsonl'}",
        "objective.terms=[{divergence: forward_kl}]",
        "sequences.rollouts.samples_every=1",
        "training.eval_every=2",
    )
    purely = student_of(trained(recipe_in(place, "on_policy_kd", *given)))
    for number, share in enumerate(ALL_BY_THE_STUDENT):
        constant = f"sequences.mixture.student_fraction={share}"
        run = trained(recipe_in(place, "gkd", *given, constant, name=f"gkd-{number}"))
        mixed = student_of(run)
        assert all(torch.equal(mixed[name], purely[name]) for name in purely), share
        assert {row["origin"] for row in run.read_rollouts()} == {"student"}
    by_teacher = "sequences.mixture={student_fraction: 1, others: teacher}"
    trained(recipe_in(place, "gkd", *given, by_teacher, name="no-corpus"))
    assert not list(place.rglob("teacher-corpora")), "the teacher has nothing to write"


def test_a_mixture_that_is_never_the_students_samples_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampler(*_: object, **__: object) -> None:
        raise AssertionError("a sampler was made")

    place = folder_for(tmp_path, "llama")
    plain = student_of(trained(recipe_in(place, "supervised_kd")))
    monkeypatch.setattr(sequences, "TransformersSampler", sampler)
    never = (
        "sequences.mixture.student_fraction={start: 0, end: 0}",
        "objective.terms=[{divergence: forward_kl}]",
        "sequences.rollouts.max_new_tokens=400",  # beyond the student's positions
    )
    run = trained(recipe_in(place, "gkd", *never, name="never"))
    never_own = student_of(run)
    assert all(torch.equal(never_own[name], plain[name]) for name in plain)
    assert not run.read_rollouts()


@pytest.mark.parametrize(
    ("method", "needing"),
    [
        ("baseline", "sequences.origin: reference"),
        ("supervised_kd", "sequences.origin: reference"),
        ("seq_inter", "sequences.origin: interpolation"),
        ("gkd", "sequences.mixture.others: reference with student_fraction: 0.5"),
        ("minillm", "sequences.mixture.others: reference with coin: both"),
    ],
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '{"prompt": "eins"}\n'),
        ("x.jsonl", '{"prompt": "eins", "completion": "a"}\n{"prompt": "zwei"}\n'),
        ("x.txt", "eins\nzwei\n"),
    ],
)
def test_prompts_alone_say_which_setting_asks_for_targets_and_what_learns_without(
    tmp_path: Path, method: str, needing: str, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    given = [f"data.train={tmp_path / name}", "student.model=small", "teacher.model=large"]
    with pytest.raises(UserError) as caught:
        prepare(load_recipe(method, given))
    message = str(caught.value)
    assert str(tmp_path / name) in message.splitlines()[0], "what is wrong with the file is first"
    assert f"method {method} learns from targets (completions) in the data ({needing})" in message
    assert (
        "prompts alone: on_policy_kd, or gkd with sequences.mixture.student_fraction=1" in message
    )


def test_a_mistake_in_the_prompts_is_not_blamed_on_the_method_and_dev_needs_targets(
    place: Path,
) -> None:
    (place / "x.jsonl").write_text('{"prompt": 1}\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        prepare(recipe_in(place, "gkd", f"data.train={place / 'x.jsonl'}"))
    assert "on_policy_kd" not in str(caught.value)
    (place / "x.txt").write_text("eins\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"scored against the targets .* data\.dev"):
        prepare(recipe_in(place, "on_policy_kd", f"data.dev={place / 'x.txt'}"))


LIMIT = 12
LIMITED = f"data.max_target_tokens={LIMIT}"
OVERLONG = "blau " * 60
"""Beyond the limit, and beyond the 40 positions of both models."""
REWARD = "objective.reward.function=tests.jobs.naive:letters_of_the_reference"


@pytest.fixture
def overlong(tmp_path: Path) -> Path:
    """Data whose second prompt has an overlong completion."""
    place = folder_for(tmp_path, "llama")
    rows = [f"eins {letter}\tzwei {letter}" for letter in "abcdefgh"]
    rows[1] = f"eins b\t{OVERLONG}"
    text = "\n".join(["source\ttarget", *rows]) + "\n"
    (place / "train.tsv").write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("method", ["baseline", "gkd", "minillm"])
def test_what_is_learned_from_leaves_out_what_is_too_long(overlong: Path, method: str) -> None:
    prepared = prepare(recipe_in(overlong, method, LIMITED))
    assert prepared.num_too_long == 1 and len(prepared.train) == 7
    with pytest.raises(DataError, match="40 positions, but example"):
        prepare(recipe_in(overlong, method, "data.max_target_tokens=1000"))


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
    overlong: Path, method: str, given: list[str]
) -> None:
    for limit in (LIMITED, "data.max_target_tokens=1000"):
        prepared = prepare(recipe_in(overlong, method, limit, *given))
        assert prepared.num_too_long == 0 and len(prepared.train) == 8
        kept = prepared.train_examples[1]
        assert kept.target is not None and kept.target.strip() == OVERLONG.strip()
    with pytest.raises(DataError, match="max_source_tokens"):
        prepare(recipe_in(overlong, method, LIMITED, *given, "data.max_source_tokens=3"))


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_the_kept_prompt_is_answered_and_learned_from(overlong: Path, engine: str) -> None:
    given = (LIMITED, f"sequences.rollouts.engine={engine}", "training.batch_tokens=4000")
    recipe = recipe_in(overlong, "on_policy_kd", *given)
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
