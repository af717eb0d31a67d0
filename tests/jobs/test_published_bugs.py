"""Bugs that public tools have shipped, against what recipes build: who writes, and what is read.

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
from tests.jobs.runs import (
    bench,
    folder_for,
    likeliest_outputs,
    plain_logits,
    recipe_in,
    scored,
    trained,
)
from tests.tiny import EOS, character_tokenizer, tiny_model
from transformers import GenerationConfig

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import UserError
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe
from seqdistill.sources.completions import Completion
from seqdistill.teachers.in_process import InProcessTeacher

one_of_each_kind = pytest.mark.parametrize("kind", ["mbart", "llama"])
ON_POLICY = "sequences.mixture.student_fraction=1"
NO_DEV = "data.dev=null"
TRAINED = [
    name
    for name in preset_names()
    if not (read_recipe(name).stages or read_recipe(name).teacher.is_student)
]
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
    assert all(map(math.isfinite, filter(None, logged.values())))
    assert logged["gradient_norm"] > 0.0
    return found.written


@pytest.mark.parametrize(("kind", "beta"), [("mbart", 1.0), ("llama", 0.5)])
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
    assert_logged_loss_is_naive(folder_for(tmp_path, kind), HOT, beta=beta)
    assert min(holes) > 0


@one_of_each_kind
def test_an_end_token_that_also_pads_is_learned(tmp_path: Path, kind: str) -> None:
    """TRL #6357, distillm's and TAID's code: rows were stripped and masked by the id that pads."""
    place = folder_for(tmp_path, kind)
    for who, seed in (("student", 8), ("teacher", 3)):
        tokenizer = character_tokenizer(closes=kind == "mbart", pad="</s>")
        tokenizer.save_pretrained(place / who)
        model = tiny_model(kind, seed=seed)
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
    place = folder_for(tmp_path, kind)
    tiny_model(kind, seed=3, vocab_size=48).save_pretrained(place / "teacher")
    assert_logged_loss_is_naive(place)


@one_of_each_kind
def test_the_sampling_temperature_of_a_recipe_is_not_its_losss(tmp_path: Path, kind: str) -> None:
    """TRL's GKD: one setting of 0.9 for the sampler, and for the loss of one of its paths."""
    place = folder_for(tmp_path, kind)
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
    place = folder_for(tmp_path, kind)
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


@pytest.mark.parametrize("method", [n for n in TRAINED if read_recipe(n).sequences.rolls_out])
def test_only_methods_that_say_so_learn_from_an_earlier_student(
    tmp_path: Path, method: str
) -> None:
    """distillm's GKD baseline drew from a replay buffer; DistiLLM itself does and says so."""
    given = [ON_POLICY] if method in ("gkd", "imitkd", "distillm") else []
    found = bench(recipe_in(folder_for(tmp_path, "mbart"), method, *given))
    ages, told = set(), []
    for update in range(1, 10):
        found.batch(update)
        rolls_out = [one for one in found.written if one.origin.startswith(("stu", "teacher_"))]
        ages |= {update - one.sampled_at_update for one in rolls_out}
        facts = found.source.end_update()
        told.append(facts["staleness"].mean if "staleness" in facts else None)
    if method in ("distillm", "near_policy"):
        assert max(ages) > 0
        assert max(age or 0.0 for age in told) > 0.0
        preset = resources.files("seqdistill.recipe") / "presets" / f"{method}.yaml"
        assert "not on-policy" in preset.read_text("utf-8")
    else:
        assert ages == {0}
        assert set(told) == {None}


@one_of_each_kind
def test_a_generation_config_of_the_models_folder_is_not_inherited(
    tmp_path: Path, kind: str
) -> None:
    """TRL #6337, #4695, #4647: top_k and top_p of the folder cut the distribution sampled from."""
    written, outputs = [], []
    for name in ("plain", "with_defaults"):
        folder = tmp_path / name
        folder.mkdir()
        place = folder_for(folder, kind)
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
    found = bench(recipe_in(folder_for(tmp_path, kind), "on_policy_kd", "training.dropout=0.5"))
    found.prepared.adapted.train()
    found.batch()
    student = naive.plain_model(tmp_path / "student")
    for one in found.written:
        assert one.sampled_log_probs == pytest.approx(
            naive.log_probs(plain_logits(student, one.example), one.example.target_ids), abs=1e-4
        )
    assert all(module.training for module in found.prepared.adapted.modules())


@one_of_each_kind
def test_sequence_level_kd_learns_the_teachers_beams_each_with_its_own_source(
    tmp_path: Path, kind: str
) -> None:
    """LMOps #250: the teacher's answers were made and the references learned. TRL #5726: made, and
    overwritten by the student's. mozilla #272: learned with the next line's source."""
    place = folder_for(tmp_path, kind)
    if kind == "llama":  # one of whose beams some come to an end
        tiny_model("llama", seed=12).save_pretrained(place / "teacher")
    found = bench(recipe_in(place, "seq_kd", "training.batch_tokens=4000"))
    assert found.prepared.teacher is not None
    sources = {example.id: example.source_ids for example in found.prepared.train}
    assert len(found.examples) > 8
    assert all(example.source_ids == sources[example.id] for example in found.examples)
    known = len(found.prepared.teacher.tokenizer)
    expected = likeliest_outputs(
        found.prepared.teacher, found.examples, beam=5, longest=12, vocab_size=known
    )
    assert [example.target_ids for example in found.examples] == expected
    references = {example.id: example.target_ids for example in found.prepared.train}
    assert all(example.target_ids != references[example.id] for example in found.examples)
    batch = found.batch()
    by_id = {example.id: example.target_ids for example in found.examples}
    for row, name in enumerate(batch.example_ids):
        assert tuple(batch.target_ids[row][batch.target_mask[row]].tolist()) == by_id[name]


def test_two_tokenizers_are_refused_by_every_method_that_compares_token_by_token(
    place: Path,
) -> None:
    """TRL #4562, ATLAS #45, DistillKit #7 and #29 fed the teacher the student's ids; What
    compares texts instead is in test_other_tokenizers.py."""
    other = character_tokenizer(extra=["x1"])
    other.save_pretrained(place / "teacher")
    asking = [n for n in TRAINED if read_recipe(n).teacher.scores != "none"]
    for method in [n for n in asking if n not in ("alm", "uld")]:
        with pytest.raises(UserError, match=r"must share one vocabulary.*'x1' for the teacher"):
            trained(
                recipe_in(place, method, "student.init=pretrained", "student.decoder_layers=null")
            )
    assert not (place / "runs").exists()
