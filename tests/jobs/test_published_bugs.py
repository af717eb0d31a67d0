"""Bugs that public tools have shipped in how a student's sequences are written and read.

Each test begins with a recipe as users write it. Whole gradients of every preset are compared in
`test_golden_updates`; what is said there is not repeated.
"""

from __future__ import annotations

import dataclasses
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs import naive
from tests.jobs.recipe_bench import (
    bench,
    likeliest_outputs,
    model_of,
    plain_logits,
    scored,
)
from tests.jobs.test_rollouts_while_training import place_for, recipe_in, trained
from tests.tiny import EOS, PAD, character_tokenizer, tiny_model
from transformers import GenerationConfig

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe
from seqdistill.sources.completions import Completion
from seqdistill.teachers.in_process import InProcessTeacher

every_kind = pytest.mark.parametrize("kind", ["mbart", "t5", "llama", "gpt2"])
one_of_each_kind = pytest.mark.parametrize("kind", ["mbart", "llama"])
ON_POLICY = "sequences.mixture.student_fraction=1"
NO_DEV = "data.dev=null"
HOT = "sequences.rollouts.sampling_temperature=3.0"
"""So that tiny models end some of their sequences early."""


def assert_logged_loss_is_naive(
    folder: Path, *overrides: str, beta: float = 0.5, loss_temperature: float = 1.0
) -> list[Completion]:
    """A GKD run logs the mean over sequences of their mean JSD over tokens: what was written."""
    given = (
        ON_POLICY,
        NO_DEV,
        f"objective.terms.0.beta={beta}",
        "training.gradient_accumulation_steps=2",
    )
    recipe = recipe_in(folder, "gkd", *given, *overrides, "training.steps=1")
    found = bench(recipe)
    found.batch()
    found.source.next_batch()
    assert len({len(one.example.target_ids) for one in found.written}) > 1, "nothing is padded"
    logged: dict[str, Any] = trained(recipe).read_metrics()[0]
    expected = naive.loss(
        scored(folder, found.written),
        [{"divergence": "jensen_shannon", "beta": beta}],
        reduction="sequence",
        loss_temperature=loss_temperature,
    )
    assert logged["loss_nats"] == pytest.approx(float(expected), rel=1e-4)
    assert 0.0 < logged["gradient_norm"] < float("inf")
    return found.written


def place_of_many_lengths(folder: Path, kind: str) -> Path:
    """Data and models whose hot samples end early or late."""
    place = place_for(folder, kind)
    for who, seed in (("student", 8), ("teacher", 3)):
        model_of(kind, seed).save_pretrained(place / who)
    return place


def one_update(
    place: Path, method: str, *overrides: str
) -> tuple[dict[str, Any], list[Completion]]:
    """What a run of one update logs, and what it learned from, which is one micro-batch."""
    given = (NO_DEV, "training.steps=1", "training.batch_tokens=400", *overrides)
    recipe = recipe_in(place, method, *given)
    found = bench(recipe)
    found.batch()
    lengths = {len(one.example.target_ids) for one in found.written}
    assert len(lengths) > 1, "nothing is padded"
    return trained(recipe).read_metrics()[0], found.written


GKD = (ON_POLICY, HOT, "objective.terms.0.beta=1.0")
"""Reverse KL on rollouts: it differs most from token to token."""


def gkd(sequences: list[naive.Scored], *, beta: float = 1.0, reduction: str = "sequence") -> float:
    terms = [{"divergence": "jensen_shannon", "beta": beta}]
    return float(naive.loss(sequences, terms, reduction=reduction))


def without_the_first(one: naive.Scored, tokens: int) -> naive.Scored:
    return naive.Scored(one.targets[tokens:], one.student[tokens:], one.teacher[tokens:])


