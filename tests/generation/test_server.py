"""The client of servers: what is tried again and what is not, replicas, and keys that stay here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers import FakeVllm, served
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.core.errors import ServerError
from seqdistill.generation import server
from seqdistill.generation.server import RefusedError, Replica, ServerClient, TryAgain
from seqdistill.recipe.server_schema import ServerSection

MODELS = "/v1/models"
SCORE = {"model": "teacher", "prompt": [0, 5, 6], "max_tokens": 1, "prompt_logprobs": 2}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT_S", 0.01)
    for name in ("SEQDISTILL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def both() -> Iterator[list[FakeVllm]]:
    model, tokenizer = tiny_model("llama"), character_tokenizer(closes=False)
    with served(model, model, tokenizer=tokenizer) as servers:
        yield servers


def client_of(*servers: FakeVllm, **settings: object) -> ServerClient:
    urls = [one.url for one in servers]
    section = ServerSection.model_validate({"url": urls, "patience_s": 5.0, **settings})
    found = ServerClient(section, key="teacher.server")
    for replica in found.replicas:
        replica.wait_s = 0.01
    return found


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_asked_again(both: list[FakeVllm], status: int) -> None:
    both[0].failures = [status] * 3
    assert client_of(both[0]).post("/v1/completions", SCORE)["choices"]
    assert both[0].count("/v1/completions") == 4


def test_what_is_refused_is_asked_once(both: list[FakeVllm]) -> None:
    both[0].failures = [400]
    with pytest.raises(RefusedError, match=r"answers 400: .*broken"):
        client_of(both[0]).post("/v1/completions", SCORE)
    assert len(both[0].asked) == 1


def test_patience_ends(both: list[FakeVllm]) -> None:
    both[0].failures = [503] * 1000
    with pytest.raises(ServerError, match=r"within patience_s=0\.2 seconds.* answers 503"):
        client_of(both[0], patience_s=0.2).post("/v1/completions", SCORE)
    assert 3 < len(both[0].asked) < 100, "intervals must grow"


def test_an_answer_that_takes_too_long_is_asked_for_again(both: list[FakeVllm]) -> None:
    both[0].delays = [0.4]
    assert client_of(both[0], timeout_s=0.15).post("/v1/completions", SCORE)["choices"]
    assert len(both[0].asked) == 2


def test_a_busy_server_says_how_long_to_wait(both: list[FakeVllm]) -> None:
    both[0].failures, both[0].headers = [429], {"retry-after": "1"}
    began = time.monotonic()
    client_of(both[0]).post("/v1/completions", SCORE)
    assert time.monotonic() - began > 0.95


def test_replicas_take_turns_and_a_dead_one_is_left_out_and_tried_again(
    both: list[FakeVllm],
) -> None:
    client, checked = client_of(*both), list[str]()

    def check(replica: Replica) -> None:
        client.once(replica, MODELS, {})
        checked.append(replica.url)

    client.on_return = check
    for _ in range(6):
        client.post("/v1/completions", SCORE)
    assert [one.count("/v1/completions") for one in both] == [3, 3]
    both[0].stop()
    for _ in range(6):
        client.post("/v1/completions", SCORE)
    assert both[1].count("/v1/completions") == 9 and not checked
    both[0].start()
    client.replicas[0].resting_until = 0.0
    for _ in range(4):
        client.post("/v1/completions", SCORE)
    assert both[0].count("/v1/completions") == 5
    assert checked == [both[0].url], "checked once, before it is used again"


def test_a_replica_that_came_back_as_another_is_refused(both: list[FakeVllm]) -> None:
    client = client_of(both[0])

    def refuse(_: Replica) -> None:
        raise ServerError("another")

    client.on_return = refuse
    client.replicas[0].unchecked = True
    with pytest.raises(ServerError, match="another"):
        client.post("/v1/completions", SCORE)


def test_a_death_while_all_ask_loses_nothing(both: list[FakeVllm]) -> None:
    client = client_of(both[0], concurrency=4)
    both[0].delays = [0.05] * 4
    under_way = [client.submit("/v1/completions", SCORE, dict) for _ in range(12)]
    both[0].stop()
    time.sleep(0.1)
    both[0].start()
    assert all(one.result()["choices"] for one in under_way)


def test_requests_under_way_are_bounded(
    both: list[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = [0], [0]
    original = both[0].answer

    def answer(*given: Any) -> tuple[int, Any]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        found = original(*given)
        running[0] -= 1
        return found

    monkeypatch.setattr(both[0], "answer", answer)
    client_of(both[0], concurrency=3).post_all("/v1/completions", [SCORE] * 12, read=dict)
    assert most[0] <= 3


def test_a_page_that_is_no_api_is_told(both: list[FakeVllm]) -> None:
    client = client_of(both[0])
    both[0].answer = lambda *_: (200, ["hello"])  # type: ignore[method-assign]
    with pytest.raises(ServerError, match=r"must speak the OpenAI API.*hello.*server\.url"):
        client.of(client.replicas[0], MODELS)


def test_a_closed_client_ends_at_once(both: list[FakeVllm]) -> None:
    client = client_of(both[0], patience_s=60.0)
    both[0].failures = [503] * 1000
    waiting = client.submit("/v1/completions", SCORE, dict)
    time.sleep(0.05)
    client.close()
    with pytest.raises((ServerError, TryAgain)):
        waiting.result(timeout=20.0)


@pytest.mark.parametrize("variable", ["MY_KEY", "SEQDISTILL_API_KEY"])
def test_the_key_comes_from_the_environment_and_is_told_nobody(
    both: list[FakeVllm],
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "sk-very-secret"
    monkeypatch.setenv(variable, secret)
    settings = {"api_key_env": variable} if variable == "MY_KEY" else {}
    both[0].key = secret
    client = client_of(both[0], patience_s=0.1, **settings)
    with caplog.at_level(logging.DEBUG):
        client.post("/v1/completions", SCORE)
        both[0].failures = [403]  # whose text repeats the key
        with pytest.raises(RefusedError) as refused:
            client.post("/v1/completions", SCORE)
        both[0].failures = [500] * 1000
        with pytest.raises(ServerError) as ended:
            client.post("/v1/completions", SCORE)
    told = [caplog.text, *map(str, (refused.value, ended.value, ended.value.__cause__))]
    told += [repr(client), repr(vars(client)), repr(client.section), repr(client.replicas)]
    assert "***" in str(refused.value)
    assert not any(secret in text for text in told)


def test_a_key_of_openai_goes_to_openai_alone(
    both: list[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    assert server.api_key(ServerSection(url=("https://api.openai.com",))) == "sk-theirs"
    assert server.api_key(ServerSection(url=("https://openai.com.example.org",))) is None
    assert server.api_key(client_of(both[0]).section) is None


def test_a_named_variable_without_a_key_is_refused() -> None:
    with pytest.raises(ServerError, match="variable NO_SUCH must hold the server's key"):
        ServerClient(ServerSection(url=("http://h:1",), api_key_env="NO_SUCH"), key="x")
