"""Features from a recipe's keys to gradients, checkpoints and the report; what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.features import ORACLES, alone, of_layer
from tests.jobs import naive
from tests.jobs.runs import (
    assert_equal_students,
    bench,
    folder_for,
    recipe_in,
    student_of,
    trained,
)
from tests.tiny import tiny_model
from torch import Tensor

from seqdistill.assembly.teachers import live_teacher
from seqdistill.core.errors import UserError
from seqdistill.core.families import FEATURES, Stack
from seqdistill.core.progress import NoProgress
from seqdistill.core.terms import layer_pairs
from seqdistill.data.encoding import EncodedExample
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.train import train
from seqdistill.recipe.objective_schema import Feature
from seqdistill.report.page import build_report
from seqdistill.training.optimization import StudentLoss

DEPTHS: dict[str, dict[Stack, tuple[int, int]]] = {
    "mbart": {"encoder": (2, 3), "decoder": (2, 3)},
    "llama": {"decoder": (2, 3)},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind a teacher twice as wide as the student, with twice its heads, and deeper."""
    found = {kind: folder_for(tmp_path_factory.mktemp(kind), kind) for kind in DEPTHS}
    for who, depth, size, heads in (("student", 2, 12, 2), ("teacher", 3, 24, 4)):
        shapes: dict[str, dict[str, int]] = {
            "mbart": {
                "d_model": size,
                "encoder_layers": depth,
                "decoder_layers": depth,
                "encoder_attention_heads": heads,
                "decoder_attention_heads": heads,
            },
            "llama": {
                "hidden_size": size,
                "num_hidden_layers": depth,
                "num_attention_heads": heads,
                "num_key_value_heads": heads // 2,
                "head_dim": 6,
            },
        }
        for kind, folder in found.items():
            tiny_model(kind, seed=depth, **shapes[kind]).save_pretrained(folder / who)
    return found


def feature(match: str, **given: Any) -> str:
    return f"objective.features={json.dumps([{'match': match, **given}])}"


CASES: list[dict[str, Any]] = [
    {"match": "hidden_mse"},
    {"match": "hidden_mse", "stack": "decoder", "layers": "last"},
    {"match": "hidden_cosine", "weight": {"start": 0.5, "end": 3.0}, "layers": [[1, 3], [2, 1]]},
    {"match": "attention_transfer", "weight": 4.0},
    {"match": "attention_relations", "layers": "last", "relation_heads": 3},
]


def test_every_key_of_a_feature_has_a_case() -> None:
    assert {case["match"] for case in CASES} == set(FEATURES)
    keys = {key for case in CASES for key in case} | {"project"}  # which has a test of its own
    own = {key for member in FEATURES.values() for key in member.parameters.__pydantic_fields__}
    assert keys == {*Feature.model_fields, *own}


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_the_loss_is_the_formula_one_sequence_at_a_time(
    places: dict[str, Path], kind: str, case: dict[str, Any]
) -> None:
    built = bench(recipe_in(places[kind], "supervised_kd", feature(**case)))
    prepared = built.prepared
    loss = StudentLoss(prepared.adapted.double().eval(), prepared.objective).double()
    assert prepared.teacher is not None
    prepared.teacher.model.double()
    prepared.objective.begin_update(3, 3, logged=True)
    batch = built.batch()
    total, count, parts = loss(batch, live_teacher(prepared, torch.device("cpu")).score(batch))
    models = [naive.plain_model(places[kind] / who) for who in ("student", "teacher")]
    for model in models:
        model.set_attn_implementation("eager")
    named = {one.id: one for one in built.examples}
    examples = [named[name] for name in batch.example_ids]
    (matching,) = prepared.objective.features.children()
    matrices = dict(matching.named_parameters())
    distance = by_formula(case, kind, models, examples, list(matrices.values()))
    # Softmax of attention and weights of sequences are fp32 here and there.
    found = float(parts[case["match"]][0] / count)
    assert found == pytest.approx(float(distance.detach()), rel=1e-6)
    weight = case.get("weight", 1.0)
    factor = weight["end"] if isinstance(weight, dict) else weight
    sequences = []
    for e in examples:
        logits = [naive.plain_logits(model, e.source_ids, e.target_ids) for model in models]
        sequences.append(naive.Scored(e.target_ids, logits[0], logits[1]))
    terms = [{"divergence": "forward_kl"}]
    expected = naive.loss(sequences, terms, reduction="sequence") + factor * distance
    torch.testing.assert_close(total / count, expected, rtol=1e-6, atol=0.0)
    own = dict(models[0].named_parameters())
    live = [prepared.student.model.get_parameter(name) for name in own]
    torch.testing.assert_close(
        torch.autograd.grad(total / count, [*live, *matrices.values()], allow_unused=True),
        torch.autograd.grad(expected, [*own.values(), *matrices.values()], allow_unused=True),
        rtol=1e-5,
        atol=1e-6,
    )