def followed_by_padding(written: list[Completion], tokens: list[int]) -> list[Completion]:
    """The sequences with so many padding symbols behind each."""
    return [
        dataclasses.replace(
            one,
            example=dataclasses.replace(
                one.example, target_ids=(*one.example.target_ids, *[PAD] * more)
            ),
        )
        for one, more in zip(written, tokens, strict=True)
    ]


def assert_learned(loss: float, *, rightly: float, wrongly: float) -> None:
    assert loss == pytest.approx(rightly, rel=1e-5)
    assert wrongly != pytest.approx(rightly, rel=1e-4), "the bug would not show here"


@every_kind
def test_rollouts_are_scored_whole_where_each_token_is_predicted_and_nothing_else_is(
    tmp_path: Path, kind: str
) -> None:
    """TRL #6006: all rows were cut where the longest prompt ended, so that the first tokens behind
    shorter ones had no loss. TRL PR 2058: what generation fills up to the longest rollout was in
    the loss. distillm: labels of rollouts unshifted, those of data shifted: the mask lay on what
    follows the end, and not on what comes before the first token. TRL GKD: one mean over the tokens
    of the batch, where long rollouts weigh more."""
    place = place_of_many_lengths(tmp_path, kind)
    logged, written = one_update(place, "gkd", *GKD)
    whole = scored(place, written)
    prompts = [len(one.example.source_ids) for one in written]
    cut = [
        without_the_first(one, max(prompts) - prompt)
        for one, prompt in zip(whole, prompts, strict=True)
    ]
    lengths = [len(one.example.target_ids) for one in written]
    filled = followed_by_padding(written, [max(lengths) - length for length in lengths])
    longer = scored(place, followed_by_padding(written, [1] * len(written)))
    for wrongly in (
        gkd([one for one in cut if one.targets]),
        gkd(scored(place, filled)),
        gkd([without_the_first(one, 1) for one in longer]),
        gkd(whole, reduction="token"),
    ):
        assert_learned(logged["loss_nats"], rightly=gkd(whole), wrongly=wrongly)
    assert logged["tokens"] == sum(lengths)


