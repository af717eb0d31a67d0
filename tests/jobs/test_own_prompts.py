"""Teachers that read another prompt, or are the student itself, from files to checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tests.chat_families import FAMILIES, family_tokenizer
from tests.jobs.runs import (
    assert_equal_students,
    folder_for,
    losses,
    recipe_in,
    student_of,
    texts,
    trained,
)

from seqdistill.assembly.preparing import prepare
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.data.dataset import leave_out_long
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, Turn
from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode
from seqdistill.jobs.label import label_data
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.completions import PromptCompletions
from seqdistill.teachers.kept_scores import SCORES, read_record

ROWS: list[dict[str, object]] = [
    {"source": "rot", "target": "tor", "hint": "rot: tor"},
    {"source": "drei eins", "target": "snie ierd", "hint": "snie"},
    {"source": "blau", "target": "ualb", "hint": "blau blau blau"},
]
USER, SYSTEM = Turn("user", "zwei"), Turn("system", "be brief")


def as_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_tsv(path: Path, rows: list[dict[str, object]]) -> Path:
    lines = ["\t".join(map(str, row)) for row in ([*rows[0]], *(row.values() for row in rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


Write = Callable[[Path, list[dict[str, object]]], Path]


@pytest.mark.parametrize(
    ("write", "suffix"), [(as_jsonl, "jsonl"), (as_tsv, "tsv"), (as_parquet, "parquet")]
)
def test_the_column_is_read_from_every_kind_of_rows(
    tmp_path: Path, write: Write, suffix: str
) -> None:
    path = str(write(tmp_path / f"train.{suffix}", ROWS))
    examples = read_examples(path, teacher_column="hint")
    assert [one.teacher_source for one in examples] == [row["hint"] for row in ROWS]
    assert [one.for_teacher().source for one in examples] == [row["hint"] for row in ROWS]
    with pytest.raises(DataError, match=r"teacher\.prompt_column must name columns, found 'hints'"):
        read_examples(path, teacher_column="hints")
    empty = [{**ROWS[0]}, {**ROWS[1], "hint": ""}]
    path = str(write(tmp_path / f"empty.{suffix}", empty))
    with pytest.raises(DataError, match=r"(?s)1 of .*[: ](2|3): hint must hold text, found noth"):
        read_examples(path, teacher_column="hint")


def test_of_a_conversation_it_is_what_the_user_said_last_or_all_turns(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "zwei"}]
    answer = {"role": "assistant", "content": "drei"}
    listed: list[object] = [{"role": "user", "content": "zwei und drei"}]
    rows: list[dict[str, object]] = [
        {"messages": [*turns, answer], "hint": "zwei: drei"},
        {"messages": [*turns, answer], "hint": listed},
    ]
    first, second = read_examples(str(as_jsonl(tmp_path / "a.jsonl", rows)), teacher_column="hint")
    assert first.messages == (SYSTEM, USER)
    assert first.for_teacher().messages == (SYSTEM, Turn("user", "zwei: drei"))
    assert second.for_teacher().messages == (Turn("user", "zwei und drei"),)
    assert first.for_teacher().target == "drei"
    wrong: list[tuple[dict[str, object], str]] = [
        ({**rows[0], "hint": [*listed, answer]}, "must end with a turn to answer, found one of"),
        ({**rows[0], "hint": None}, "hint must be text, found nothing"),
        ({"messages": [turns[0], answer], "hint": "a"}, "must be a list of messages where"),
    ]
    for row, told in wrong:
        path = str(as_jsonl(tmp_path / "wrong.jsonl", [row]))
        with pytest.raises(DataError, match=told):
            read_examples(path, teacher_column="hint")
    taken: dict[str, object] = {"prompt": "a", "completion": "b", "system": "c"}
    with pytest.raises(DataError, match="must be a column that the student does not read"):
        read_examples(str(as_jsonl(tmp_path / "b.jsonl", [taken])), teacher_column="system")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_turns_are_the_same_tokens_for_the_teacher(name: str) -> None:
    """In every template, and where it opens an answer otherwise than it shows one."""
    tokenizer, turns = family_tokenizer(name), (Turn("user", "Name a fruit"),)
    own = Example("1", "", "pear", turns, teacher_messages=turns)
    (found,) = encode([own], tokenizer, "causal")
    assert found.teacher_source_ids == found.source_ids
    assert found.for_teacher().prompt_ids == found.prompt_ids
    assert found.answered((5,)).for_teacher().source_ids == found.prompt_ids
    longer = (Turn("user", "Name a fruit, apple or pear"),)
    (found,) = encode(
        [Example("1", "", "pear", turns, teacher_messages=longer)], tokenizer, "causal"
    )
    (alone,) = encode([Example("1", "", "pear", longer)], tokenizer, "causal")
    assert found.for_teacher().source_ids == alone.source_ids
    assert found.for_teacher().target_ids == alone.target_ids == found.target_ids


def test_earlier_turns_are_not_learned_from_a_teacher_that_may_not_read_them() -> None:
    turns = (USER, Turn("assistant", "pear"), USER)
    example = Example("1", "", "apple", turns, teacher_messages=(USER,))
    with pytest.raises(DataError, match=r"earlier turns .* set data\.assistant_turns=last"):
        encode([example], family_tokenizer("qwen"), "causal")


def test_long_prompts_of_the_teacher_leave_an_example_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        EncodedExample("1", (4, 5), (6, 2), teacher_source_ids=(4,) * 9),
        EncodedExample("2", (4, 5), (6, 2), teacher_source_ids=(4,) * 3),
        EncodedExample("3", (4,) * 9, (6, 2), teacher_source_ids=(4,)),
    ]
    kept = leave_out_long(rows, max_source_tokens=5, max_target_tokens=5)
    assert ([one.id for one in kept.examples], kept.num_too_long) == (["2"], 2)
    assert kept.examples[0] == rows[1]
    assert "left out 2 examples longer than the limits, 1 of them for the teacher" in caplog.text


def test_rollouts_that_are_kept_keep_what_the_teacher_reads() -> None:
    prompt = EncodedExample("1", (4, 5), (), teacher_source_ids=(6, 7, 8))
    found = PromptCompletions((prompt,), Completions.of_rows([(9, 2)]), ("student",), (3,))
    again = PromptCompletions.from_state_dict(json.loads(json.dumps(found.state_dict())))
    assert again.prompts == found.prompts


@pytest.fixture(scope="module", params=["mbart", "llama"])
def hinted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_for(tmp_path_factory.mktemp("hinted"), request.param)
    rows = [row.split("\t") for row in (folder / "train.tsv").read_text("utf-8").splitlines()[1:]]
    as_jsonl(folder / "hinted.jsonl", [{"source": a, "target": b, "hint": b} for a, b in rows])
    return folder


def recipe_of(folder: Path, preset: str, name: str, **given: object) -> Recipe:
    settings = {
        "data.dev": None,
        "data.train": str(folder / "hinted.jsonl"),
        "teacher.model": "student",
        "teacher.prompt_column": "hint",
        **given,
    }
    return recipe_in(folder, preset, *texts(settings), name=name)


def test_a_run_that_pauses_has_the_average_and_the_student_of_one_that_does_not(
    hinted: Path,
) -> None:
    decay = 0.8
    given = {"teacher.average_decay": decay, "training.steps": 4, "training.learning_rate": 1e-3}
    whole = trained(recipe_of(hinted, "opsd", "whole", **given))
    recipe = recipe_of(hinted, "opsd", "paused", **given, **{"training.checkpoint_every": None})
    start = load_file(hinted / "student" / "model.safetensors")
    average = {f"module.{name}": weight.double() for name, weight in start.items()}
    for update in (1, 2, 3):
        run = train(recipe, progress=NoProgress(), resume=True, until=update)
        folder = run.checkpoints_path / f"checkpoint-{update}"
        student, found = (load_file(folder / f"{n}.safetensors") for n in ("model", "teacher"))
        assert found
        for name, weight in found.items():
            average[name] = decay * average[name] + (1.0 - decay) * student[name].double()
            torch.testing.assert_close(weight.double(), average[name], rtol=1e-6, atol=1e-7)
    paused = trained(recipe, resume=True)
    assert_equal_students(paused, whole)
    assert losses(paused) == losses(whole)
    taught = paused.read_manifest()["teacher"]
    assert isinstance(taught, dict)
    assert "decay 0.8" in str(taught["weights"]) and "hint" in str(taught["reads"])


def test_under_adapters_the_first_weights_teach_without_a_copy(hinted: Path) -> None:
    given = {"student.lora.rank": 2, "training.learning_rate": 0.05}
    recipe = recipe_of(hinted, "opsd", "own", **given)
    prepared = prepare(recipe)
    assert prepared.teacher is not None and prepared.teacher.model is prepared.student.model
    named = {**given, "teacher.model": str(hinted / "student")}
    own, apart = trained(recipe), trained(recipe_of(hinted, "opsd", "apart", **named))
    assert losses(own) == pytest.approx(losses(apart), rel=1e-4)
    first, second = student_of(own), student_of(apart)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_kept_states_are_of_the_teachers_prompts(hinted: Path) -> None:
    live, kept = (
        trained(recipe_of(hinted, "context_distill", keep, **{"teacher.cache_hidden_states": keep}))
        for keep in ("none", "fp32")
    )
    assert losses(kept) == pytest.approx(losses(live), rel=1e-5)
    (first,) = hinted.rglob("teacher-scores/*")
    trained(
        recipe_of(
            hinted,
            "context_distill",
            "other",
            **{"teacher.cache_hidden_states": "fp32", "teacher.prompt_column": "source"},
        )
    )
    (second,) = {*hinted.rglob("teacher-scores/*")} - {first}
    assert (first / SCORES).is_file()
    records = [read_record(folder) for folder in (first, second)]
    assert records[0].data_fingerprint != records[1].data_fingerprint
    assert records[0].settings == records[1].settings


def test_labels_are_written_after_the_teachers_prompts(hinted: Path) -> None:
    given = {
        "data.train": str(hinted / "hinted.jsonl"),
        "teacher.model": "student",
        "student.model": str(hinted / "student"),
        "teacher.prompt_column": "hint",
        "output_dir": str(hinted / "runs" / "labels"),
        "sequences.decoding": {"engine": "transformers", "mode": "sample", "max_new_tokens": 5},
    }
    recipe = load_recipe("seq_kd", texts(given), purpose="label")
    folder = label_data(recipe, progress=NoProgress())
    rows = pq.read_table(folder / "shard-00000.parquet").to_pylist()
    examples = read_examples(str(hinted / "hinted.jsonl"), teacher_column="hint")
    assert {row["id"]: row["source"] for row in rows} == {e.id: e.teacher_source for e in examples}


def test_a_student_is_not_taught_by_itself_without_a_context(hinted: Path) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.prompt_column must be given"):
        recipe_of(hinted, "opsd", "none", **{"teacher.prompt_column": None})