def by_formula(
    case: dict[str, Any],
    kind: str,
    models: Sequence[Any],
    examples: Sequence[EncodedExample],
    matrices: Sequence[Tensor],
) -> Tensor:
    """The mean over sequences of the mean over pairs of layers of the mean over tokens."""
    match, reads = case["match"], FEATURES[case["match"]].reads
    found: list[Tensor] = []
    for example in examples:
        student, teacher = (alone(model, example) for model in models)
        values, number = [], 0
        for stack, (size, other) in DEPTHS[kind].items():
            if case.get("stack", stack) != stack:
                continue
            given: Any = case.get("layers", "uniform")
            layers: Any = given if isinstance(given, str) else tuple(map(tuple, given))
            for ours, theirs in layer_pairs(layers, size, other):
                own = of_layer(models[0], kind, student[stack], ours, stack)
                others = of_layer(models[1], kind, teacher[stack], theirs, stack)
                if "hidden" in reads:
                    own["hidden"] = own["hidden"] @ matrices[number].T
                number += 1
                length = len(own["hidden"])
                first = length - len(example.target_ids) if stack == "decoder" else 0
                a, b = ([each[read] for read in reads] for each in (own, others))
                every = [ORACLES[match](a, b, t, stack == "decoder") for t in range(first, length)]
                values.append(torch.stack(every).mean())
        found.append(torch.stack(values).mean())
    return torch.stack(found).mean()


def test_matrices_are_trained_kept_and_no_part_of_the_student(places: dict[str, Path]) -> None:
    """A run of hidden states that pauses within an epoch is the run that never did."""
    given = ["training.steps=5", "training.dropout=0.1", "training.checkpoint_every=null"]
    given.append("training.gradient_accumulation_steps=2")
    whole = trained(recipe_in(places["mbart"], "hidden_states", *given, name="whole"))
    recipe = recipe_in(places["mbart"], "hidden_states", *given, name="paused")
    states = []
    for until in (2, 5):
        run = train(recipe, progress=NoProgress(), resume=True, until=until)
        states.append(load_file(run.checkpoints_path / f"checkpoint-{until}/features.safetensors"))
    num_matrices = sum(size for size, _ in DEPTHS["mbart"].values())
    assert [tuple(matrix.shape) for matrix in states[1].values()] == [(24, 12)] * num_matrices
    assert not any(torch.equal(states[0][name], matrix) for name, matrix in states[1].items())
    kept = load_file(whole.checkpoints_path / "checkpoint-5/features.safetensors")
    assert kept.keys() == states[1].keys()
    assert all(torch.equal(kept[name], matrix) for name, matrix in states[1].items())
    assert_equal_students(run, whole)
    plain = trained(recipe_in(places["mbart"], "word_kd", *given, name="plain"))
    assert student_of(run).keys() == student_of(plain).keys()
    assert not all(torch.equal(t, student_of(plain)[n]) for n, t in student_of(run).items())
    evaluate_run(whole, progress=NoProgress())
    assert "hidden_states, hidden_mse" in build_report(whole.path)


def test_a_matrix_where_widths_are_equal_is_asked_for(places: dict[str, Path]) -> None:
    found = []
    for more in ({}, {"project": True}):
        built = bench(
            recipe_in(
                places["llama"],
                "supervised_kd",
                feature("hidden_cosine", **more),
                f"teacher.model={places['llama'] / 'student'}",
            )
        )
        found.append([tuple(p.shape) for p in built.prepared.objective.features.parameters()])
    assert found == [[], [(12, 12), (12, 12)]]


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        ("llama", [feature("hidden_mse", stack="encoder")], r"features\.0\.stack .* \(decoder\)"),
        (
            "llama",
            [feature("hidden_mse", layers=[[1, 2], [3, 3]])],
            "3 of the student's decoder",
        ),
        (
            "mbart",
            [feature("hidden_mse", layers=[[1, 4]])],
            "4 of the teacher's encoder",
        ),
        (
            "mbart",
            [feature("hidden_mse", layers=[[0, 1]])],
            "must be uniform, last, or pairs",
        ),
        (
            "mbart",
            [feature("hidden_mse", layers="middle")],
            "must be uniform, last, or pairs",
        ),
        ("mbart", [feature("hidden_mae")], "match must be hidden_mse, hidden_cosine"),
        ("mbart", [feature("hidden_mse", relation_heads=2)], "it belongs to attention_relations"),
        (
            "mbart",
            [feature("hidden_mse", layer="last")],
            "did you mean '.*0.layers'",
        ),
        ("mbart", [feature("attention_relations")], "got 8 and queries of 12"),
        ("mbart", [feature("hidden_mse", weight=0)], "weight must be greater than 0"),
        (
            "mbart",
            [feature("attention_transfer", project=True)],
            "project must be left out",
        ),
        (
            "mbart",
            [feature("attention_transfer"), "training.attention=sdpa"],
            r"training\.attention must be eager with the objective's attention_transfer",
        ),
        (
            "mbart",
            [feature("hidden_mse"), "teacher.cache_hidden_states=fp16"],
            r"teacher\.cache_hidden_states must be none with the objective's hidden_mse",
        ),
        (
            "mbart",
            [feature("hidden_mse"), "teacher.prompt_column=hint"],
            r"teacher\.prompt_column must be left out with the objective's hidden_mse",
        ),
        (
            "mbart",
            [feature("hidden_mse"), "teacher.scores=none"],
            r"teacher\.scores must be dense for the objective's",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    places: dict[str, Path], kind: str, given: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        trained(recipe_in(places[kind], "word_kd", *given, name="refused"))
    assert not (places[kind] / "runs" / "refused").exists()


def test_attention_weights_are_told_whatever_kernel_is_fastest(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqdistill.jobs.training.use_fast_attention", lambda *_given: None)
    recipe = recipe_in(places["mbart"], "word_kd", feature("attention_transfer"), name="attention")
    rows = trained(recipe).read_metrics()
    assert all(0.0 < float(str(row["attention_transfer"])) < 2.0 for row in rows if "tokens" in row)
