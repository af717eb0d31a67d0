"""Texts of a server as outputs of a teacher: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers import FakeVllm, recorded, served
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.core.errors import ServerError
from seqdistill.generation.server import Answer, ServerClient
from seqdistill.generation.text_server import TextServerGenerator, request_ids, text_of
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.recipe.server_schema import ServerSection

GREEDY = Decoding(beam_size=1, max_new_tokens=7)
SAMPLED = Decoding(mode="sample", n_best=3, sampling_temperature=0.7, top_p=0.9, max_new_tokens=7)
CHAT = request_ids({"messages": [{"role": "user", "content": "Grüß Gott"}]})


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with served(tiny_model("llama"), tokenizer=character_tokenizer(closes=False)) as (found,):
        yield found


def generator(fake: FakeVllm, api: str) -> TextServerGenerator:
    client = ServerClient(ServerSection(url=(fake.url,)), key="teacher.server")
    return TextServerGenerator(client, model="teacher", api=api)


def test_greedy_and_sampled_requests_say_what_they_mean(fake: FakeVllm) -> None:
    generator(fake, "chat").generate([CHAT], GREEDY)
    path, body = fake.asked[-1]
    asked = {"messages": [{"role": "user", "content": "Grüß Gott"}], "model": "teacher"}
    assert path == "/v1/chat/completions"
    assert body == {**asked, "max_tokens": 7, "temperature": 0.0}
    generator(fake, "chat").generate([CHAT, CHAT], SAMPLED, seed=4)
    bodies = [body for _, body in fake.asked[1:]]
    assert all((b["n"], b["temperature"], b["top_p"]) == (3, 0.7, 0.9) for b in bodies)
    assert len({b["seed"] for b in bodies}) == 2 and not any("top_k" in b for b in bodies)
    generator(fake, "chat").generate([CHAT], SAMPLED.model_copy(update={"top_k": 5}))
    assert fake.asked[-1][1]["top_k"] == 5


def test_texts_come_back_whole(fake: FakeVllm) -> None:
    fake.text = " schön 你好"
    ready: list[int] = []
    sources = [request_ids({"prompt": text}) for text in ("a", "b")]
    made = generator(fake, "completions").generate(sources, SAMPLED, on_progress=ready.append)
    assert [len(of_one) for of_one in made] == [3, 3] and sum(ready) == 2
    first = made[0][0]
    assert first.finished and text_of(first.token_ids) == text_of(first.content_ids) == fake.text
    fake.finish_reason = "length"
    ((cut,),) = generator(fake, "completions").generate(sources[:1], GREEDY)
    assert not cut.finished and text_of(cut.token_ids) == fake.text


def test_a_real_servers_answers_are_read(fake: FakeVllm) -> None:
    for name in ("chat", "texts"):
        answer = recorded(name)["answer"]
        found = generator(fake, "chat")._read(answer, wanted=len(answer["choices"]))
        for one, choice in zip(found, answer["choices"], strict=True):
            text = choice["message"]["content"] if name == "chat" else choice["text"]
            assert (text_of(one.token_ids), one.finished) == (
                text,
                choice["finish_reason"] == "stop",
            )


def test_an_answer_without_choices_is_refused(fake: FakeVllm) -> None:
    fake.changes = {"message": None}
    with pytest.raises(ServerError, match=r"teacher\.server\.api"):
        generator(fake, "chat").generate([CHAT], GREEDY)


def test_a_server_that_writes_fewer_texts_than_asked_is_refused(
    fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers ignore `n`: the best of four would be the best of one."""
    for found in (1, 0):
        monkeypatch.setattr(ServerClient, "_asked", lambda *_, n=found: recorded_with(n))
        with pytest.raises(ServerError, match=rf"n=3\), but has {found}; .*n_best=1"):
            generator(fake, "chat").generate([CHAT], SAMPLED)


def recorded_with(num_choices: int) -> Answer:
    answer: Answer = recorded("chat")["answer"]
    return {**answer, "choices": answer["choices"][:1] * num_choices}
