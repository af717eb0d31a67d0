"""A teacher on a server: the likeliest symbols at every position, as it scores a prompt.

A sequence is a prompt of token ids, and the server says of each token what it expected there: vLLM
by `prompt_logprobs`, others by `echo` with `logprobs`. No text is between, so nothing is tokenized
again. Servers score at temperature 1 and over their whole vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

import numpy as np
import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ServerError
from seqdistill.core.families import SparseForm
from seqdistill.core.scores import SparseScores
from seqdistill.generation.server import Answer, ServerClient
from seqdistill.teachers.forms import Numbers, sparse_scores
from seqdistill.teachers.in_process import Teacher

COMPLETIONS = "/v1/completions"
Dialect = Literal["prompt_logprobs", "echo"]
_ID = "token_id:"
_NOTHING = -9999.0
"""What vLLM writes for -inf, which JSON does not have."""
_ROUNDING = 1e-3
_LEAST_TAIL = 2.0**-23
"""The mass of all other symbols is 1 less that of the known ones, which are fp32 numbers: less than
this is not told from rounding, and a tail of nothing would forbid the student any other symbol."""


@dataclasses.dataclass(frozen=True)
class ScoredSequence:
    """What is asked: token ids, and the places in them whose symbols are wanted."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Likeliest:
    """Of each place the likeliest symbols first, with their nats; -inf fills where there are fewer
    than k, and the logarithm of the mass of all others."""

    ids: Numbers
    log_probs: Numbers
    tail: Numbers


def sequences_of(batch: SequenceBatch) -> list[ScoredSequence]:
    """What a batch of decoder-only sequences asks, as the teacher reads them."""
    read = batch.for_teacher
    found = []
    for inputs, mask, targets, counted in zip(
        read.decoder_input_ids.tolist(),
        read.decoder_mask.tolist(),
        read.target_ids.tolist(),
        read.target_mask.tolist(),
        strict=True,
    ):
        length = sum(mask)
        # The symbols at position t are those expected of token t + 1.
        places = tuple(t + 1 for t in range(length) if counted[t])
        found.append(ScoredSequence((*inputs[:length], targets[length - 1]), places))
    return found


