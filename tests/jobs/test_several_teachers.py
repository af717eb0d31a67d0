"""Runs with several teachers: mixed, routed by a column, over one base, and as a pool of labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.runs import WORDS, folder_for, losses, recipe_in, student_of, texts, trained
from tests.tiny import EOS, character_tokenizer, tiny_model

from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.sequences import training_sequences
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.label import label_data, plan_labels
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import load_pair
from seqdistill.models.lora import LoraAdapter
from seqdistill.models.saving import save_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.teacher_corpus import TeacherCorpus

SGD = ("training.optimizer=sgd", "training.learning_rate=0.5", "training.max_grad_norm=1e9")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A second teacher of other weights, and rows that say whose they are."""
    folder = folder_for(tmp_path, "mbart")
    model = tiny_model("mbart", seed=3)
    model.final_logits_bias[0, EOS] += 8.0
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(folder / "teacher2")
    character_tokenizer().save_pretrained(folder / "teacher2")
    draw = random.Random(0)
    rows = []
    for number in range(16):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 3)))
        language = ("de", "fr")[number % 2]
        rows.append({"id": f"r{number}", "source": text, "target": text[::-1], "lang": language})
    write_rows(folder / "routed.jsonl", rows)
    return folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def several(folder: Path, *members: dict[str, Any]) -> str:
    named = [{**member, "model": str(folder / member["model"])} for member in members]
    return texts({"teacher.model": named})[0]


def run_of(folder: Path, method: str, *overrides: str, name: str) -> RunDirectory:
    return trained(recipe_in(folder, method, *overrides, name=name))


def assert_close(one: RunDirectory, other: RunDirectory) -> None:
    first, second = student_of(one), student_of(other)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("mixture", ["probabilities", "log_probabilities"])
def test_twice_the_same_teacher_trains_the_student_of_one(place: Path, mixture: str) -> None:
    one = run_of(place, "word_kd", *SGD, name="one")
    members = several(place, {"model": "teacher"}, {"model": "teacher"})
    two = run_of(place, "word_kd", *SGD, members, f"teacher.mixture={mixture}", name="two")
    assert_close(one, two)
    assert load_recipe(str(two.recipe_path), []).teacher.weights == (0.5, 0.5)
    facts: dict[str, Any] = two.read_manifest()
    assert "0.5" in facts["teacher"]["mixture"]
    assert {name.split("/")[0] for name in facts["inputs"]["teacher.model"]} == {"1", "2"}


def test_rows_are_routed_by_their_column_in_training_and_on_policy(place: Path) -> None:
    """One update on all rows has the loss of both teachers' rows alone, counted together."""
    data = f"data.train={place / 'routed.jsonl'}"
    one_update = ("training.steps=1", "training.schedule=constant", "training.warmup_steps=0")
    more = (*SGD, *one_update, "training.batch_tokens=4000")
    members = several(
        place, {"model": "teacher", "serves": "de"}, {"model": "teacher2", "serves": "fr"}
    )
    found = {}
    for method in ("word_kd", "on_policy_kd"):
        both = run_of(
            place, method, *more, data, members, "teacher.route_by=lang", name=f"both-{method}"
        )
        (found[method],) = losses(both)
    rows = [json.loads(line) for line in (place / "routed.jsonl").read_text().splitlines()]
    total, count = 0.0, 0.0
    for language, teacher in (("de", "teacher"), ("fr", "teacher2")):
        part = place / f"{language}.jsonl"
        write_rows(part, [row for row in rows if row["lang"] == language])
        alone = run_of(
            place,
            "word_kd",
            *more,
            f"data.train={part}",
            f"teacher.model={place / teacher}",
            name=language,
        )
        (loss,) = losses(alone)
        tokens: Any = alone.read_metrics()[0]["tokens"]
        total, count = total + loss * tokens, count + tokens
    assert found["word_kd"] == pytest.approx(total / count, rel=1e-5)


def test_a_value_that_no_teacher_serves_names_its_row(place: Path) -> None:
    rows = [json.loads(line) for line in (place / "routed.jsonl").read_text().splitlines()]
    rows[4]["lang"] = "it"
    write_rows(place / "routed.jsonl", rows)
    members = several(
        place, {"model": "teacher", "serves": "de"}, {"model": "teacher2", "serves": "fr"}
    )
    more = (f"data.train={place / 'routed.jsonl'}", members)
    with pytest.raises(UserError, match=r"routed.jsonl:5: lang must be .*de, fr.*found 'it'"):
        run_of(place, "word_kd", *more, "teacher.route_by=lang", name="x")
    with pytest.raises(UserError, match=r"teacher\.route_by must name columns, found 'land'"):
        run_of(place, "word_kd", *more, "teacher.route_by=land", name="x")
    assert not (place / "runs").exists()


