"""Decoding with CTranslate2: what decodes where it computes the same as the model.

Encoder-decoder and decoder-only models, converted from a live model and compared with it by
`ctranslate2_loading`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.batch import Kind
from seqdistill.core.batches import equal_length_batches, padded_batches
from seqdistill.core.completions import Completions
from seqdistill.core.errors import EngineError, ModelError
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source, token_ids_of
from seqdistill.generation.ctranslate2_loading import ModelLoader
from seqdistill.generation.decoding import Decoding, Hypothesis
from seqdistill.generation.model_facts import check_lengths, writing_below
from seqdistill.generation.sampling import check_rollout_decoding
from seqdistill.generation.scoring import IdPair
from seqdistill.generation.stored_conversion import open_stored, read_stored, write_stored
from seqdistill.generation.verification import NO_LONGER, NUM_SHORT, TOLERANCES, Agreement, Reach
from seqdistill.models.loading import load_tokenizer
from seqdistill.records import atomic
from seqdistill.records.checksums import write_checksums

_log = logging.getLogger(__name__)
_CPU = torch.device("cpu")


def _check_arithmetic(compute_type: str, device: torch.device) -> None:
    if device.type == "cuda" and not ctranslate2.get_cuda_device_count():
        raise EngineError(
            "CTranslate2 must find the GPU that the model lies on, but this build of it finds none"
        )
    supported = ctranslate2.get_supported_compute_types(device.type, device.index or 0)
    if compute_type not in TOLERANCES or compute_type not in supported:
        usable = ", ".join(sorted(supported & set(TOLERANCES)))
        raise ModelError(
            f"compute_type must be one that this {'GPU' if device.type == 'cuda' else 'CPU'} has "
            f"({usable}), got {compute_type!r}"
        )


def _num_workers(threads: int | None, device: torch.device) -> int:
    if device.type == "cuda":
        return 1
    return len(os.sched_getaffinity(0)) if threads is None else threads


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Puts torch's number of threads back afterwards.

    CTranslate2 sets OpenMP's number of threads for its own workers, one each, and torch shares it:
    without this a training goes on with a single thread after its first dev score.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class CTranslate2Generator:
    """A `SequenceGenerator` over CTranslate2 workers, where the model lies.

    On CPUs each worker has one thread; on a GPU there is one worker.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        kind: Kind,
        verify_on: Sequence[IdPair],
        reach: Reach = NO_LONGER,
        sentences: int = NUM_SHORT,
        vocab_size: int | None = None,
        compute_type: str = "float32",
        threads: int | None = None,
    ) -> None:
        """Converts, loads and verifies `model`, which stays untouched.

        `verify_on` holds (source ids, target ids) of real sentences, the first `sentences` of
        which are compared; for decoder-only models (prompt ids, continuation ids). `reach` is how
        long the sequences to decode get: one of that length is compared, too. In other arithmetics
        than float32 the conversion is checked in float32 first. Only ids below `vocab_size` are
        written, from the softmax over them; None means every id of the model. `threads` counts on
        CPUs; None takes every CPU the process may use.

        Raises ModelError when the model cannot be converted, when this machine has no such
        arithmetic, or when the converted model disagrees with the live one.
        """
        device: torch.device = model.device
        _check_arithmetic(compute_type, device)
        workers = _num_workers(threads, device)
        self._vocab_size = vocab_size
        self._loader = ModelLoader(
            tokenizer, kind, compute_type, workers, device, list(verify_on), reach, sentences
        )
        with _torch_threads_kept():
            self._loaded = self._loader.load(model)
        writing_below(self._loaded.facts, vocab_size)

    @property
    def compute_type(self) -> str:
        """The arithmetic of the workers."""
        return self._loader.compute_type

    @classmethod
    def open(
        cls, folder: str | Path, *, threads: int | None = None, device: torch.device = _CPU
    ) -> CTranslate2Generator:
        """The model that `save` wrote to `folder`; the live one is not needed.

        Raises ModelError for a folder that `save` did not write, or that is damaged.
        """
        stored = read_stored(Path(folder))
        _check_arithmetic(stored.compute_type, device)
        made = cls.__new__(cls)
        made._vocab_size = None
        made._loader = ModelLoader(
            load_tokenizer(str(folder)),
            stored.facts.kind,
            stored.compute_type,
            _num_workers(threads, device),
            device,
        )
        with _torch_threads_kept():
            made._loaded = open_stored(Path(folder), stored, made._loader)
        return made

    @property
    def kind(self) -> Kind:
        """`seq2seq` or `causal`."""
        return self._loader.kind

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's."""
        return self._loader.tokenizer

    @property
    def longest(self) -> int:
        """Positions of the longest sequence on which the converted model was compared."""
        return self._loaded.longest

    @property
    def agreement(self) -> Agreement:
        """How far the converted model lay from the live one when its weights were last taken."""
        return self._loaded.agreement

    def refresh(self, model: PreTrainedModel) -> None:
        """Takes the weights that `model` has now, in milliseconds; nothing is written to disk.

        The conversion was verified whole when it was loaded, so one sentence is compared each
        time, another one at every call. A model of other tokens (a Marian model whose last row
        has begun to move) is loaded and verified whole again.

        Raises EngineError when the two disagree.
        """
        with _torch_threads_kept():
            self._loaded = self._loader.refreshed(model, self._loaded)

    def save(self, folder: str | Path) -> None:
        """Writes the converted model and the tokenizer to a new `folder`.

        `ctranslate2.Translator` (or `Generator`) opens it as it is, and so does
        `transformers.AutoTokenizer`, whose token strings are the model's own; `open` needs nothing
        else. What the model file has no place for is in `seqdistill.json`: see `stored_conversion`.
        Raises ModelError when `folder` exists and is not empty.
        """
        try:
            with atomic.new_folder(folder) as aside:
                for name, content in self._loaded.converted.files.items():
                    atomic.write_bytes(aside / name, content)
                self._loader.tokenizer.save_pretrained(aside)
                write_stored(aside, self._loaded, self.compute_type)
                write_checksums(aside)
        except FileExistsError as error:
            raise ModelError(str(error)) from error

    @_torch_threads_kept()
    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `SequenceGenerator.generate`.

        Beam search does not depend on `seed` or the number of threads. Samples depend on both:
        each worker has a stream of its own.

        CTranslate2 does not decode an encoder's source of nothing but start and end tokens: the
        answer is then empty and unfinished, and the number of such sources is logged.
        """
        facts = self._loaded.facts
        check_lengths(sources, max_new_tokens=decoding.max_new_tokens, facts=facts)
        lengths = [len(source) for source in sources]
        if facts.kind == "causal":
            # CTranslate2 mixes prompt and output when the prompts of a batch differ in length.
            batches = equal_length_batches(lengths, batch_tokens=decoding.batch_tokens)
        else:
            batches = padded_batches(lengths, batch_tokens=decoding.batch_tokens)
        if decoding.mode == "sample":
            pools = self._seeded_pools(min(self._loader.threads, len(batches)), seed)
        else:
            pools = [self._loaded.workers]
        pending = [
            (batch, self._submit(pools[number % len(pools)], [sources[i] for i in batch], decoding))
            for number, batch in enumerate(batches)
        ]
        hypotheses: list[list[Hypothesis]] = [[] for _ in sources]
        for batch, answers in pending:
            for index, answer in zip(batch, answers, strict=True):
                hypotheses[index] = self._read(answer.result(), decoding)
            if on_progress is not None:
                on_progress(len(batch))
        num_empty = sum(not answers[0].token_ids for answers in hypotheses)
        if num_empty:
            _log.warning("%d sources without content were answered with nothing", num_empty)
        return hypotheses

    def _seeded_pools(self, count: int, seed: int) -> list[Any]:
        """Fresh pools of one worker each, with random streams that `seed` fixes.

        A CTranslate2 worker seeds its stream when it first samples, from one process-wide number,
        and never again: in one pool all workers draw the same stream, and a second call cannot be
        repeated. So each pool is new and draws once before the next is seeded.
        """
        pools = []
        converted = self._loaded.converted
        for number in range(count):
            pool = self._loader.workers(converted, 1, self.compute_type)
            # CTranslate2 takes 32 bits; all ones means "unseeded" there.
            ctranslate2.set_random_seed(derived_seed(seed, f"ctranslate2 {number}") & 0x7FFFFFFF)
            first = Decoding(mode="sample", max_new_tokens=1)
            for answer in self._submit(pool, [[converted.content_id]], first):
                answer.result()
            pools.append(pool)
        return pools

    def _submit(self, pool: Any, sources: Sequence[Source], decoding: Decoding) -> list[Any]:
        """Promises of results, one a source, decoded as one batch."""
        facts, converted = self._loaded.facts, self._loaded.converted
        strings = [converted.strings([*source]) for source in token_ids_of(sources)]
        options: dict[str, Any] = {
            "asynchronous": True,
            "num_hypotheses": decoding.n_best,
            "return_scores": True,
            "return_end_token": True,
            "end_token": converted.strings(converted.known(facts.end_ids)),
        }
        if self._vocab_size is not None and self._vocab_size < facts.vocab_size:
            # CTranslate2 takes single tokens out before its softmax: scores are those of the rest.
            beyond = converted.token_strings[self._vocab_size :]
            options["suppress_sequences"] = [[string] for string in beyond]
        if decoding.mode == "beam":
            options |= {
                "beam_size": decoding.beam_size,
                "length_penalty": decoding.length_penalty,
            }
        else:
            options |= {
                "beam_size": 1,
                "length_penalty": 0.0,
                "sampling_topk": decoding.top_k,
                "sampling_topp": decoding.top_p,
                "sampling_temperature": decoding.sampling_temperature,
            }
        if self.kind == "seq2seq":
            # By default CTranslate2 cuts sources at 1,024 tokens and forbids empty outputs.
            prefix = converted.strings(facts.prefix_ids)
            answers: list[Any] = pool.translate_batch(
                strings,
                max_input_length=0,
                target_prefix=[prefix] * len(strings) if prefix else None,
                max_decoding_length=decoding.max_new_tokens + len(prefix),
                min_decoding_length=0,
                **options,
            )
        else:
            answers = pool.generate_batch(
                strings,
                max_length=decoding.max_new_tokens,
                min_length=0,
                include_prompt_in_result=False,
                **options,
            )
        return answers

    def _read(self, result: Any, decoding: Decoding) -> list[Hypothesis]:
        """The hypotheses of one source; scores become plain sums of log-probabilities again."""
        penalty = decoding.length_penalty if decoding.mode == "beam" else 0.0
        sequences = result.hypotheses if self.kind == "seq2seq" else result.sequences
        facts, hypotheses = self._loaded.facts, []
        for strings, score in zip(sequences, result.scores, strict=True):
            # The prefix counts as length, but no log-probability of it is in the score.
            written = self._loaded.converted.ids(strings)
            ids = written[len(facts.prefix_ids) :]
            log_prob = score * len(written) ** penalty
            hypotheses.append(Hypothesis(ids, log_prob, facts.is_finished(ids)))
        return hypotheses


class CTranslate2Sampler:
    """A `Sampler` that sees the model's weights as they were at the last `refresh`.

    Samples depend on the number of threads, besides the seed: each worker has a stream of its
    own. `log_probs` are None: CTranslate2 tells them of whole sequences only.

    A source of nothing but start and end tokens is answered with no token, unfinished.
    """

    def __init__(
        self, model: PreTrainedModel, generator: CTranslate2Generator, decoding: Decoding
    ) -> None:
        """`generator` was made of `model`. Raises RecipeError for a beam of more than one."""
        check_rollout_decoding(decoding)
        self._model = model
        self._decoding = decoding
        self._generator = generator

    def refresh(self) -> None:
        """Takes the model's present weights and compares one sentence.

        Raises EngineError when the two disagree.
        """
        self._generator.refresh(self._model)

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`."""
        answers = self._generator.generate(prompts, self._decoding, seed=seed)
        best = [hypotheses[0] for hypotheses in answers]
        return Completions.of_rows([h.token_ids for h in best], finished=[h.finished for h in best])
