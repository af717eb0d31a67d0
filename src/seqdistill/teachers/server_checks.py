"""Is a server the teacher that a recipe means? Asked before the first batch, and of each replica.

Which model is served, how long its sequences may be, whether its token ids mean what the student's
do, and whether it says the same twice: its numbers are compared with those of every replica, and of
a copy of the model in this process.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import ServerError
from seqdistill.generation.server import Answer, RefusedError, Replica, ServerClient, TryAgain
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.teachers.on_server import (
    COMPLETIONS,
    Dialect,
    Likeliest,
    ScoredSequence,
    ServerTeacher,
    expected_symbols,
    scoring_body,
    sequences_of,
)

_LOG = logging.getLogger(__name__)
_SEEN = 1e-3
"""Rarer symbols are not compared: their nats say little, and rounding much."""
_WHOLE = 1e-6
"""A distribution of which the likeliest symbols seem to have all but this everywhere was cut."""
_TEXT = "Grüße, naïve façade!\n  12345 + 6.7 = ? 你好 def f(x): return x  # ok"


@dataclasses.dataclass(frozen=True)
class Served:
    """What a server says of itself."""

    model: str
    max_length: int | None
    """Tokens of prompt and output; None where it does not say."""
    version: str


def served(client: ServerClient) -> Served:
    """The model that every replica serves. Raises ServerError where one serves another, or does not
    answer: at the beginning nobody waits for it."""
    found = [_served_by(client, replica) for replica in client.replicas]
    if len({one.model for one in found}) > 1:
        raise ServerError(
            f"The replicas of {client.key} must serve one model, but they serve "
            f"{', '.join(one.model for one in found)}; name one as {client.key}.model"
        )
    limits = [one.max_length for one in found if one.max_length is not None]
    return dataclasses.replace(found[0], max_length=min(limits, default=None))


def _served_by(client: ServerClient, replica: Replica) -> Served:
    try:
        cards = client.once(replica, "/v1/models").get("data", ())
    except TryAgain as error:
        raise ServerError(
            f"Every server of {client.key} must answer before it is relied on, but {error}; start "
            f"it, or change {client.key}.url"
        ) from error
    names, wanted = [str(card["id"]) for card in cards], client.section.model
    if wanted is None and len(names) == 1:
        wanted = names[0]
    if wanted not in names:
        raise ServerError(
            f"{client.key}.model must name a model that {replica.url} serves, got "
            f"{wanted or 'none'}; it serves {', '.join(names) or 'none'}"
        )
    limit = cards[names.index(wanted)].get("max_model_len")
    try:
        version = str(client.once(replica, "/version").get("version", ""))
    except (RefusedError, TryAgain):
        version = ""
    return Served(wanted, limit if isinstance(limit, int) else None, version)


def check_length(client: ServerClient, server: Served, longest: int, keys: str) -> None:
    """Raises ServerError where sequences of so many tokens, and one that a scoring server has to
    write, are too long for it."""
    if server.max_length is not None and longest + 1 > server.max_length:
        raise ServerError(
            f"The server of {client.key} must take {longest} tokens and one more, but "
            f"{server.model} is served with a length of {server.max_length}; start it with "
            f"--max-model-len {longest + 1}, or lower {keys}"
        )


def dialect_of(client: ServerClient, model: str, ids: Sequence[int], top_k: int) -> Dialect:
    """How the first replica scores. Raises ServerError where it does not."""
    refusals = []
    for dialect in ("prompt_logprobs", "echo"):
        try:
            answer = client.of(
                client.replicas[0], COMPLETIONS, scoring_body(model, ids, top_k, dialect)
            )
            expected_symbols(answer, len(ids))
        except ServerError as error:
            refusals.append(error)
        else:
            return dialect
    told = str(refusals[0])
    if "max" in told:
        told += f" (vllm serve: --max-logprobs {top_k}; or lower teacher.top_k)"
    raise ServerError(told)


def check_tokenizer(
    client: ServerClient,
    model: str,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    has_local: bool,
) -> None:
    """Raises ServerError where a replica makes other token ids of texts than the student does, or
    cannot be asked and no local copy of the model, `has_local`, was compared instead."""
    ends = [str(token) for token in tokenizer.all_special_tokens]
    for text in [*texts, _TEXT, *ends]:
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        for replica in client.replicas:
            try:
                found = client.of(replica, "/tokenize", body).get("tokens")
            except RefusedError as error:
                if has_local:
                    return
                raise ServerError(
                    f"A server of {client.key} must tell how it tokenizes, since token ids are "
                    f"sent to it, but: {error}; name the folder of the model that it serves as "
                    "teacher.model, whose vocabulary is compared instead"
                ) from error
            if found != own:
                raise ServerError(
                    f"Teacher and student must share one vocabulary where token ids are compared, "
                    f"but {text[:60]!r} is {_shown(own)} for the student and {_shown(found)} for "
                    f"{model!r} at {replica.url}; give the student the teacher's tokenizer, or let "
                    "the teacher label (method seq_kd)"
                )


def _shown(ids: object) -> str:
    text = str(ids)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def whole_sequences(batch: SequenceBatch) -> SequenceBatch:
    """The batch with every position counted, as the teacher reads it: what is compared."""
    read = batch.for_teacher
    return dataclasses.replace(read, target_mask=read.decoder_mask)


def self_test(
    teacher: ServerTeacher, batch: SequenceBatch, *, local: InProcessTeacher | None
) -> dict[str, float]:
    """Scores the sequences twice, together and one by one, of every replica, and by `local`; the
    largest differences in nats. A replica that goes away is compared again before it is used.

    Raises ServerError for more than the client's `max_difference`.
    """
    client, sequences = teacher.client, sequences_of(batch)
    most = client.section.max_difference
    first, differences = dict[ScoredSequence, Likeliest](), [0.0]

    def compare(replica: Replica, one: ScoredSequence, found: Likeliest) -> None:
        apart = difference(first.setdefault(one, found), found)
        differences.append(apart)
        if not apart <= most:
            raise ServerError(
                f"The servers of {client.key} must give the same answer whenever they are asked, "
                f"but {replica.url} differs by {apart:.3g} nats, where {client.key}.max_difference "
                f"is {most:g}; serve one model in one dtype (--dtype float32), or raise it knowing "
                "that this is noise in every loss"
            )

    for replica in client.replicas:
        together = client.each_of(
            replica, COMPLETIONS, map(teacher.body, sequences), lambda answer: answer
        )
        for one, answer in zip(sequences, together, strict=True):
            compare(replica, one, teacher.read(answer, one))
        for one in reversed(sequences):
            answer = client.of(replica, COMPLETIONS, teacher.body(one))
            compare(replica, one, teacher.read(answer, one))
    _check_not_cut(teacher, [*first.values()])
    kept = {one: first[one] for one in sequences[:2]}

    def on_return(replica: Replica) -> None:
        for one in kept:
            answer = client.once(replica, COMPLETIONS, teacher.body(one))
            compare(replica, one, teacher.read(answer, one))
        _LOG.warning("%s: %s answers again, as before", client.key, replica.url)

    client.on_return = on_return
    facts = {"between answers": max(differences)}
    if local is not None:
        own = _of_local(local, batch, teacher.top_k)
        facts["from the local copy"] = max(
            difference(a, first[one]) for a, one in zip(own, sequences, strict=True)
        )
        _check_local(client, facts["from the local copy"], local)
    return facts


def _check_not_cut(teacher: ServerTeacher, found: Sequence[Likeliest]) -> None:
    if 2 * teacher.top_k > teacher.vocab_size:
        return
    if max(float(each.tail.max()) for each in found) < math.log(_WHOLE):
        raise ServerError(
            f"The server of {teacher.client.key} must give the log-probabilities of the whole "
            f"distribution, but the {teacher.top_k} likeliest of {teacher.vocab_size} symbols sum "
            "to 1 everywhere: they seem normalized over what top_k or top_p left; start vLLM "
            "with --logprobs-mode raw_logprobs"
        )


def _check_local(client: ServerClient, apart: float, local: InProcessTeacher) -> None:
    if apart <= client.section.max_difference:
        return
    dtype = str(local.head.weight.dtype).removeprefix("torch.")
    hint = ", in another dtype (vLLM's --dtype auto is often bf16: --dtype float32)"
    raise ServerError(
        f"The server of {client.key} must say what the local copy named by teacher.model says, but "
        f"differs by {apart:.3g} nats, where {client.key}.max_difference is "
        f"{client.section.max_difference:g} and the copy runs in {dtype}; it serves another model"
        f"{hint if dtype == 'float32' else ''}, or scores after a temperature"
    )


@torch.no_grad()
def _of_local(local: InProcessTeacher, batch: SequenceBatch, top_k: int) -> list[Likeliest]:
    scores = local.score(batch)
    found = []
    for hidden, mask in zip(scores.hidden, batch.target_mask, strict=True):
        log_probs = scores.head.logits(hidden[mask]).float().log_softmax(dim=-1).cpu()
        kept, ids = log_probs.topk(min(top_k, log_probs.shape[-1]), dim=-1)
        tail = log_probs.scatter(-1, ids, -torch.inf).logsumexp(dim=-1)
        found.append(Likeliest(ids.numpy(), kept.numpy(), tail.numpy()))
    return found


def difference(one: Likeliest, other: Likeliest) -> float:
    """The largest difference in nats of a symbol that one of them finds worth seeing; one that the
    other does not name has there its least at most."""
    largest = 0.0
    for row in range(len(one.ids)):
        a, b = _row(one, row), _row(other, row)
        for symbol in {*a, *b}:
            values = [each[symbol] for each in (a, b) if symbol in each]
            if max(values) < math.log(_SEEN):
                continue
            if len(values) == 2:
                apart = abs(values[0] - values[1])
            else:
                apart = values[0] - min((a if symbol in b else b).values())
            largest = max(largest, apart)
    return largest


def _row(found: Likeliest, row: int) -> Mapping[int, float]:
    there = np.isfinite(found.log_probs[row])
    ids, nats = found.ids[row][there].tolist(), found.log_probs[row][there].tolist()
    return dict(zip(ids, nats, strict=True))


def facts_of(server: Served, client: ServerClient, differences: Mapping[str, float]) -> Answer:
    """What a run notes of its server."""
    return {
        "url": list(client.section.url),
        "model": server.model,
        "version": server.version,
        "differences_in_nats": {name: float(f"{nats:.3g}") for name, nats in differences.items()},
    }