def test_every_teacher_must_have_the_students_vocabulary(place: Path) -> None:
    tokenizer = character_tokenizer(extra=("@",))
    tiny_model("mbart", vocab_size=len(tokenizer)).save_pretrained(place / "foreign")
    tokenizer.save_pretrained(place / "foreign")
    members = several(place, {"model": "teacher"}, {"model": "foreign"})
    with pytest.raises(UserError, match=r"Of the teachers '\S*foreign': .*one vocabulary"):
        run_of(place, "word_kd", members, name="x")


def test_adapters_and_their_base_train_as_their_merged_copies_do(place: Path) -> None:
    for number in (1, 2):
        pair = load_pair(str(place / "teacher"))
        lora = LoraAdapter(
            pair.model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear", seed=number
        )
        with torch.no_grad():
            for name, weight in pair.model.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
        pair.model.config._name_or_path = str(place / "teacher")
        lora.save(place / f"adapter{number}")
        config = place / f"adapter{number}" / "adapter_config.json"
        told = json.loads(config.read_text())
        config.write_text(json.dumps({**told, "base_model_name_or_path": str(place / "teacher")}))
        merged = load_pair(str(place / f"adapter{number}"))
        save_pair(merged, place / f"merged{number}")
    weights = (0.5, 0.2, 0.3)
    runs = []
    for kind in ("adapter", "merged"):
        names = (f"{kind}1", "teacher", f"{kind}2")
        members = several(
            place, *({"model": n, "weight": w} for n, w in zip(names, weights, strict=True))
        )
        if kind == "adapter":
            prepared = prepare(recipe_in(place, "word_kd", members))
            assert len({id(pair.model) for pair in prepared.teachers}) == 1
        runs.append(run_of(place, "word_kd", *SGD, members, name=kind))
    assert_close(*runs)


def test_labels_of_several_teachers_are_a_pool_to_choose_from(place: Path) -> None:
    members = several(place, {"model": "teacher"}, {"model": "teacher2"})
    decoding = ("sequences.decoding.beam_size=3", "sequences.decoding.n_best=2")
    recipe = recipe_in(place, "seq_kd", members, *decoding)
    folder = label_data(recipe, progress=NoProgress())
    corpora = [TeacherCorpus.open(f.parent, expected=None) for f in folder.glob("*/corpus.json")]
    assert len(corpora) == 2, "each teacher's labels are a corpus of its own"
    assert ["reusing" in text for label, text in plan_labels(recipe) if label.endswith("labels")]
    prepared = prepare(recipe)
    examples, _ = training_sequences(prepared, NoProgress())
    pool: dict[str, list[tuple[float, tuple[int, ...]]]] = {}
    for corpus in corpora:
        for name, outputs in corpus.by_example():
            scored = [(o.log_prob / len(o.token_ids), o.token_ids) for o in outputs]
            pool.setdefault(name, []).extend(scored)
    best = {n: {ids for _, ids in sorted(each, reverse=True)[:2]} for n, each in pool.items()}
    chosen: dict[str, set[tuple[int, ...]]] = {}
    for example in examples:
        chosen.setdefault(example.id, set()).add(example.target_ids)
    assert chosen == {name: ids for name, ids in best.items() if ids}
    assert "reusing" in str(plan(recipe).lines())
    assert trained(recipe).is_finished


def test_interpolation_chooses_from_all_that_the_teachers_wrote(place: Path) -> None:
    members = several(place, {"model": "teacher"}, {"model": "teacher2"})
    decoding = ("sequences.decoding.beam_size=3", "sequences.decoding.n_best=3")
    found = []
    for name, given in (("one", ()), ("two", (members,))):
        recipe = recipe_in(place, "seq_inter", *decoding, *given, name=name)
        _, facts = training_sequences(prepare(recipe), NoProgress())
        interpolation: Any = facts["interpolation"]
        found.append(interpolation)
    assert found[1]["mean_similarity"] >= found[0]["mean_similarity"]
    assert found[1]["num_hypotheses"] > found[0]["num_hypotheses"]
    ranks = found[1]["rank_counts"]
    assert sum(ranks[:3]) and sum(ranks[3:]), "the rank says whose: 3 and more are the second's"


def test_routed_labels_are_each_teachers_of_its_rows(place: Path) -> None:
    members = several(
        place, {"model": "teacher", "serves": "de"}, {"model": "teacher2", "serves": "fr"}
    )
    data = f"data.train={place / 'routed.jsonl'}"
    decoding = ("sequences.decoding.beam_size=3", "sequences.decoding.n_best=3")
    recipe = recipe_in(place, "seq_kd", members, data, "teacher.route_by=lang", *decoding)
    folder = label_data(recipe, progress=NoProgress())
    asked = [
        {name for name, _ in TeacherCorpus.open(f.parent, expected=None).by_example()}
        for f in folder.glob("*/corpus.json")
    ]
    even = {f"r{number}" for number in range(0, 16, 2)}
    assert sorted(asked, key=min) == sorted([even, {f"r{n}" for n in range(1, 16, 2)}], key=min)
    assert trained(recipe).is_finished
