"""Runs with a teacher, labels or rollouts on servers are those of one process, and tell no key."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import assert_equal_students, folder_for, losses, recipe_in, trained
from tests.servers import FakeVllm, served
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.assembly import corpus
from seqdistill.core.errors import RecipeError, ServerError
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.generation import server
from seqdistill.jobs.doctor import examine
from seqdistill.jobs.label import label_data, plan_labels
from seqdistill.jobs.plan import plan
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.shards import read_shard
from seqdistill.sources.teacher_corpus import TeacherCorpus

SCORES = "/v1/completions"
SECRET = "sk-very-secret"
NO_MODEL = "teacher.model=null"
ALL_SYMBOLS = ("teacher.scores=top_k", "teacher.top_k=40")
ON_POLICY = ("sequences.rollouts.engine=vllm", "objective.monitors=[]")
STEADY = ("training.learning_rate=1e-3", "training.optimizer=sgd")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT_S", 0.02)
    monkeypatch.setenv("SEQDISTILL_API_KEY", SECRET)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = folder_for(tmp_path, "llama")
    for name in ("teacher", "student"):
        character_tokenizer(closes=False, extra="01234").save_pretrained(folder / name)
    return folder


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    tokenizer = character_tokenizer(closes=False, extra="01234")
    with served(tiny_model("llama", seed=3), tokenizer=tokenizer) as (found,):
        found.key = SECRET
        yield found


@pytest.fixture
def writer(place: Path) -> Iterator[FakeVllm]:
    tokenizer = character_tokenizer(closes=False, extra="01234")
    with served(tiny_model("llama", seed=8), tokenizer=tokenizer) as (found,):
        found.key = SECRET
        yield found


def at(fake: FakeVllm, key: str = "teacher.server", **settings: object) -> str:
    return f"{key}={ {'url': fake.url, **settings} }"


def test_a_run_with_its_teacher_on_a_server_is_the_run_in_process(
    place: Path, fake: FakeVllm
) -> None:
    whole = trained(recipe_in(place, "word_kd", *STEADY, name="whole"))
    remote = recipe_in(place, "word_kd", *STEADY, *ALL_SYMBOLS, NO_MODEL, at(fake), name="remote")
    run = trained(remote)
    assert losses(run) == pytest.approx(losses(whole), abs=2e-5)
    told = run.read_manifest()["teacher_server"]
    assert isinstance(told, dict) and told["model"] == "teacher"
    for path in run.path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_server_that_dies_in_mid_run_costs_nothing(place: Path, fake: FakeVllm) -> None:
    def recipe(name: str) -> Recipe:
        more = (*ALL_SYMBOLS, at(fake, patience_s=20.0), "training.steps=6")
        return recipe_in(place, "word_kd", *more, name=name)

    whole = trained(recipe("whole"))
    scored = fake.count(SCORES)

    def kill_and_start() -> None:
        while fake.count(SCORES) < scored + 24:  # of which 17 compare
            time.sleep(0.002)
        fake.stop()
        time.sleep(0.3)
        fake.start()

    killer = threading.Thread(target=kill_and_start, daemon=True)
    killer.start()
    run = trained(recipe("killed"))
    killer.join(5.0)
    assert not killer.is_alive(), "killed while it was needed"
    assert losses(run) == losses(whole)
    assert_equal_students(run, whole)


def test_a_run_goes_on_where_its_server_moved_to(place: Path, fake: FakeVllm) -> None:
    recipe = recipe_in(place, "word_kd", *ALL_SYMBOLS, NO_MODEL, at(fake))
    train(recipe, progress=NoProgress(), until=2)
    fake.stop()
    fake._port = 0
    fake.start()
    moved = recipe_in(place, "word_kd", *ALL_SYMBOLS, NO_MODEL, at(fake, patience_s=9.0))
    assert moved.teacher.server.url != recipe.teacher.server.url
    assert len(losses(trained(moved, resume=True))) == 4


def test_rollouts_on_a_server_scored_by_another(
    place: Path, fake: FakeVllm, writer: FakeVllm
) -> None:
    more = (*ALL_SYMBOLS, NO_MODEL, at(fake), at(writer, "sequences.rollouts.server"), *ON_POLICY)
    run = trained(recipe_in(place, "on_policy_kd", *more))
    assert writer.count("/collective_rpc") == 4, "one refresh an update"
    assert '"sequences.rollouts": "vllm"' in run.manifest_path.read_text()
    assert len(losses(run)) == 4
    again = trained(recipe_in(place, "on_policy_kd", *more, name="again"))
    assert_equal_students(run, again)


def test_a_refused_server_leaves_no_run_behind(place: Path, fake: FakeVllm) -> None:
    fake.model = tiny_model("llama", seed=4)
    recipe = recipe_in(place, "word_kd", *ALL_SYMBOLS, at(fake))
    with pytest.raises(ServerError, match="local copy"):
        trained(recipe)
    assert not (place / "runs" / "run").exists()


def test_a_plan_asks_no_server(place: Path, fake: FakeVllm) -> None:
    more = (*ALL_SYMBOLS, NO_MODEL, at(fake), at(fake, "sequences.rollouts.server"), *ON_POLICY)
    lines = dict(plan(recipe_in(place, "on_policy_kd", *more)).lines())
    assert not fake.asked and f"asked: at {fake.url}" in lines["teacher"]


def test_doctor_asks_the_server(place: Path, fake: FakeVllm) -> None:
    recipe = recipe_in(place, "word_kd", *ALL_SYMBOLS, at(fake))
    said = [one for one in examine(recipe).findings if one.subject == "servers"]
    assert [one.level for one in said] == ["ok"] and "from the local copy" in said[0].found
    fake.max_length = 12
    said = [one for one in examine(recipe).findings if one.subject == "servers"]
    assert [one.level for one in said] == ["error"] and "--max-model-len" in said[0].found


@pytest.mark.parametrize("kind", ["llama", "mbart"])
def test_texts_of_a_server_are_labels(tmp_path: Path, fake: FakeVllm, kind: str) -> None:
    folder = folder_for(tmp_path, kind)
    decoding = "sequences.decoding={engine: server, beam_size: 1, max_new_tokens: 12}"
    more = (NO_MODEL, at(fake, model="teacher", api="chat"), decoding)
    fake.text = " rot und blau"
    recipe = recipe_in(folder, "seq_kd", *more)
    run = trained(recipe)
    path, body = fake.asked[-1]
    assert path == "/v1/chat/completions" and body["messages"][0]["role"] == "user"
    assert len(losses(run)) == 4 and fake.count(path) == 24
    (made,) = (folder / "runs" / "teacher-corpora").iterdir()
    outputs = [
        one for _, found in TeacherCorpus.open(made, expected=None).by_example() for one in found
    ]
    assert {one.text for one in outputs} == {fake.text} and all(one.finished for one in outputs)
    trained(recipe_in(folder, "seq_kd", *more, name="again"))
    assert fake.count(path) == 24, "labels are reused"


def test_labelling_is_resumed_where_a_server_gave_up(
    place: Path, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_examples(str(place / "train.tsv"), split="train")
    given = [
        f"data.train={place / 'train.tsv'}",
        f"output_dir={place / 'runs' / 'x'}",
        at(fake, model="teacher", patience_s=0.05, concurrency=1),
        "sequences.decoding={engine: server, mode: sample, n_best: 3, max_new_tokens: 5}",
    ]
    recipe = load_recipe("seq_kd", [*given, NO_MODEL], purpose="label")
    planned = dict(plan_labels(recipe))
    assert fake.url in planned["teacher's labels"] and not fake.asked
    original = fake.answer

    def tired(path: str, *given: Any) -> tuple[int, Any]:
        if path == SCORES and fake.count(SCORES) >= 12:
            return 503, {}
        return original(path, *given)

    monkeypatch.setattr(corpus, "_SERVED_TOGETHER", 8)
    with pytest.raises(ServerError, match="within patience_s"), monkeypatch.context() as context:
        context.setattr(fake, "answer", tired)
        label_data(recipe, progress=NoProgress())
    folder = label_data(recipe, progress=NoProgress())
    assert 24 < fake.count(SCORES) <= 28, "the first part is not asked for again"
    found = [one for path in sorted(folder.glob("*.parquet")) for one in read_shard(path)]
    assert [name for name, _ in found] == [row.id for row in rows]
    assert all(len(outputs) == 3 for _, outputs in found)
    asked = {body["prompt"] for path, body in fake.asked if path == SCORES}
    assert asked == {row.source for row in rows}


def test_the_best_of_n_texts_are_chosen(place: Path, fake: FakeVllm) -> None:
    words = "engine: server, mode: sample, n_best: 4, max_new_tokens: 12, beam_size: 5"
    decoding = f"sequences.decoding={{{words}}}"  # a beam of 5 is no beam of the preset's
    run = trained(recipe_in(place, "seq_inter", NO_MODEL, at(fake, model="teacher"), decoding))
    assert len(losses(run)) == 4


def test_a_chat_is_asked_of_a_chat_api_alone(place: Path, fake: FakeVllm) -> None:
    asked = {"role": "user", "content": "a"}
    chats = json.dumps({"messages": [asked, {"role": "assistant", "content": "b"}]})
    (place / "chats.jsonl").write_text(f"{chats}\n" * 2)
    given = [
        f"data.train={place / 'chats.jsonl'}",
        f"output_dir={place / 'runs' / 'x'}",
        "sequences.decoding={engine: server, beam_size: 1}",
        NO_MODEL,
    ]
    for api in ("chat", "completions"):
        recipe = load_recipe(
            "seq_kd", [*given, at(fake, model="teacher", api=api)], purpose="label"
        )
        if api == "completions":
            with pytest.raises(Exception, match=r"teacher\.server\.api must be chat"):
                label_data(recipe, progress=NoProgress())
        else:
            label_data(recipe, progress=NoProgress())
    assert next(body for path, body in fake.asked if "chat" in path)["messages"] == [asked]


def test_an_encoder_decoder_is_scored_by_no_server(tmp_path: Path, fake: FakeVllm) -> None:
    folder = folder_for(tmp_path, "mbart")
    with pytest.raises(RecipeError, match=r"decoder-only student"):
        trained(recipe_in(folder, "word_kd", *ALL_SYMBOLS, NO_MODEL, at(fake)))
