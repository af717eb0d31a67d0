"""Shapes of encoder-decoder models that the experiments train from random weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BeforeValidator, TypeAdapter

Settings = Mapping[str, Any]
"""Keys of a recipe, dotted, and their values."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Size:
    """A student's shape. All have two kinds of layers of one width, four times wider inside."""

    width: int
    encoder_layers: int
    decoder_layers: int

    @property
    def name(self) -> str:
        """Such as 64x2+2: width, encoder layers, decoder layers."""
        return f"{self.width}x{self.encoder_layers}+{self.decoder_layers}"

    @property
    def architecture(self) -> dict[str, str | int | float | bool]:
        """The transformers configuration: the teachers' own architecture, made small."""
        return {
            "model_type": "mbart",
            "d_model": self.width,
            "encoder_layers": self.encoder_layers,
            "decoder_layers": self.decoder_layers,
            "encoder_attention_heads": max(2, self.width // 32),
            "decoder_attention_heads": max(2, self.width // 32),
            "encoder_ffn_dim": 4 * self.width,
            "decoder_ffn_dim": 4 * self.width,
            "dropout": 0.1,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "max_position_embeddings": 256,
            # Narrow models hardly learn at first from the usual 0.02, which suits wide ones.
            "init_std": round(self.width**-0.5, 4),
            "scale_embedding": True,
            "tie_word_embeddings": True,
        }


def _size(given: object) -> object:
    return Size(*map(int, re.findall(r"\d+", given))) if isinstance(given, str) else given


NamedSize = Annotated[Size, BeforeValidator(_size)]
"""A size, written by its name."""


def read_tasks(path: Path, kind: type[T]) -> dict[str, T]:
    """The tasks in a YAML file, by their names, as dataclasses of the kind."""
    tasks: dict[str, T] = TypeAdapter(dict[str, kind]).validate_python(  # type: ignore[valid-type]
        yaml.safe_load(path.read_text("utf-8"))
    )
    return tasks
