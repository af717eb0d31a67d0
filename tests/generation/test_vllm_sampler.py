"""Rollouts on a server: the student's present weights, and the published ways to have others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.servers import FakeVllm, recorded, served
from tests.tiny import EOS, VOCAB, character_tokenizer, tiny_model
from transformers import PreTrainedModel

from seqdistill.core.errors import DataError, ServerError
from seqdistill.generation import server
from seqdistill.generation.model_facts import facts_of, writing_below
from seqdistill.generation.scoring import token_log_probs
from seqdistill.generation.server import ServerClient
from seqdistill.generation.vllm_sampler import VllmSampler
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.recipe.server_schema import RolloutServerSection

TOKENIZER = character_tokenizer(closes=False, extra="01234")
PROMPTS = [(0, 5, 6, 7, 8, 9, 10), (0, 11), (0, 12, 13)]
SAMPLES = Decoding(mode="sample", max_new_tokens=6)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT_S", 0.01)


@pytest.fixture(params=[False, True], ids=["", "tied"])
def student(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model("llama", seed=8, tie_word_embeddings=request.param)


@pytest.fixture
def fake(student: PreTrainedModel) -> Iterator[FakeVllm]:
    with served(copy.deepcopy(student), tokenizer=TOKENIZER) as (found,):
        yield found


def sampler_of(
    student: PreTrainedModel,
    *fakes: FakeVllm,
    decoding: Decoding = SAMPLES,
    vocab_size: int = VOCAB,
    folder: Path | None = None,
) -> VllmSampler:
    urls = [one.url for one in fakes]
    given = {"url": urls, "patience_s": 3.0, "max_difference": 1e-3}
    client = ServerClient(RolloutServerSection.model_validate(given), key="rollouts.server")
    for replica in client.replicas:
        replica.wait_s = 0.01
    facts = writing_below(facts_of(student, TOKENIZER, kind="causal"), vocab_size)
    return VllmSampler(
        student, client, served="teacher", decoding=decoding, facts=facts, folder=folder
    )


def learn(student: PreTrainedModel) -> None:
    """Other weights, as after an update."""
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def test_sequences_are_the_students_with_their_own_probabilities(
    student: PreTrainedModel, fake: FakeVllm
) -> None:
    sampler = sampler_of(student, fake)
    for _ in range(2):
        learn(student)
        sampler.refresh()
        found = sampler.sample(PROMPTS, seed=3)
        again = sampler.sample(PROMPTS, seed=3)
        assert found.rows() == again.rows() != sampler.sample(PROMPTS, seed=4).rows()
        assert found.log_probs is not None
        pairs = list(zip(PROMPTS, found.rows(), strict=True))
        live = token_log_probs(student, pairs, facts=sampler.facts)
        for row, told in zip(live, found.log_probs, strict=True):
            torch.testing.assert_close(told[: len(row)], torch.tensor(row), atol=1e-4, rtol=0)
        for ids, ended in zip(found.rows(), found.finished.tolist(), strict=True):
            assert (ids[-1] == EOS) == ended and EOS not in ids[:-1]


def test_greedy_and_cut_samples_tell_no_probabilities(
    student: PreTrainedModel, fake: FakeVllm
) -> None:
    for decoding in (
        Decoding(beam_size=1, max_new_tokens=6),
        SAMPLES.model_copy(update={"sampling_temperature": 0.7}),
        SAMPLES.model_copy(update={"top_p": 0.9}),
    ):
        sampler = sampler_of(student, fake, decoding=decoding)
        sampler.refresh()
        assert sampler.sample(PROMPTS, seed=3).log_probs is None
    body = fake.asked[-1][1]
    assert (body["top_p"], body["top_k"], body["ignore_eos"]) == (0.9, -1, True)


def test_weights_are_written_read_and_removed(
    student: PreTrainedModel, fake: FakeVllm, tmp_path: Path
) -> None:
    sampler = sampler_of(student, fake, folder=tmp_path / "weights")
    for number in (1, 2, 3):
        sampler.refresh()
        assert [path.name for path in (tmp_path / "weights").iterdir()] == [f"student-{number}"]
    assert fake.count("/collective_rpc") == 3
    paths = [path for path, _ in fake.asked if path.startswith(("/pause", "/coll", "/resume"))]
    assert paths[:3] == ["/pause?mode=abort&clear_cache=true", "/collective_rpc", "/resume"]


def test_a_server_whose_weights_stay_is_told_how_to_start(
    student: PreTrainedModel, fake: FakeVllm
) -> None:
    fake.weights_change = False
    with pytest.raises(ServerError, match=r"404.*VLLM_SERVER_DEV_MODE=1"):
        sampler_of(student, fake).refresh()


def stale(fake: FakeVllm) -> None:
    fake.ignores_reload = True


def cached(fake: FakeVllm) -> None:
    fake.keeps_cache = True


def truncated(fake: FakeVllm) -> None:
    fake.normalizes_over = 4


def heated(fake: FakeVllm) -> None:
    fake.temperature = 0.8


@pytest.mark.parametrize("fault", [stale, cached, truncated, heated])
def test_a_server_out_of_step_is_refused(
    student: PreTrainedModel, fake: FakeVllm, fault: Callable[[FakeVllm], None]
) -> None:
    sampler = sampler_of(student, fake)
    sampler.refresh()
    sampler.sample(PROMPTS, seed=3)
    fault(fake)
    learn(student)
    sampler.refresh()
    other = [(0, 20, 21)] if fault is cached else PROMPTS  # of which none was read before
    with pytest.raises(ServerError, match=r"after refresh 2 its log-prob.* differ by .* nats"):
        sampler.sample(other, seed=5)


def test_a_server_that_cannot_see_the_weights_is_refused(
    student: PreTrainedModel, fake: FakeVllm
) -> None:
    fake.dies_of_reload = True
    with pytest.raises(ServerError, match=r"must load the student's weights.*weights_folder"):
        sampler_of(student, fake).refresh()


def test_a_folder_that_cannot_be_written_is_refused(
    student: PreTrainedModel, fake: FakeVllm, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match=r"where the student's weights can be written"):
        sampler_of(student, fake, folder=tmp_path / "file").refresh()


def test_a_server_that_was_started_again_takes_the_present_weights(
    student: PreTrainedModel, fake: FakeVllm
) -> None:
    sampler = sampler_of(student, fake)
    learn(student)
    sampler.refresh()
    before = sampler.sample(PROMPTS, seed=3)
    fake.stop()
    fake.start()  # with the weights that it had at first
    assert sampler.sample(PROMPTS, seed=3).rows() == before.rows()
    assert fake.count("/collective_rpc") == 2


def test_every_replica_has_the_present_weights(student: PreTrainedModel, fake: FakeVllm) -> None:
    with served(tiny_model("llama", seed=8), tokenizer=TOKENIZER) as (second,):
        sampler = sampler_of(student, fake, second)
        sampler.refresh()
        sampler.sample(PROMPTS, seed=3)
        second.ignores_reload = True
        learn(student)
        sampler.refresh()
        assert second.count("/collective_rpc") == 2
        with pytest.raises(ServerError, match="must write with the student's present weights"):
            sampler.sample(PROMPTS[:1], seed=3)


def test_padded_rows_are_never_learned(student: PreTrainedModel, fake: FakeVllm) -> None:
    sampler = sampler_of(student, fake, vocab_size=20)
    sampler.refresh()
    with pytest.raises(ServerError, match="a padded row of its head"):
        sampler.sample(PROMPTS * 4, seed=3)


def test_answers_without_tokens_are_refused(student: PreTrainedModel, fake: FakeVllm) -> None:
    sampler = sampler_of(student, fake)
    sampler.refresh()
    changes: list[tuple[dict[str, object], str]] = [
        ({"token_ids": None}, "must answer with token_ids"),
        ({"token_ids": [4], "logprobs": {"token_logprobs": []}}, "got 1 tokens with 0"),
    ]
    for change, words in changes:
        fake.changes = change
        with pytest.raises(ServerError, match=words):
            sampler_of(student, fake).sample(PROMPTS, seed=3)


def test_a_prompt_that_leaves_no_room_is_refused(student: PreTrainedModel, fake: FakeVllm) -> None:
    with pytest.raises(DataError, match="must fit the model's 40 positions"):
        sampler_of(student, fake).sample([(0, *[5] * 36)], seed=3)


def test_what_a_real_server_wrote_is_read_with_its_end(
    student: PreTrainedModel, fake: FakeVllm
) -> None:
    real = recorded("written")
    sampler = sampler_of(student, fake)
    assert sampler._body((0, 10), 3, 12).keys() >= real["body"].keys()
    assert sampler._read(real["answer"]) == ([15], [-0.8875414729118347])
