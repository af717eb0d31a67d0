"""Rollouts on a vLLM server, of weights that change: written to a folder, loaded, compared.

    refresh    save the student -> /pause (aborts, clears the prefix cache) -> reload_weights
               -> /resume, by every replica, and again by one that was started again meanwhile
    sample     token ids in, token ids out; a probe of every replica and some of the rollouts are
               scored by the live student, at every call: other weights, a stale cache, another
               softmax show at once

vLLM must run with VLLM_SERVER_DEV_MODE=1, which opens these doors: to a trusted network alone.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.core.completions import Completions
from seqdistill.core.errors import ServerError
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source, token_ids_of
from seqdistill.generation.model_facts import ModelFacts, check_lengths
from seqdistill.generation.sampling import writing
from seqdistill.generation.scoring import token_log_probs
from seqdistill.generation.server import Answer, Replica, ServerClient, TryAgain
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.temporary import temporary_folder

COMPLETIONS = "/v1/completions"
_NUM_COMPARED = 4
_PROBE_TOKENS = 8
Written = tuple[list[int], list[float]]


class VllmSampler:
    """A `Sampler` whose sequences vLLM writes.

    `facts` say what ends a sequence, and which ids are none. The same seed gives the same sequences
    as far as vLLM does: its numbers depend a little on what it computes together. `folder` is where
    weights are written; None makes a temporary one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        client: ServerClient,
        *,
        served: str,
        decoding: Decoding,
        facts: ModelFacts,
        folder: Path | None,
    ) -> None:
        self.model, self.client, self.decoding, self.facts = model, client, decoding, facts
        self.served, self._refreshes = served, 0
        opened = contextlib.ExitStack()
        self._folder = opened.enter_context(temporary_folder()) if folder is None else folder
        self._weights: Path | None = None
        self._probe: Sequence[int] = ()
        opened.callback(client.close)
        weakref.finalize(self, opened.close)
        client.on_return = self._load

    def refresh(self) -> None:
        """See `Sampler.refresh`. Raises ServerError for a server that cannot load the weights."""
        before, self._refreshes = self._weights, self._refreshes + 1
        folder = self._folder / f"student-{self._refreshes}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self.model.save_pretrained(folder, state_dict=_with_own_head(self.model))
        except OSError as error:
            raise ServerError(
                f"{folder} must be a folder where the student's weights can be written, found: "
                f"{error}; set {self.client.key}.weights_folder to another one"
            ) from error
        self._weights = folder
        self.client.check_all()
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    def _load(self, replica: Replica) -> None:
        """Has a replica take the present weights, and forget what it computed with others."""
        if self._weights is None:
            return
        once, loading = self.client.once, {"weights_path": str(self._weights.resolve())}
        try:
            once(replica, "/pause?mode=abort&clear_cache=true", {})
        except ServerError as error:
            raise ServerError(
                f"{error}; it has to be a vLLM that was started with VLLM_SERVER_DEV_MODE=1"
            ) from error
        try:
            once(replica, "/collective_rpc", {"method": "reload_weights", "kwargs": loading})
        except TryAgain as error:
            raise ServerError(
                f"The server of {self.client.key} must load the student's weights from "
                f"{self._weights}, but: {error}; it has to see this folder under this path "
                f"({self.client.key}.weights_folder), and to have been started with the student's "
                "own folder; start it again"
            ) from error
        once(replica, "/resume", {})

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`. Raises ServerError where the server writes what the live student
        would not."""
        return self.sample_all([prompts], seeds=[seed])

    def sample_all(
        self, groups: Sequence[Sequence[Source]], *, seeds: Sequence[int]
    ) -> Completions:
        """See `Sampler.sample_all` and `sample`: every sequence has a seed of its own."""
        own = [token_ids_of(prompts) for prompts in groups]
        asked = [ids for group in own for ids in group]
        check_lengths(asked, max_new_tokens=self.decoding.max_new_tokens, facts=self.facts)
        bodies = [
            self._body(ids, derived_seed(seed, f"vllm/{place}"), self.decoding.max_new_tokens)
            for group, seed in zip(own, seeds, strict=True)
            for place, ids in enumerate(group)
        ]
        longest = sorted(asked, key=lambda ids: -len(ids))[:_NUM_COMPARED]
        if len(longest[0]) > len(self._probe):
            self._probe = longest[0]
        for replica in self.client.awake():
            self._prove(replica, seeds[0])
        found = self.client.post_all(COMPLETIONS, bodies, read=self._read)
        self._require_same([(ids, found[asked.index(ids)]) for ids in longest])
        rows = [ids for ids, _ in found]
        return Completions.of_rows(
            rows,
            finished=[self.facts.is_finished(ids) for ids in rows],
            log_probs=[nats for _, nats in found] if self._tells_nats else None,
        )

    @property
    def _tells_nats(self) -> bool:
        """Whether what it tells, before temperature, top_k and top_p, is what it drew from."""
        plain = Decoding(mode="sample")
        same = ("mode", "sampling_temperature", "top_k", "top_p")
        return all(getattr(self.decoding, name) == getattr(plain, name) for name in same)

    def _body(self, ids: Sequence[int], seed: int, max_tokens: int) -> Answer:
        """Everything is said: a server fills in the rest from the model's generation config."""
        decoding = self.decoding
        sampled = decoding.mode == "sample"
        return {
            "model": self.served,
            "prompt": list(ids),
            "max_tokens": max_tokens,
            "temperature": decoding.sampling_temperature if sampled else 0.0,
            "top_k": decoding.top_k or -1 if sampled else -1,
            "top_p": decoding.top_p if sampled else 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "logprobs": 0,
            "return_token_ids": True,
            "ignore_eos": True,  # the ends are named
            "stop_token_ids": list(self.facts.end_ids),
            "skip_special_tokens": False,
        }

    def _read(self, answer: Answer) -> Written:
        try:
            choice: dict[str, Any] = answer["choices"][0]
            ids = [int(i) for i in choice["token_ids"]]
            nats = [float(value) for value in choice["logprobs"]["token_logprobs"]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ServerError(
                f"The server of {self.client.key} must answer with token_ids and their "
                f"log-probabilities, as vLLM 0.10 and later do, but has none ({error!r}); use vLLM"
            ) from error
        if len(ids) != len(nats) or not ids:
            raise ServerError(
                f"The server of {self.client.key} must write a token at least, with a "
                f"log-probability for each, got {len(ids)} tokens with {len(nats)}; use vLLM"
            )
        unknown = set(ids) & set(self.facts.suppressed_ids)
        if unknown:
            raise ServerError(
                f"The server of {self.client.key} must write tokens that the student's tokenizer "
                f"knows, got id {min(unknown)}, a padded row of its head, which no trained model "
                "draws; use transformers, which never does, or cut the head to the tokenizer"
            )
        return ids, nats

    def _prove(self, replica: Replica, seed: int) -> None:
        """Raises ServerError for a replica that does not write as the live student does, although
        it was told the weights once more: one that was started again has those of its start.

        It is asked the longest prompt that was seen, always the same: of this a cache that was not
        cleared would have the most.
        """
        body = self._body(self._probe, seed, min(_PROBE_TOKENS, self.decoding.max_new_tokens))
        found = self._read(self.client.of(replica, COMPLETIONS, body))
        if not self._apart([(self._probe, found)]) <= self.client.section.max_difference:
            replica.unchecked = True
            found = self._read(self.client.of(replica, COMPLETIONS, body))
            self._require_same([(self._probe, found)], f"The replica {replica.url}")

    def _require_same(
        self, written: Sequence[tuple[Sequence[int], Written]], who: str = "The server"
    ) -> None:
        apart, limit = self._apart(written), self.client.section.max_difference
        if not apart <= limit:
            raise ServerError(
                f"{who} of {self.client.key} must write with the student's present weights, but "
                f"after refresh {self._refreshes} its log-probabilities differ by {apart:.3g} "
                f"nats from the student's, where {self.client.key}.max_difference is {limit:g}; "
                "serve the student's own folder with --dtype float32 and --logprobs-mode "
                "raw_logprobs, to this run alone"
            )

    def _apart(self, written: Sequence[tuple[Sequence[int], Written]]) -> float:
        """The largest difference in nats between what was told and what the live student says."""
        pairs = [(tuple(prompt), tuple(ids)) for prompt, (ids, _) in written]
        with writing(self.model.device, "fp32"):
            live = token_log_probs(self.model, pairs, facts=self.facts)
        return max(
            abs(own - told) if math.isfinite(told) else math.inf
            for row, (_, (_, nats)) in zip(live, written, strict=True)
            for own, told in zip(row, nats, strict=True)
        )


def _with_own_head(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights, a head that is tied to the embedding under its own name, too: vLLM's CPU build
    (0.32) keeps a packed copy of it, which it packs again only when it is told that name."""
    weights: dict[str, Tensor] = model.state_dict()
    for name, module in model.named_modules():
        if module is model.get_output_embeddings():
            weights[f"{name}.weight"] = weights[f"{name}.weight"].clone()
    return weights
