"""A teacher on a server: the scores of one in process, and servers that are not what they seem."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.servers import FakeVllm, recorded, served
from tests.tiny import (
    VOCAB,
    character_tokenizer,
    collator,
    random_examples,
    tiny_adapter,
    tiny_model,
)
from transformers import PreTrainedModel

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ServerError
from seqdistill.core.scores import SparseScores
from seqdistill.generation import server
from seqdistill.generation.server import ServerClient
from seqdistill.models.adapters import SequenceModel
from seqdistill.recipe.server_schema import ServerSection
from seqdistill.teachers import server_checks
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.teachers.on_server import ScoredSequence, ServerTeacher, sequences_of
from seqdistill.teachers.server_checks import self_test, whole_sequences

EXAMPLES = random_examples(12, seed=4)
TOKENIZER = character_tokenizer(closes=False, extra="01234")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT_S", 0.01)


@pytest.fixture
def fakes() -> Iterator[list[FakeVllm]]:
    with served(tiny_model("llama"), tiny_model("llama"), tokenizer=TOKENIZER) as servers:
        yield servers


def client_of(*servers: FakeVllm, **settings: object) -> ServerClient:
    urls = [one.url for one in servers]
    given = {"url": urls, "patience_s": 5.0, "max_difference": 1e-3, **settings}
    client = ServerClient(ServerSection.model_validate(given), key="teacher.server")
    for replica in client.replicas:
        replica.wait_s = 0.01
    return client


def teacher_of(
    client: ServerClient, *, top_k: int = 8, dialect: Any = "prompt_logprobs", form: Any = "bucket"
) -> ServerTeacher:
    return ServerTeacher(
        client,
        model="teacher",
        dialect=dialect,
        top_k=top_k,
        vocab_size=VOCAB,
        sparse_form=form,
    )


def batch() -> SequenceBatch:
    return collator("causal")(EXAMPLES)


def local_log_probs(made: SequenceBatch) -> torch.Tensor:
    scores = InProcessTeacher(tiny_adapter("llama"), vocab_size=VOCAB).score(made)
    return scores.head.logits(scores.hidden).log_softmax(-1)


def as_dense(scores: SparseScores) -> torch.Tensor:
    whole = torch.full((*scores.ids.shape[:2], VOCAB), -torch.inf)
    return whole.scatter(-1, scores.ids, scores.log_probs)


@pytest.mark.parametrize("dialect", ["prompt_logprobs", "echo"])
def test_all_symbols_of_a_server_are_the_distribution_in_process(
    fakes: list[FakeVllm], dialect: str
) -> None:
    made = batch()
    scores = teacher_of(client_of(fakes[0]), top_k=VOCAB, dialect=dialect).score(made)
    counted = made.target_mask
    torch.testing.assert_close(
        as_dense(scores)[counted], local_log_probs(made)[counted], atol=2e-5, rtol=0
    )
    assert (scores.tail_log_mass[counted] == -torch.inf).all()


def test_the_likeliest_symbols_and_the_mass_of_all_others(fakes: list[FakeVllm]) -> None:
    made = batch()
    scores = teacher_of(client_of(fakes[0])).score(made)
    best, ids = local_log_probs(made).topk(8, dim=-1)
    counted = made.target_mask
    assert torch.equal(scores.ids[counted], ids[counted]), "the token that is there is left out"
    torch.testing.assert_close(scores.log_probs[counted], best[counted].float(), atol=2e-5, rtol=0)
    mass = scores.log_probs.exp().sum(-1) + scores.tail_log_mass.exp()
    torch.testing.assert_close(mass[counted], torch.ones(int(counted.sum())))


def test_a_teacher_reads_its_own_prompt(fakes: list[FakeVllm]) -> None:
    told = [dataclasses.replace(e, teacher_source_ids=(9, *e.source_ids)) for e in EXAMPLES]
    own = collator("causal")(told)
    scores = teacher_of(client_of(fakes[0])).score(own)
    alone = collator("causal")([e.for_teacher() for e in told])
    expected = teacher_of(client_of(fakes[0])).score(alone)
    assert torch.equal(scores.ids[own.target_mask], expected.ids[alone.target_mask])


def test_a_renormalized_tail_is_nothing(fakes: list[FakeVllm]) -> None:
    made = batch()
    scores = teacher_of(client_of(fakes[0]), form="renormalized").score(made)
    assert (scores.tail_log_mass[made.target_mask] == -torch.inf).all()


def test_what_was_asked_ahead_is_asked_once(fakes: list[FakeVllm]) -> None:
    teacher, made = teacher_of(client_of(fakes[0])), batch()
    teacher.ahead(made)
    ahead = teacher.score(made)
    assert fakes[0].count("/v1/completions") == len({*sequences_of(made)})
    assert torch.equal(ahead.log_probs, teacher_of(client_of(fakes[0])).score(made).log_probs)


def test_a_server_that_is_killed_and_started_again_costs_no_score(
    fakes: list[FakeVllm], caplog: pytest.LogCaptureFixture
) -> None:
    made, client = batch(), client_of(fakes[0], concurrency=2)
    teacher = teacher_of(client)
    self_test(teacher, whole_sequences(made), local=None)
    expected = teacher.score(made).log_probs
    fakes[0].delays = [0.05] * 3
    teacher.ahead(made)
    fakes[0].stop()
    fakes[0].start()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(teacher.score(made).log_probs, expected)


def test_a_server_that_comes_back_as_another_is_refused(fakes: list[FakeVllm]) -> None:
    made, client = batch(), client_of(fakes[0])
    teacher = teacher_of(client)
    self_test(teacher, whole_sequences(made), local=None)
    fakes[0].stop()
    fakes[0].first = tiny_model("llama", seed=5)
    fakes[0].start()
    client.replicas[0].unchecked = True
    with pytest.raises(ServerError, match=r"same answer whenever .* differs by"):
        teacher.score(made)


def wrong_weights(fake: FakeVllm) -> None:
    fake.model = tiny_model("llama", seed=5)


def rounded(fake: FakeVllm) -> None:
    fake.model = tiny_model("llama").to(torch.bfloat16)


def setting(name: str, value: object) -> Callable[[FakeVllm], None]:
    return lambda fake: setattr(fake, name, value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (wrong_weights, "the local copy named by teacher.model says.* another model"),
        (rounded, r"often bf16: --dtype float32"),
        (setting("temperature", 0.7), "or scores after a temperature"),
    ],
)
def test_a_server_that_says_something_else_than_the_local_copy_is_refused(
    fakes: list[FakeVllm], fault: Callable[[FakeVllm], None], words: str
) -> None:
    local = InProcessTeacher(tiny_adapter("llama"), vocab_size=VOCAB)
    teacher, made = teacher_of(client_of(fakes[0])), whole_sequences(batch())
    facts = self_test(teacher, made, local=local)
    assert facts["between answers"] < 1e-4 and facts["from the local copy"] < 1e-4
    fault(fakes[0])
    with pytest.raises(ServerError, match=words):
        self_test(teacher, made, local=local)


def saying(nats: float, symbol: int = 5) -> Callable[[FakeVllm], None]:
    positions = [None, *[{str(symbol): {"logprob": nats}}] * 40]
    return setting("changes", {"prompt_logprobs": positions})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (setting("noise", 0.1), "same answer whenever they are asked, but .* nats"),
        (setting("normalizes_over", 8), "sum to 1 everywhere"),
        (setting("changes", {"prompt_logprobs": None}), "must tell the log-probabilities"),
        (setting("changes", {"prompt_logprobs": [None, {"5": {"logprob": -1}}]}), "all .* tokens"),
        (saying(3.0), "finite log-probabilities that sum to 1 at most.* a sum of 20"),
        (saying(math.nan), "finite log-probabilities"),
        (saying(-0.1, symbol=41), "no other symbols than the student's 40, but found id 41"),
    ],
)
def test_a_server_whose_numbers_cannot_be_is_refused(
    fakes: list[FakeVllm], fault: Callable[[FakeVllm], None], words: str
) -> None:
    fault(fakes[0])
    with pytest.raises(ServerError, match=words):
        self_test(teacher_of(client_of(fakes[0])), whole_sequences(batch()), local=None)


def test_replicas_that_disagree_are_refused(fakes: list[FakeVllm]) -> None:
    teacher, made = teacher_of(client_of(*fakes)), whole_sequences(batch())
    self_test(teacher, made, local=None)
    wrong_weights(fakes[1])
    with pytest.raises(ServerError, match=f"but {fakes[1].url} differs"):
        self_test(teacher, made, local=None)


def test_symbols_without_any_probability_are_no_symbols(fakes: list[FakeVllm]) -> None:
    answer = {
        "choices": [{"prompt_logprobs": [None, {"5": {"logprob": 0.0}, "6": {"logprob": -9999.0}}]}]
    }
    found = teacher_of(client_of(fakes[0])).read(answer, ScoredSequence((4, 5), (1,)))
    assert np.isneginf(found.log_probs[0, 1:]).all() and found.log_probs[0, 0] == 0.0
    assert found.tail[0] == pytest.approx(math.log(2.0**-23)), "no symbol is forbidden"


def test_what_is_served_is_looked_at(fakes: list[FakeVllm]) -> None:
    client = client_of(*fakes)
    found = server_checks.served(client)
    assert (found.model, found.max_length, found.version) == ("teacher", 40, "0.32.0")
    with pytest.raises(ServerError, match=r"take 40 tokens and one more.*--max-model-len 41"):
        server_checks.check_length(client, found, 40, "data.max_source_tokens")
    server_checks.check_length(client, found, 39, "")
    fakes[1].name = "other"
    with pytest.raises(ServerError, match="must serve one model, but they serve teacher, other"):
        server_checks.served(client)
    with pytest.raises(ServerError, match=r"got teacher; it serves other"):
        server_checks.served(client_of(*fakes, model="teacher"))


def test_how_a_server_scores_is_found_out(fakes: list[FakeVllm]) -> None:
    client = client_of(fakes[0])
    assert server_checks.dialect_of(client, "teacher", (4, 5, 6), 8) == "prompt_logprobs"
    fakes[0].has_prompt_logprobs = False
    assert server_checks.dialect_of(client, "teacher", (4, 5, 6), 8) == "echo"
    fakes[0].max_logprobs = 5
    with pytest.raises(ServerError, match=r"max allowed: 5.*--max-logprobs 8"):
        server_checks.dialect_of(client, "teacher", (4, 5, 6), 8)


def test_another_vocabulary_is_refused(fakes: list[FakeVllm]) -> None:
    client = client_of(*fakes)

    def check(*, has_local: bool = False) -> None:
        server_checks.check_tokenizer(
            client, "teacher", TOKENIZER, ["abc def"], has_local=has_local
        )

    check()
    fakes[1].tokenizer = character_tokenizer(closes=False, extra="43210")
    with pytest.raises(ServerError, match=rf"one vocabulary .* at {fakes[1].url}"):
        check()
    fakes[0].has_tokenize = fakes[1].has_tokenize = False
    with pytest.raises(ServerError, match=r"name the folder .* as\s+teacher\.model"):
        check()
    check(has_local=True)


@pytest.fixture(scope="module")
def of_recording() -> PreTrainedModel:
    """The model that the real vLLM of `tests/recorded` served."""
    wide: dict[str, Any] = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "head_dim": 32,
        "intermediate_size": 96,
    }
    more: dict[str, Any] = {"max_position_embeddings": 512, "initializer_range": 0.3}
    return tiny_model("llama", seed=3, **wide, **more)


@pytest.mark.parametrize("name", ["prompt-logprobs", "echo"])
def test_a_real_servers_answer_says_what_transformers_says(
    fakes: list[FakeVllm], of_recording: PreTrainedModel, name: str
) -> None:
    real = recorded(name)
    teacher = teacher_of(client_of(fakes[0]), top_k=3, dialect=name.replace("-", "_"))
    ids = tuple(real["body"]["prompt"])
    asked = ScoredSequence(ids, tuple(range(1, len(ids))))
    assert teacher.body(asked) == real["body"]
    found = teacher.read(real["answer"], asked)
    logits = SequenceModel(of_recording).module(torch.tensor([ids])).logits[0, :-1]
    best, order = logits.log_softmax(-1).topk(3, dim=-1)
    assert found.ids.tolist() == order.tolist()
    np.testing.assert_allclose(found.log_probs, best.detach().numpy(), atol=5e-5)


def test_tokens_that_a_real_server_names_by_text_are_refused(fakes: list[FakeVllm]) -> None:
    real = recorded("echo-by-text")
    real["answer"]["choices"][0]["prompt_logprobs"] = None
    with pytest.raises(ServerError, match="by token ids"):
        teacher_of(client_of(fakes[0])).read(real["answer"], ScoredSequence((0, 10), (1,)))


def test_the_fake_server_answers_with_keys_of_the_real_one(fakes: list[FakeVllm]) -> None:
    fakes[0].max_length, fakes[0].max_logprobs = 512, 64
    names = ("models", "version", "prompt-logprobs", "echo", "written", "chat", "texts")
    for name in (*names, "tokenize", "too-many-logprobs", "too-long"):
        real = recorded(name)
        status, answer = fakes[0].answer(real["path"], real["body"], None)
        assert status == real["status"], name
        assert_keys(answer, real["answer"], name)


def assert_keys(made: Any, real: Any, name: str) -> None:
    if isinstance(made, dict) and isinstance(real, dict):
        if all(key.removeprefix("token_id:").isdecimal() for key in made):
            return  # symbols
        assert made.keys() <= real.keys(), name
        for key in made:
            assert_keys(made[key], real[key], f"{name} {key}")
    elif isinstance(made, list) and made and real:
        assert_keys(made[-1], real[-1], name)
    else:
        assert made is None or type(made) is type(real), name
