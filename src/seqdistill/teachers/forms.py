"""The forms in which a teacher's scores are kept: columns of an Arrow table, a row a sequence.

    hidden_states   hidden                   the last hidden states; the head makes logits of them
    top_k           sizes, ids, log_probs,   the likeliest symbols of every position, and the mass
                    tail_log_mass            of all others
    samples         sizes, ids, counts       symbols drawn from the teacher, and how often

Every column is a list a row: of numbers for each position that counts, `sizes` of them where
positions differ. `ids` are packed in as many bits as the vocabulary needs, first bits first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.families import SparseForm
from seqdistill.core.head import Head
from seqdistill.core.scores import SparseScores
from seqdistill.objectives.chunked import Blocking, LogitsPass, product_dtype

Numbers = npt.NDArray[Any]
Precision = Literal["fp32", "fp16"]
DTYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
Column = Callable[[str], list[Numbers]]
"""The numbers of a column by its name, row by row."""


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """The whole distribution, as the teacher's last hidden states; `dtype` is that on disk."""

    precision: Precision
    form: Literal["hidden_states"] = "hidden_states"

    columns = ("hidden",)

    @property
    def largest(self) -> float:
        """The largest number that can be kept."""
        return float(np.finfo(DTYPES[self.precision]).max)

    def __str__(self) -> str:
        return f"hidden states in {self.precision}"

    def num_bytes(self, width: int) -> float:
        """On disk for a position, of a teacher of that width."""
        return width * DTYPES[self.precision].itemsize

    def rows(
        self, hidden: Float[Tensor, "positions dim"], head: Head, lengths: Sequence[int], keys: Keys
    ) -> list[list[Numbers]]:
        """The column, of sequences with so many positions."""
        stored = hidden.float().cpu().numpy().astype(DTYPES[self.precision])
        return [_split(stored, lengths)]

    def read(self, column: Column, width: int) -> Float[Tensor, "positions dim"]:
        """The states, in fp32."""
        rows = [row.reshape(-1, width).astype(np.float32) for row in column("hidden")]
        return torch.from_numpy(np.concatenate(rows))


