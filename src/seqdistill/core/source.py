"""What a model reads before it writes: token ids, or named tensors of another modality.

What is inside is known to the reader that made it, to the collator and to the model's `Modality`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from safetensors.torch import load, save
from torch import Tensor

from seqdistill.core.errors import ModelError


@dataclasses.dataclass(frozen=True, eq=False)
class SourceInputs:
    """Named tensors and how much of them is real: of one example, or of a padded batch.

    The tensors of one example have no batch axis and their first axis is time; those of a batch
    have the batch before it. `mask` is True on what is real.
    """

    tensors: Mapping[str, Tensor]
    mask: Bool[Tensor, "*batch source"]

    @classmethod
    def of(cls, **tensors: Tensor) -> SourceInputs:
        """One example; the first axis of the first tensor is its length."""
        length = len(next(iter(tensors.values())))
        return cls(tensors, torch.ones(length, dtype=torch.bool))

    def __len__(self) -> int:
        """Steps of time, padding included: of one example its length."""
        return self.mask.shape[-1]

    def to(self, device: torch.device) -> SourceInputs:
        """The same with its tensors on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return SourceInputs(moved, self.mask.to(device))

    def first(self, length: int) -> SourceInputs:
        """The beginning of one example."""
        return SourceInputs.of(**{name: tensor[:length] for name, tensor in self.tensors.items()})

    def to_bytes(self) -> bytes:
        """The tensors as a safetensors file; of one example.

        Of steps that only repeat the last one, such as the silence after a short recording, one
        is kept.
        """
        kept = {name: tensor[: _varied(tensor)] for name, tensor in self.tensors.items()}
        content: bytes = save(
            {name: tensor.contiguous() for name, tensor in kept.items()},
            {_LENGTH: str(len(self))},
        )
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> SourceInputs:
        """The example whose `to_bytes` this is."""
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        length = int(header["__metadata__"][_LENGTH])
        whole = {
            name: torch.cat([kept, kept[-1:].expand(length - len(kept), *kept.shape[1:])])
            for name, kept in load(content).items()
        }
        return cls.of(**whole)

    def state_dict(self) -> str:
        """`to_bytes` as JSON knows it."""
        return base64.b64encode(self.to_bytes()).decode()

    @classmethod
    def from_state_dict(cls, state: str) -> SourceInputs:
        """The example whose `state_dict` this is."""
        return cls.from_bytes(base64.b64decode(state))


_LENGTH = "length"


def _varied(tensor: Tensor) -> int:
    """How many steps there are up to the first of those at the end that are all the same."""
    others = (tensor != tensor[-1]).reshape(len(tensor), -1).any(dim=1).nonzero()
    return int(others[-1]) + 2 if len(others) else 1


Source = Sequence[int] | SourceInputs
"""Of one example: token ids, or what a model of another modality reads."""


def token_ids_of(sources: Sequence[Source]) -> list[Sequence[int]]:
    """The sources of a model that reads token ids. Raises ModelError for those of another."""
    ids = [source for source in sources if not isinstance(source, SourceInputs)]
    if len(ids) < len(sources):
        raise ModelError(
            f"This model must be given token ids, but {len(sources) - len(ids)} of {len(sources)} "
            "sources are of another modality; use a model that reads it"
        )
    return ids


def pad_sources(sources: Sequence[Source], *, fill: int = 0) -> SourceInputs:
    """A batch of the sources, padded at the end: token ids as `input_ids` with `fill`, other
    tensors with zeros."""
    inputs = [source for source in sources if isinstance(source, SourceInputs)]
    if len(inputs) < len(sources):
        ids, mask = padded_ids(token_ids_of(sources), fill=fill)
        return SourceInputs({"input_ids": ids}, mask)
    lengths = torch.tensor([len(source) for source in inputs])
    tensors = {
        name: torch.nn.utils.rnn.pad_sequence(
            [source.tensors[name] for source in inputs], batch_first=True
        )
        for name in inputs[0].tensors
    }
    return SourceInputs(tensors, torch.arange(int(lengths.max())) < lengths[:, None])


def padded_ids(
    rows: Sequence[Sequence[int]], *, fill: int = 0, side: Literal["left", "right"] = "right"
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Ids with `fill` in the holes, and the mask of real ones, on the CPU."""
    width = max(len(row) for row in rows)
    holes = [(fill,) * (width - len(row)) for row in rows]
    pairs = zip(rows, holes, strict=True)
    ids = [[*row, *hole] if side == "right" else [*hole, *row] for row, hole in pairs]
    place, lengths = torch.arange(width), torch.tensor([len(row) for row in rows])[:, None]
    mask = place < lengths if side == "right" else place >= width - lengths
    return torch.tensor(ids, dtype=torch.long), mask


def bytes_of(source: Source) -> bytes:
    """What tells a source from others: its ids in 64 bits, or a sha256 over its tensors."""
    if not isinstance(source, SourceInputs):
        return np.asarray(source, "<i8").tobytes()
    digest = hashlib.sha256()
    for name, tensor in sorted(source.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()