@one_of_each_kind
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_minus_infinity_behind_the_last_position_is_never_read(
    tmp_path: Path, kind: str, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ms-swift #8436, TRL #5594: a teacher's -inf behind the end and between lengths, times a mask
    of 0, was NaN."""
    score, holes = InProcessTeacher.score, []

    def with_holes(self: InProcessTeacher, batch: SequenceBatch) -> TeacherScores:
        found = score(self, batch)
        assert isinstance(found, DenseScores)
        found.hidden[~batch.target_mask] = -torch.inf
        holes.append(int((~batch.target_mask).sum()))
        return found

    monkeypatch.setattr(InProcessTeacher, "score", with_holes)
    place = place_of_many_lengths(tmp_path, kind)
    logged, written = one_update(place, "gkd", *GKD, f"objective.terms.0.beta={beta}")
    assert min(holes) > 0
    expected = gkd(scored(place, written), beta=beta)
    assert logged["loss_nats"] == pytest.approx(expected, rel=1e-4)
    assert 0.0 < logged["gradient_norm"] < float("inf")
    assert all(map(math.isfinite, (logged["student_entropy"], logged["teacher_reverse_kl"])))


@one_of_each_kind
def test_minillms_single_step_term_has_its_importance_weights(tmp_path: Path, kind: str) -> None:
    """MiniLLM's code (LMOps #255, #264) has them in the clipped ratio of the other term alone."""
    place = place_of_many_lengths(tmp_path, kind)
    logged, written = one_update(place, "minillm")
    samples = []
    for one in scored(place, [w for w in written if w.origin == "teacher_mixed"]):
        drawn_from = (0.2 * one.teacher.softmax(-1) + 0.8 * one.student.softmax(-1)).log()
        sampled = naive.log_probs(drawn_from, one.targets)
        samples.append(dataclasses.replace(one, sampled=sampled))
    term: dict[str, object] = {"divergence": "reverse_kl"}
    choices: tuple[object, ...] = ("importance", [])
    weighted, plain = (
        float(naive.loss(samples, [{**term, "token_weights": w}], reduction="sum")) for w in choices
    )
    assert_learned(logged["reverse_kl"], rightly=weighted, wrongly=plain)


@one_of_each_kind
def test_an_end_token_that_also_pads_is_learned(tmp_path: Path, kind: str) -> None:
    """TRL #6357, distillm's and TAID's code: rows were stripped and masked by the id that pads."""
    place = place_for(tmp_path, kind)
    for who, seed in (("student", 8), ("teacher", 3)):
        tokenizer = character_tokenizer(closes=kind == "mbart", pad="</s>")
        tokenizer.save_pretrained(place / who)
        model = model_of(kind, seed)
        model.config.pad_token_id = EOS
        model.save_pretrained(place / who)
    written = assert_logged_loss_is_naive(place, HOT)
    ended = [one.example.target_ids[-1] == EOS for one in written]
    assert any(ended) and not all(ended)
    assert [one.finished for one in written] == ended


@one_of_each_kind
def test_rows_beyond_the_shared_vocabulary_are_cut_before_the_softmax(
    tmp_path: Path, kind: str
) -> None:
    """TRL #2215, torchtune #2119: one family, two padded sizes."""
    place = place_for(tmp_path, kind)
    tiny_model(kind, seed=3, vocab_size=48).save_pretrained(place / "teacher")
    assert_logged_loss_is_naive(place)


@one_of_each_kind
def test_the_sampling_temperature_of_a_recipe_is_not_its_losss(tmp_path: Path, kind: str) -> None:
    """TRL's GKD: one setting of 0.9 for the sampler, and for the loss of one of its paths."""
    place = place_for(tmp_path, kind)
    cool = "sequences.rollouts.sampling_temperature=0.9"
    written = assert_logged_loss_is_naive(place, cool)
    student = naive.plain_model(place / "student")
    for one in written:
        logits = plain_logits(student, one.example) / 0.9
        assert one.sampled_log_probs == pytest.approx(
            naive.log_probs(logits, one.example.target_ids), abs=1e-4
        )
    again = assert_logged_loss_is_naive(
        place,
        cool,
        "objective.loss_temperature=2",
        f"output_dir={place / 'runs' / 'softer'}",
        loss_temperature=2.0,
    )
    assert again == written, "the loss's temperature has moved the sampler's"


@pytest.mark.parametrize(
    ("engine", "lora", "kind"),
    [
        ("transformers", False, "llama"),
        ("transformers", True, "mbart"),
        ("ctranslate2", False, "mbart"),
    ],
)
def test_rollouts_are_of_the_weights_that_this_update_began_with(
    tmp_path: Path, engine: str, lora: bool, kind: str
) -> None:
    """TRL #5312: the engine went on with weights that were not the student's."""
    place = place_for(tmp_path, kind)
    given = [f"sequences.rollouts.engine={engine}", "sequences.rollouts.mode=greedy"]
    if lora:
        given += ["student.lora.rank=4", "student.lora.alpha=64"]
    found = bench(recipe_in(place, "on_policy_kd", *given))
    student, generator = found.prepared.student, torch.Generator().manual_seed(0)
    trained_weights = [p for p in found.prepared.adapted.parameters() if p.requires_grad]
    seen = []
    for update in (1, 2, 3):
        with torch.no_grad():
            for parameter in trained_weights:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        found.batch(update)
        prompts = [dataclasses.replace(one.example, target_ids=()) for one in found.written]
        written = [one.example.target_ids for one in found.written]
        assert written == likeliest_outputs(student, prompts, beam=1, longest=8), f"update {update}"
        found.prepared.adapted.train()
        seen.append({one.example.id: one.example.target_ids for one in found.written})
    assert seen[0] != seen[1] != seen[2], "the test must see moving weights"


PRESETS_WITH_ROLLOUTS = [
    name
    for name in preset_names()
    if not read_recipe(name).stages and read_recipe(name).sequences.rolls_out
]


@pytest.mark.parametrize("method", PRESETS_WITH_ROLLOUTS)
def test_only_the_method_that_says_replay_learns_from_an_earlier_student(
    tmp_path: Path, method: str
) -> None:
    """distillm's GKD baseline drew from a replay buffer; DistiLLM itself does and says so."""
    given = [ON_POLICY] if method in ("gkd", "imitkd", "distillm") else []
    found = bench(recipe_in(place_for(tmp_path, "mbart"), method, *given))
    ages, told = set(), []
    for update in range(1, 10):
        found.batch(update)
        rolls_out = [one for one in found.written if one.origin.startswith(("stu", "teacher_"))]
        ages |= {update - one.sampled_at_update for one in rolls_out}
        facts = found.source.end_update()
        told.append(facts["staleness"].mean if "staleness" in facts else None)
    if method == "distillm":
        assert max(ages) > 0
        assert max(age or 0.0 for age in told) > 0.0
        assert (
            "not on-policy"
            in (resources.files("seqdistill.recipe") / "presets" / "distillm.yaml").read_text()
        )
    else:
        assert ages == {0}
        assert set(told) == {None}


def test_processes_of_a_run_throw_one_coin(tmp_path: Path) -> None:
    """A coin of a process's own lets some generate while others wait, or hang."""
    recipe = recipe_in(place_for(tmp_path, "mbart"), "gkd", "training.batch_tokens=40")
    ranks = [bench(recipe, rank=rank, world_size=3) for rank in range(3)]
    decisions = set()
    for update in range(1, 13):
        by = set()
        for rank in ranks:
            rank.batch(update)
            rank.source.next_batch()
            by |= {one.origin for one in rank.written}
        assert len(by) == 1
        decisions |= by
    assert decisions == {"student", "reference"}


@one_of_each_kind
def test_a_generation_config_of_the_models_folder_is_not_inherited(
    tmp_path: Path, kind: str
) -> None:
    """TRL #6337, #4695, #4647: top_k and top_p of the folder cut the distribution sampled from."""
    written, outputs = [], []
    for name in ("plain", "with_defaults"):
        folder = tmp_path / name
        folder.mkdir()
        place = place_for(folder, kind)
        if name == "with_defaults":
            for who in ("student", "teacher"):
                start = EOS if kind == "mbart" else None
                config = GenerationConfig(
                    do_sample=True,
                    top_k=2,
                    top_p=0.3,
                    temperature=0.2,
                    repetition_penalty=3.0,
                    min_new_tokens=4,
                    decoder_start_token_id=start,
                )
                config.save_pretrained(place / who)
        found = bench(recipe_in(place, "f_distill", "sequences.decoding.max_new_tokens=6"))
        assert found.prepared.teacher is not None
        inherited = found.prepared.student.model.generation_config
        assert inherited is not None and (inherited.top_k == 2) == (name == "with_defaults")
        found.batch()
        written.append([one.example.target_ids for one in found.written])
        outputs.append([example.target_ids for example in found.examples])
    assert written[0] == written[1]
    assert outputs[0] == outputs[1]


@one_of_each_kind
def test_rollouts_of_a_student_in_training_know_no_dropout(tmp_path: Path, kind: str) -> None:
    """With dropout they are another model's."""
    found = bench(recipe_in(place_for(tmp_path, kind), "on_policy_kd", "training.dropout=0.5"))
    found.prepared.adapted.train()
    found.batch()
    student = naive.plain_model(tmp_path / "student")
    for one in found.written:
        assert one.sampled_log_probs == pytest.approx(
            naive.log_probs(plain_logits(student, one.example), one.example.target_ids), abs=1e-4
        )
    assert all(module.training for module in found.prepared.adapted.modules())
