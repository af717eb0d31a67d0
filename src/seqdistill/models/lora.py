"""Low-rank adapters on a student: few weights are trained, and merged into the others at the end.

peft makes, merges and stores them. Everybody else sees the same model as before, whose frozen
weights are joined by small trained ones.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.generators import derived_seed
from seqdistill.records import atomic

_LOG = logging.getLogger(__name__)


class LoraAdapter:
    """The adapters of one model. Making one changes the model in place and freezes its weights.

    W x becomes W x + (alpha / rank) B A x with A (rank, in) and B (out, rank) in every layer that
    `targets` names; B starts at zero, so that the student starts as it was.

    Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", sec. 4.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        targets: str | Sequence[str],
        seed: int,
    ) -> None:
        """`targets`: ends of module names, or `all-linear` for every linear layer but the output's.

        Raises UserError without peft, and ModelError when no layer of the model has such a name.
        """
        if importlib.util.find_spec("peft") is None:
            raise UserError(
                "LoRA students need the package peft, which is not installed; install "
                "seqdistill[lora]"
            )
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "lora"))
            try:
                self._wrapped: Any = get_peft_model(model, config)
            except ValueError as error:
                raise ModelError(
                    f"student.lora.targets must name layers of the student, got {targets!r}: "
                    f"{error}; use all-linear, or the ends of names such as q_proj"
                ) from error
        trained, all_weights = self._wrapped.get_nb_trainable_parameters()
        _LOG.info("LoRA: %d of %d weights are trained", trained, all_weights)

    def joined_weights(self) -> dict[str, nn.Parameter]:
        """The frozen matrices W that adapters are added to, by name."""
        return {
            name: parameter
            for name, parameter in self._wrapped.named_parameters()
            if name.endswith(".base_layer.weight")
        }

    def merged_copy(self) -> PreTrainedModel:
        """A plain model with the adapters' present weights merged in; the live one is untouched."""
        merged: PreTrainedModel = copy.deepcopy(self._wrapped).merge_and_unload()
        return merged

    def merge(self) -> PreTrainedModel:
        """The model itself, plain again: the adapters are merged in and gone."""
        merged: PreTrainedModel = self._wrapped.merge_and_unload()
        for parameter in merged.parameters():
            parameter.requires_grad_(True)
        return merged

    def save(self, folder: Path) -> None:
        """Writes the adapters alone, as `peft.PeftModel.from_pretrained` reads them."""
        with atomic.replaced_folder(folder) as aside:
            self._wrapped.save_pretrained(aside)
