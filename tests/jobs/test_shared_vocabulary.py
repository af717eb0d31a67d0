"""Heads padded to different sizes over one tokenizer: nobody writes what the other cannot read.

A larger student writes for its teacher, and a larger teacher for its student; the tokenizer knows
exactly the smaller one's rows.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.jobs import naive
from tests.jobs.runs import bench, folder_for, losses, plain_logits, recipe_in, trained
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.assembly.comparing import check_vocabularies
from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.sequences import training_sequences
from seqdistill.core.errors import ModelError, StaleCorpusError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.label import label_data
from seqdistill.models.loading import load_pair
from seqdistill.models.saving import save_pair

KNOWN, PADDED = 40, 60
EACH_KIND = pytest.mark.parametrize("kind", ["mbart", "llama"])
HOT = (
    "sequences.decoding.mode=sample",
    "sequences.decoding.sampling_temperature=3",
    "sequences.decoding.max_new_tokens=8",
    "sequences.rollouts.sampling_temperature=3",
)
COMBINATIONS = pytest.mark.parametrize(
    ("kind", "larger", "engine"),
    [
        ("mbart", "student", "transformers"),
        ("llama", "teacher", "transformers"),
        ("mbart", "teacher", "ctranslate2"),
        ("llama", "student", "ctranslate2"),
    ],
)


def place_of(folder: Path, kind: str, larger: str) -> Path:
    """Data, and two models of which one has rows that the tokenizer does not know."""
    place = folder_for(folder, kind)
    tokenizer = character_tokenizer(closes=kind == "mbart", extra=["0", "1", "2", "3", "4"])
    assert len(tokenizer) == KNOWN
    for who, seed in (("student", 8), ("teacher", 3)):
        rows = PADDED if who == larger else KNOWN
        tiny_model(kind, seed=seed, vocab_size=rows).save_pretrained(place / who)
        tokenizer.save_pretrained(place / who)
    return place


def test_a_corpus_of_before_padded_rows_were_cut_off_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(tmp_path, "llama", "teacher")
    with monkeypatch.context() as patch:
        patch.setattr("seqdistill.assembly.corpus.num_known_ids", lambda _: PADDED)
        label_data(recipe_in(place, "seq_kd", *HOT[:3]), progress=NoProgress())
    with pytest.raises(StaleCorpusError, match=r"below the student's 40, .* delete the folder"):
        trained(recipe_in(place, "seq_kd", *HOT[:3]))


@EACH_KIND
def test_a_student_without_a_teacher_writes_what_its_tokenizer_knows(
    tmp_path: Path, kind: str
) -> None:
    place = place_of(tmp_path, kind, "student")
    given = (
        "teacher={model: null, scores: none}",
        "objective.terms=[{divergence: negative_log_likelihood, token_weights: advantages}]",
        "objective.monitors=[]",
        "objective.reward.function=tests.jobs.naive:letters_of_the_reference",
    )
    found = bench(recipe_in(place, "gkd_rl", *given))
    ids = []
    for update in range(1, 6):
        found.batch(update)
        ids += [i for one in found.written for i in one.example.target_ids]
    assert len(set(ids)) > 4 and max(ids) < KNOWN


@COMBINATIONS
def test_nobody_writes_what_the_other_cannot_read_whoever_is_larger(
    tmp_path: Path, kind: str, larger: str, engine: str
) -> None:
    """The teacher's samples and the student's, of one recipe."""
    place = place_of(tmp_path, kind, larger)
    given = (*HOT, f"sequences.decoding.engine={engine}", f"sequences.rollouts.engine={engine}")
    assert all(map(math.isfinite, losses(trained(recipe_in(place, "f_distill", *given)))))
    found = bench(recipe_in(place, "f_distill", *given, name="bench"))
    by_teacher = [i for example in found.examples for i in example.target_ids]
    written = [one for update in (1, 2, 3) for _ in [found.batch(update)] for one in found.written]
    own = [one for one in written if one.origin == "student"]
    for ids in (by_teacher, [i for one in own for i in one.example.target_ids]):
        assert len(set(ids)) > KNOWN / 2 and max(ids) < KNOWN
    student = naive.plain_model(place / "student")
    for one in own if engine == "transformers" else []:
        logits = plain_logits(student, one.example)[:, :KNOWN] / 3
        assert one.sampled_log_probs == pytest.approx(
            naive.log_probs(logits, one.example.target_ids), abs=1e-4
        )


def with_another_end(place: Path, who: str) -> None:
    tokenizer = character_tokenizer(extra=["0", "1", "2", "3", "4"])
    tokenizer.eos_token = "4"
    tokenizer.save_pretrained(place / who)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_another_end_token_over_one_vocabulary_is_refused_naming_both(
    tmp_path: Path, who: str
) -> None:
    """A base student would be taught by an instruct teacher that never says its end token."""
    place = place_of(tmp_path, "mbart", "teacher")
    with_another_end(place, who)
    for method in ("word_kd", "on_policy_kd", "minillm"):
        with pytest.raises(ModelError) as refused:
            prepare(recipe_in(place, method))
        message = str(refused.value)
        ends = {
            "student": "'</s>' (id 2)",
            "teacher": "'</s>' (id 2)",
            who: "'4' (id 39), '</s>' (id 2)",
        }
        assert f"student ends with {ends['student']} and the teacher with {ends['teacher']}" in (
            message
        )
        assert "eos_token in the student's tokenizer_config.json" in message and "seq_kd" in message


def test_ends_that_are_really_used_are_compared(tmp_path: Path) -> None:
    """A tokenizer without an end token leaves it to the generation config, as transformers does."""
    place = place_of(tmp_path, "llama", "teacher")
    student, teacher = load_pair(str(place / "student")), load_pair(str(place / "teacher"))
    teacher.tokenizer.eos_token = None
    assert check_vocabularies(student, teacher) == KNOWN
    teacher.model.generation_config.eos_token_id = 39
    with pytest.raises(UserError, match=r"the teacher with '4' \(id 39\)"):
        check_vocabularies(student, teacher)


def test_labels_of_one_tokenizer_end_as_the_student_ends(tmp_path: Path) -> None:
    """A teacher that closes turns as its generation config says, a student that knows one end."""
    place = place_of(tmp_path, "mbart", "teacher")
    pair = load_pair(str(place / "teacher"))
    turn_end = 20
    pair.model.generation_config.eos_token_id = [2, turn_end]
    pair.model.final_logits_bias[0, turn_end] += 20.0
    save_pair(pair, place / "teacher")
    prepared = prepare(recipe_in(place, "seq_kd"))
    examples, _ = training_sequences(prepared, NoProgress())
    assert examples and all(example.target_ids == (2,) for example in examples)