@dataclasses.dataclass(frozen=True)
class TopK:
    """The `k` likeliest symbols of a distribution over `vocab_size`, and the mass of all others.

    With `mass` the fewest of them that have so much together. Log-probabilities are kept in fp16,
    11 significant bits, and the tail's in fp32.
    """

    k: int
    vocab_size: int
    mass: float | None = None
    temperature: float = 1.0
    form: Literal["top_k"] = "top_k"

    columns = ("sizes", "ids", "log_probs", "tail_log_mass")

    def __str__(self) -> str:
        mass = "" if self.mass is None else f" or mass {self.mass:g}"
        return f"top {self.k} of {self.vocab_size}{mass} at temperature {self.temperature:g}"

    def num_bytes(self, width: int) -> float:
        """On disk for a position, at most."""
        return self.k * (_bits(self.vocab_size) / 8 + 2) + 2 + 4

    def of(
        self, log_probs: Float[Tensor, "positions vocab"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every position how many symbols are kept, k ids and log-probabilities, likeliest
        first, and the log of the mass of all that are not kept."""
        kept, ids = log_probs.topk(self.k, dim=-1)
        sizes = torch.full(kept.shape[:1], self.k, device=kept.device)
        if self.mass is not None:
            sizes = (1 + (kept.exp().cumsum(dim=-1) < self.mass).sum(dim=-1)).clamp(max=self.k)
        own = torch.arange(self.k, device=kept.device) < sizes[:, None]
        first = torch.where(own, ids, ids[:, :1])
        tail = log_probs.scatter(-1, first, -torch.inf).logsumexp(dim=-1)
        return sizes, ids, kept, tail

    def rows(
        self, hidden: Float[Tensor, "positions dim"], head: Head, lengths: Sequence[int], keys: Keys
    ) -> list[list[Numbers]]:
        """The columns, of sequences with so many positions."""
        chunks = [self.of(each) for each in _log_probs(hidden, head.cut(self.vocab_size), self)]
        sizes, ids, kept, tail = (
            torch.cat(column).cpu().numpy() for column in zip(*chunks, strict=True)
        )
        own = np.arange(self.k) < sizes[:, None]
        ends = np.cumsum([0, *lengths])
        return [
            _split(sizes.astype("<u2"), lengths),
            [_packed(ids[a:b][own[a:b]], self.vocab_size) for a, b in pairwise(ends)],
            [kept[a:b][own[a:b]].astype("<f2") for a, b in pairwise(ends)],
            _split(tail.astype("<f4"), lengths),
        ]

    def read(self, column: Column) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, log-probabilities and the tail's of all positions, as written: see `SparseScores`.

        Their probabilities sum to 1 but for rounding.
        """
        sizes = np.concatenate(column("sizes"))
        ids = _unpacked(column, self.vocab_size)
        log_probs = np.concatenate(column("log_probs")).astype(np.float32)
        tail = np.concatenate(column("tail_log_mass"))
        return (
            _rectangle(ids, sizes, 0),
            _rectangle(log_probs, sizes, -np.inf),
            torch.from_numpy(np.array(tail)),
        )


@dataclasses.dataclass(frozen=True)
class Samples:
    """`num` symbols of every position, drawn from a distribution over `vocab_size` with
    replacement.

    The share that a symbol has of them is an unbiased estimate of its probability, and so is what
    is linear in it: the gradient of forward KL.

    Source: Anshumann et al. 2025 (Sparse Logit Sampling), random-sampling KD. Assumed: they draw
    from p^t, weighed by p^(1-t) and normalized; here t = 1, where weights are equal and nothing is
    normalized, so that the estimate is unbiased at any number of draws. The draws of a sequence are
    made once, and are the same in every epoch.
    """

    num: int
    vocab_size: int
    temperature: float = 1.0
    form: Literal["samples"] = "samples"

    columns = ("sizes", "ids", "counts")

    def __str__(self) -> str:
        return f"{self.num} draws from {self.vocab_size} at temperature {self.temperature:g}"

    def num_bytes(self, width: int) -> float:
        """On disk for a position, at most: where no symbol is drawn twice."""
        return self.num * (_bits(self.vocab_size) / 8 + 2) + 2

    def of(
        self, log_probs: Float[Tensor, "positions vocab"], uniform: Float[Tensor, "positions num"]
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Of every position how many symbols were drawn; then of each its id, and how often.

        `uniform` are numbers from 0 to below 1, which choose the symbols.
        """
        cumulated = log_probs.double().exp().cumsum(dim=-1)
        drawn = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
        place = torch.arange(len(drawn), device=drawn.device)[:, None] * self.vocab_size
        found, counts = torch.unique(place + drawn, return_counts=True)
        sizes = torch.bincount(found // self.vocab_size, minlength=len(drawn))
        ids = found % self.vocab_size
        return sizes.cpu().numpy(), ids.cpu().numpy(), counts.cpu().numpy()

    def rows(
        self, hidden: Float[Tensor, "positions dim"], head: Head, lengths: Sequence[int], keys: Keys
    ) -> list[list[Numbers]]:
        """The columns, of sequences with so many positions; each has random numbers of its own, so
        that it does not matter who draws."""
        uniform = torch.cat(
            [
                torch.rand(length, self.num, dtype=torch.float64, generator=_generator(key))
                for length, key in zip(lengths, keys, strict=True)
            ]
        ).to(hidden.device)
        chunks, start = [], 0
        for log_probs in _log_probs(hidden, head.cut(self.vocab_size), self):
            chunks.append(self.of(log_probs, uniform[start : start + len(log_probs)]))
            start += len(log_probs)
        sizes, ids, counts = (np.concatenate(column) for column in zip(*chunks, strict=True))
        ends = np.cumsum([0, *lengths])
        within = [int(sizes[a:b].sum()) for a, b in pairwise(ends)]
        return [
            _split(sizes.astype("<u2"), lengths),
            [_packed(each, self.vocab_size) for each in _split(ids, within)],
            _split(counts.astype("<u2"), within),
        ]

    def read(self, column: Column) -> tuple[Tensor, Tensor, Tensor]:
        """As of `TopK`: each symbol with the log of its share of the draws, and no tail."""
        sizes = np.concatenate(column("sizes"))
        ids = _unpacked(column, self.vocab_size)
        shares = np.concatenate(column("counts")).astype(np.float32) / self.num
        tail = torch.full(sizes.shape, -torch.inf)
        return _rectangle(ids, sizes, 0), _rectangle(np.log(shares), sizes, -np.inf), tail


Form = HiddenStates | TopK | Samples


def at_targets(values: Tensor, batch: SequenceBatch) -> Tensor:
    """Values of a batch's counted positions, one after another, where they belong; else zeros."""
    mask = batch.target_mask.cpu()
    whole = values.new_zeros(*mask.shape, *values.shape[1:])
    whole[mask] = values
    return whole.to(batch.target_ids.device)


def sparse_scores(
    ids: Int[Tensor, "positions top_k"],
    log_probs: Float[Tensor, "positions top_k"],
    tail: Float[Tensor, " positions"],
    *,
    batch: SequenceBatch,
    vocab_size: int,
    form: SparseForm,
) -> SparseScores:
    """Scores of a batch from those of its counted positions, one after another."""
    if form == "renormalized":
        tail = torch.full_like(tail, -torch.inf)
    # Rounded numbers sum to 1 nearly.
    whole = torch.cat([log_probs, tail[:, None]], dim=-1).log_softmax(dim=-1)
    known, rest = at_targets(whole[:, :-1], batch), at_targets(whole[:, -1], batch)
    return SparseScores(at_targets(ids, batch), known, rest, vocab_size, form)


Keys = Sequence[int]
"""A number for each sequence, which its content decides."""


def _log_probs(
    hidden: Float[Tensor, "positions dim"], head: Head, form: TopK | Samples
) -> Iterator[Float[Tensor, "chunk vocab"]]:
    """A chunk of positions after the other, in the arithmetic of training's dense form."""
    blocking = Blocking.of(hidden, head.vocab_size, None)
    dtype, step = product_dtype(hidden), blocking.slice
    logits = LogitsPass(hidden, head, dtype=dtype, temperature=form.temperature, blocking=blocking)
    for start in range(0, len(hidden), blocking.chunk):
        stop = min(start + blocking.chunk, len(hidden))
        for first in range(start, stop, step):
            yield logits.rows(first, min(first + step, stop)).log_softmax(dim=-1)


def _generator(key: int) -> torch.Generator:
    return torch.Generator().manual_seed(key >> 1)


def _split(values: Numbers, lengths: Sequence[int]) -> list[Numbers]:
    return list(np.split(values, np.cumsum(lengths)[:-1]))


def _bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())


def _packed(ids: npt.NDArray[np.int64], vocab_size: int) -> npt.NDArray[np.uint8]:
    bits = (ids[:, None] >> np.arange(_bits(vocab_size))) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def _unpacked(column: Column, vocab_size: int) -> npt.NDArray[np.int64]:
    """The ids of all rows, of which `sizes` says how many there are."""
    bits, found = _bits(vocab_size), []
    for packed, sizes in zip(column("ids"), column("sizes"), strict=True):
        num = int(sizes.sum(dtype=np.int64))
        rows = np.unpackbits(packed, count=num * bits, bitorder="little").reshape(num, bits)
        found.append(rows @ (1 << np.arange(bits)))
    return np.concatenate(found)


def _rectangle(values: Numbers, sizes: Numbers, fill: float) -> Tensor:
    """The values of positions of such sizes as (positions, largest size)."""
    own = np.arange(int(sizes.max(initial=1))) < sizes[:, None]
    filled = np.full(own.shape, fill, values.dtype)
    filled[own] = values
    return torch.from_numpy(filled)
