"""A CTranslate2 model with its workers: made of a live one and proven to be the same, or stored.

Decodes nothing: `ctranslate2_engine` does. A stored model is a folder that needs no live one: what
CTranslate2's own files have no place for is in `seqdistill.json` beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ctranslate2
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.batch import Kind
from seqdistill.core.errors import EngineError, ModelError, first_line
from seqdistill.generation.conversion import (
    WEIGHTS,
    ConvertedModel,
    as_engine_error,
    convert,
    detached_cpu_copy,
    loader_for,
    with_weights_of,
)
from seqdistill.generation.ctranslate2_scoring import converted_predictions
from seqdistill.generation.model_facts import ModelFacts, facts_of, writing_below
from seqdistill.generation.scoring import IdPair, Prediction, token_predictions
from seqdistill.generation.verification import (
    NO_LONGER,
    NUM_SHORT,
    TOLERANCES,
    Agreement,
    Reach,
    long_pairs,
    positions_taken,
    require_agreement,
    short_pairs,
)
from seqdistill.models.loading import check_finite, load_tokenizer
from seqdistill.records import atomic
from seqdistill.records.checksums import check_model_folder, write_checksums

_log = logging.getLogger(__name__)
_CPU = torch.device("cpu")
Opened = TypeVar("Opened", bound="CTranslate2Model")
_COMPARED = 8
"""Target tokens that are compared each time weights are taken anew."""
STORED = "seqdistill.json"
_VOCABULARIES = ("shared_vocabulary.json", "vocabulary.json")
_REMEDY = "make it with `seqdistill export RUN_OR_MODEL OUTPUT --format int8`"


@dataclasses.dataclass(frozen=True)
class StoredConversion:
    """The content of seqdistill.json."""

    facts: ModelFacts
    compute_type: str
    end_token: tuple[str, ...]
    """The argument of that name of `translate_batch` and `generate_batch`."""
    target_prefix: tuple[str, ...]
    """What an encoder-decoder's outputs begin with: given to `translate_batch` for every source."""
    agreement: Agreement
    longest: int
    """See `CTranslate2Model`."""


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a CTranslate2 model."""
    return (folder / WEIGHTS).is_file()


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Puts torch's number of threads back afterwards.

    CTranslate2 sets OpenMP's number of threads for its own workers, one each, and torch shares it:
    without this a training goes on with a single thread after its first dev score.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def runs_as(compute_type: str, device: torch.device) -> str:
    """The arithmetic in which a model stored in `compute_type` runs on the device.

    CPUs mostly have no float16: CTranslate2 then reads the floats beside int8 as float32.
    """
    found = ctranslate2.get_supported_compute_types(device.type, device.index or 0)
    is_short = compute_type == "int8_float16" and compute_type not in found
    return "int8" if is_short else compute_type


@dataclasses.dataclass(eq=False)
class CTranslate2Model:
    """A converted and verified model with its workers, where the model lies; that stays untouched.

    On CPUs each worker has one thread; on a GPU there is one worker. In other arithmetics than
    float32 the conversion is checked in float32 first.

    Raises ModelError when the model cannot be converted, when this machine has no such arithmetic,
    or when the converted model disagrees with the live one.
    """

    model: dataclasses.InitVar[PreTrainedModel | None]
    """What is converted; None for `open`."""
    tokenizer: PreTrainedTokenizerBase
    _: dataclasses.KW_ONLY
    kind: Kind
    verify_on: Sequence[IdPair] = ()
    """(source ids, target ids) of real sentences, the first `sentences` of which are compared; for
    decoder-only models (prompt ids, continuation ids)."""
    reach: Reach = NO_LONGER
    """How long the sequences to decode get: one of that length is compared, too."""
    sentences: int = NUM_SHORT
    vocab_size: int | None = None
    """Only ids below it are written, from the softmax over them; None means every id."""
    compute_type: str = "float32"
    """The arithmetic here."""
    stored_type: str | None = None
    """The compute type of the files, where that is another one: see `runs_as`."""
    threads: int | None = None
    """On CPUs; None takes every CPU the process may use."""
    device: torch.device = _CPU
    """Of stored models; others are where the live one is."""
    facts: ModelFacts = dataclasses.field(init=False)
    agreement: Agreement = dataclasses.field(init=False)
    """How far the converted model lay from the live one when its weights were last taken."""
    longest: int = dataclasses.field(init=False)
    """Positions of the longest sequence on which the two were compared."""

    def __post_init__(self, model: PreTrainedModel | None) -> None:
        if model is not None:
            self.device = model.device
        on_gpu = self.device.type == "cuda"
        if on_gpu and not ctranslate2.get_cuda_device_count():
            raise EngineError(
                "CTranslate2 must find the GPU that the model lies on, but this build of it finds "
                "none"
            )
        found = ctranslate2.get_supported_compute_types(self.device.type, self.device.index or 0)
        if self.compute_type not in found & set(TOLERANCES):
            raise ModelError(
                f"compute_type must be one that this {'GPU' if on_gpu else 'CPU'} has "
                f"({', '.join(sorted(found & set(TOLERANCES)))}), got {self.compute_type!r}"
            )
        self.num_workers = 1 if on_gpu else self.threads or len(os.sched_getaffinity(0))
        self._refreshes = 0
        self._workers: Any = None
        self._unused: list[Any] = []
        if model is not None:
            with torch_threads_kept():
                self._load(model)
            writing_below(self.facts, self.vocab_size)

    def _load(self, model: PreTrainedModel) -> None:
        loader_for(model)
        check_finite(model)
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        disposable = detached_cpu_copy(model)
        short = short_pairs(self.verify_on, facts, count=self.sentences)
        pairs = [*short, *long_pairs(short, facts, disposable.config, self.reach)]
        live = token_predictions(disposable, pairs, facts=facts)
        exact, converted = convert(
            disposable, self.tokenizer, facts, compute_type=self.stored_type or self.compute_type
        )
        del disposable
        if exact is not converted:
            workers = self._workers_of(exact, 1, "float32")
            found = converted_predictions(workers, exact, pairs, facts)
            require_agreement(live, found, compute_type="float32")
        self._take(converted, facts, pairs, live)
        self.longest = max(positions_taken(pair, facts) for pair in pairs)
        _log.info(
            "CTranslate2 %s model verified on %d tokens, up to position %d: at most %.2g nats from "
            "the live one",
            self.compute_type,
            self.agreement.num_tokens,
            self.longest,
            self.agreement.max_nats,
        )

    def _take(
        self,
        converted: ConvertedModel,
        facts: ModelFacts,
        pairs: Sequence[IdPair],
        live: Sequence[Sequence[Prediction]],
    ) -> None:
        """Decodes with `converted` from now on, if it says of the pairs what the model does."""
        worker = self._workers_of(converted, 1, self.compute_type)
        found = converted_predictions(worker, converted, pairs, facts)
        self.agreement = require_agreement(live, found, compute_type=self.compute_type)
        self.facts, self._converted = facts, converted
        self._unused = [worker]  # that compared has drawn nothing
        self._workers = worker if self.num_workers == 1 else None

    @property
    def workers(self) -> Any:
        """All of them, as a pool."""
        if self._workers is None:
            self._workers = self._workers_of(self._converted, self.num_workers, self.compute_type)
        return self._workers

    def unused_worker(self) -> Any:
        """A pool of one that has never drawn a number, handed out once."""
        if self._unused:
            return self._unused.pop()
        return self._workers_of(self._converted, 1, self.compute_type)

    def _workers_of(self, converted: ConvertedModel, count: int, compute_type: str) -> Any:
        engine = ctranslate2.Translator if self.kind == "seq2seq" else ctranslate2.Generator
        with as_engine_error("this model"):
            return engine(
                "in memory",
                device=self.device.type,
                device_index=self.device.index or 0,
                compute_type=compute_type,
                inter_threads=count,
                intra_threads=1,
                max_queued_batches=-1,
                files=converted.files,
            )

    @torch_threads_kept()
    def refresh(self, model: PreTrainedModel) -> None:
        """Takes the weights that `model` has now, in milliseconds; nothing is written to disk.

        The conversion was verified whole when it was loaded, so the beginning of one sentence is
        compared each time, another one at every call. A model of other tokens (a Marian model whose
        last row has begun to move) is loaded and verified whole again.

        Raises EngineError when the two disagree.
        """
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        if facts != self.facts:
            self._load(model)
            return
        disposable = detached_cpu_copy(model)
        pairs = short_pairs(self.verify_on, facts)
        source, target = pairs[self._refreshes % len(pairs)]
        pair = (source, target[:_COMPARED])
        live = token_predictions(disposable, [pair], facts=facts)
        converted = with_weights_of(
            disposable,
            self.tokenizer,
            facts,
            compute_type=self.compute_type,
            converted=self._converted,
        )
        self._take(converted, facts, [pair], live)
        self._refreshes += 1
        _log.debug("refreshed weights are at most %.2g nats from the live", self.agreement.max_nats)

    def save(self, folder: str | Path) -> None:
        """Writes the converted model and the tokenizer to a new `folder`.

        `ctranslate2.Translator` (or `Generator`) opens it as it is, and so does
        `transformers.AutoTokenizer`, whose token strings are the model's own; `open` needs nothing
        else. Raises ModelError when `folder` exists and is not empty.
        """
        facts, converted = self.facts, self._converted
        stored = StoredConversion(
            facts,
            self.stored_type or self.compute_type,
            tuple(converted.strings(converted.known(facts.end_ids))),
            tuple(converted.strings(facts.prefix_ids)),
            self.agreement,
            self.longest,
        )
        try:
            with atomic.new_folder(folder) as aside:
                for name, content in converted.files.items():
                    atomic.write_bytes(aside / name, content)
                self.tokenizer.save_pretrained(aside)
                atomic.write_json(aside / STORED, dataclasses.asdict(stored))
                write_checksums(aside)
        except FileExistsError as error:
            raise ModelError(str(error)) from error

    @classmethod
    @torch_threads_kept()
    def open(
        cls: type[Opened],
        folder: str | Path,
        *,
        threads: int | None = None,
        device: torch.device = _CPU,
    ) -> Opened:
        """The model that `save` wrote to `folder`; the live one is not needed.

        Raises ModelError for a folder that `save` did not write, or that is damaged, and UserError
        where a file does not have its checksum.
        """
        folder = Path(folder)
        check_model_folder(folder)
        try:
            stored = TypeAdapter(StoredConversion).validate_json((folder / STORED).read_bytes())
        except (OSError, ValidationError) as error:
            raise ModelError(
                f"{folder} must hold {STORED}, which says how its CTranslate2 model starts and "
                f"ends sequences, found: {first_line(error)}; {_REMEDY}"
            ) from error
        made = cls(
            None,
            load_tokenizer(str(folder)),
            kind=stored.facts.kind,
            compute_type=runs_as(stored.compute_type, device),
            stored_type=stored.compute_type,
            threads=threads,
            device=device,
        )
        made.facts, made.agreement, made.longest = stored.facts, stored.agreement, stored.longest
        names = (WEIGHTS, "config.json", *_VOCABULARIES)
        try:
            files = {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}
            vocabulary = next((files[name] for name in _VOCABULARIES if name in files), None)
            if vocabulary is None or "config.json" not in files:
                raise ValueError(f"it has no {_VOCABULARIES[0]} or no config.json")
            made._converted = ConvertedModel(files, tuple(json.loads(vocabulary)))
            made._workers = made._workers_of(made._converted, made.num_workers, made.compute_type)
        except (OSError, ValueError, EngineError) as error:
            raise ModelError(
                f"{folder} must hold a whole CTranslate2 model, but it cannot be read: {error}; "
                f"{_REMEDY}"
            ) from error
        return made