class ServerTeacher(Teacher):
    """Gives the `top_k` likeliest symbols of a decoder-only teacher behind a server.

    `vocab_size` is how many symbols the student scores: a server that names another one is refused.
    `ahead` may be told of the batch after the next, so that the server works while the student
    learns. A server that goes away and comes back costs time alone.
    """

    def __init__(
        self,
        client: ServerClient,
        *,
        model: str,
        dialect: Dialect,
        top_k: int,
        vocab_size: int,
        sparse_form: SparseForm = "bucket",
    ) -> None:
        self.client, self.model, self.dialect = client, model, dialect
        self.top_k, self.vocab_size = min(top_k, vocab_size), vocab_size
        self._sparse_form = sparse_form
        self.facts: Mapping[str, object] = {}
        """What was found when it was compared, for the manifest."""
        self.differences: Mapping[str, float] = {}
        """Of its answers, in nats, by what they were compared with."""
        self._ahead: dict[ScoredSequence, Future[Likeliest]] = {}

    def ahead(self, batch: SequenceBatch) -> None:
        """Ask for the scores of a batch that will come."""
        for one in sequences_of(batch):
            if one not in self._ahead:
                self._ahead[one] = self._submit(one)

    def score(self, batch: SequenceBatch) -> SparseScores:
        """See `Teacher.score`. Raises ServerError for an answer that is no distribution's, or
        when no server answers for too long."""
        asked, under_way = sequences_of(batch), dict[ScoredSequence, Future[Likeliest]]()
        try:
            for one in asked:
                if one not in under_way:
                    asked_ahead = one in self._ahead
                    under_way[one] = self._ahead.pop(one) if asked_ahead else self._submit(one)
            rows = [under_way[one].result() for one in asked]
        except BaseException:
            self.close()
            raise
        return sparse_scores(
            torch.from_numpy(np.concatenate([row.ids for row in rows])),
            torch.from_numpy(np.concatenate([row.log_probs for row in rows])).float(),
            torch.from_numpy(np.concatenate([row.tail for row in rows])).float(),
            batch=batch,
            vocab_size=self.vocab_size,
            form=self._sparse_form,
        )

    def close(self) -> None:
        """Gives up what is under way."""
        self.client.close()

    def _submit(self, one: ScoredSequence) -> Future[Likeliest]:
        return self.client.submit(COMPLETIONS, self.body(one), lambda said: self.read(said, one))

    def body(self, one: ScoredSequence) -> Answer:
        """The request."""
        return scoring_body(self.model, one.ids, self.top_k, self.dialect)

    def read(self, answer: Answer, one: ScoredSequence) -> Likeliest:
        """The symbols at the places. Raises ServerError for what they cannot be."""
        positions = expected_symbols(answer, len(one.ids))
        shape = (len(one.places), self.top_k)
        ids, log_probs = np.zeros(shape, np.int64), np.full(shape, -np.inf)
        for row, place in enumerate(one.places):
            # The token that is there is told, too, be it among the likeliest or not.
            kept = sorted(positions[place].items(), key=lambda each: -each[1])[: self.top_k]
            ids[row, : len(kept)] = [token_id for token_id, _ in kept]
            log_probs[row, : len(kept)] = [nats for _, nats in kept]
        known = np.exp(log_probs).sum(axis=1)
        self._check(ids, log_probs, known)
        nothing_else = self.top_k == self.vocab_size
        tail = np.log(np.maximum(1.0 - known, _LEAST_TAIL))
        return Likeliest(ids, log_probs, np.full_like(tail, -np.inf) if nothing_else else tail)

    def _check(self, ids: Numbers, log_probs: Numbers, known: Numbers) -> None:
        if not (np.isfinite(log_probs[:, 0]).all() and known.max(initial=0.0) <= 1.0 + _ROUNDING):
            self._refuse(
                "must give finite log-probabilities that sum to 1 at most, as vLLM does with "
                f"--logprobs-mode raw_logprobs, found a sum of {known.max():.4g}; start it so"
            )
        if ids.max(initial=0) >= self.vocab_size:
            self._refuse(
                f"must know no other symbols than the student's {self.vocab_size}, but found id "
                f"{ids.max()} among the likeliest; serve a teacher with the student's vocabulary, "
                "or let it label (seq_kd)"
            )

    def _refuse(self, words: str) -> None:
        raise ServerError(f"The server of {self.client.key} {words}")


def scoring_body(model: str, ids: Sequence[int], top_k: int, dialect: Dialect) -> Answer:
    """The request that has a sequence scored. One token has to be written."""
    common = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "top_p": 1}
    if dialect == "prompt_logprobs":
        return {**common, "prompt_logprobs": top_k}
    return {**common, "echo": True, "logprobs": top_k, "return_tokens_as_token_ids": True}


def expected_symbols(answer: Answer, num_tokens: int) -> list[dict[int, float]]:
    """Of each token of the prompt the symbols that were expected there, with their nats; of the
    first none. Raises ServerError for an answer without them."""
    try:
        choice = answer["choices"][0]
        positions: list[Any] = choice.get("prompt_logprobs") or choice["logprobs"]["top_logprobs"]
        found = [dict(map(_symbol, (each or {}).items())) for each in positions]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            "A server that scores must tell the log-probabilities of a prompt by token ids "
            "(prompt_logprobs, or echo and logprobs with tokens as token_id:N), but an answer has "
            f"none ({type(error).__name__}: {error}); use vllm serve, or let the teacher label "
            "(method seq_kd)"
        ) from error
    if len(found) < num_tokens or not all(found[1:num_tokens]):
        raise ServerError(
            f"A server must score all {num_tokens} tokens of a prompt, but an answer has "
            f"{sum(map(bool, found))} scored ones; use vllm serve"
        )
    return found[:num_tokens]


def _symbol(item: tuple[str, Any]) -> tuple[int, float]:
    name, said = item
    nats = float(said["logprob"] if isinstance(said, dict) else said)
    return int(name.removeprefix(_ID)), -math.inf if nats <= _NOTHING else nats
