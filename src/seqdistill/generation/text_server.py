"""Texts written by a server: all that is asked of an API without log-probabilities.

Texts stand for themselves: a source is the JSON of a request and an output its text, both as the
numbers of their bytes, so that the corpus and its fingerprints know what was asked and written.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from seqdistill.core.errors import ServerError
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source, token_ids_of
from seqdistill.generation.decoding import Hypothesis
from seqdistill.generation.server import Answer, ServerClient
from seqdistill.recipe.sequences_schema import Decoding

END = 256
"""Beyond all bytes: what closes an output that its writer ended."""
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


def request_ids(request: Answer) -> tuple[int, ...]:
    """A source of these parts of a request: `prompt`, or `messages` and `tools`."""
    return tuple(json.dumps(request, ensure_ascii=False, sort_keys=True).encode())


def text_of(ids: Sequence[int]) -> str:
    """The text that an output is."""
    return bytes(i for i in ids if i != END).decode()


class TextServerGenerator:
    """A `SequenceGenerator` over an API of texts: greedy, or `n_best` samples a source.

    Samples are seeded, which servers keep as well as they can. There are no log-probabilities: they
    are NaN, and n samples keep their order.
    """

    def __init__(self, client: ServerClient, *, model: str, api: str) -> None:
        self._client, self.model, self._path = client, model, PATHS[api]

    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `SequenceGenerator.generate`. Raises ServerError for fewer or more texts."""
        bodies = [
            self._body(ids, decoding, derived_seed(seed, f"server/{place}"))
            for place, ids in enumerate(token_ids_of(sources))
        ]
        wanted = decoding.n_best if decoding.mode == "sample" else 1
        read = functools.partial(self._read, wanted=wanted)
        return self._client.post_all(self._path, bodies, read=read, on_progress=on_progress)

    def _body(self, ids: Sequence[int], decoding: Decoding, seed: int) -> Answer:
        asked = {
            **json.loads(bytes(ids)),
            "model": self.model,
            "max_tokens": decoding.max_new_tokens,
        }
        if decoding.mode == "beam":
            return {**asked, "temperature": 0.0}
        top_k = {"top_k": decoding.top_k} if decoding.top_k else {}  # no key of OpenAI's
        return {
            **asked,
            "temperature": decoding.sampling_temperature,
            "top_p": decoding.top_p,
            "n": decoding.n_best,
            "seed": seed,
            **top_k,
        }

    def _read(self, answer: Answer, *, wanted: int) -> list[Hypothesis]:
        try:
            found = [_hypothesis(choice) for choice in answer["choices"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ServerError(
                f"The server of {self._client.key} must answer with choices of texts, but has none "
                f"({error!r}); set {self._client.key}.api to what it serves: completions or chat"
            ) from error
        if len(found) != wanted:
            raise ServerError(
                f"The server of {self._client.key} must answer with as many texts as are asked for "
                f"(n={wanted}), but has {len(found)}; ask another server, or set "
                "sequences.decoding.n_best=1 where it writes one whatever it is asked"
            )
        return found


def _hypothesis(choice: dict[str, Any]) -> Hypothesis:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    finished = choice.get("finish_reason") == "stop"
    ids = tuple((text or "").encode())
    return Hypothesis((*ids, END) if finished else ids, math.nan, finished)
