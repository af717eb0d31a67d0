"""Low-rank adapters on a student, by peft: few weights are trained, and merged at the end."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from seqdistill.core.errors import ModelError, UserError, first_line
from seqdistill.core.generators import derived_seed
from seqdistill.models.places import ADAPTER_WEIGHTS
from seqdistill.models.proof import EXACT, difference, probe_logits
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

        Raises UserError without peft, and ModelError for names of no layer, of the output layer
        and of a matrix that several layers share.
        """
        _require_peft()
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
        output = model.get_output_embeddings()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft warns of tied layers, which are refused, and of Conv1D, which it sets right.
            warnings.simplefilter("ignore")
            torch.manual_seed(derived_seed(seed, "lora"))
            try:
                self._wrapped: Any = get_peft_model(model, config)
            except ValueError as error:
                raise ModelError(
                    f"student.lora.targets must name layers of the student, got {targets!r}: "
                    f"{error}; use all-linear, or the ends of names such as q_proj"
                ) from error
        self._refuse_shared(output, targets)
        trained, all_weights = self._wrapped.get_nb_trainable_parameters()
        _LOG.info("LoRA: %d of %d weights are trained", trained, all_weights)

    def _refuse_shared(self, output: nn.Module, targets: str | Sequence[str]) -> None:
        users: dict[int, list[str]] = {}
        for name, parameter in self._wrapped.named_parameters(remove_duplicate=False):
            users.setdefault(id(parameter), []).append(_shown(name))
        for name, module in self._wrapped.named_modules():
            base = getattr(module, "base_layer", None)
            if base is None:
                continue
            others = [other for other in users[id(base.weight)] if other != _shown(name)]
            if base is not output and not others:
                continue
            found = (
                "the output layer, whose matrix the losses read as it is"
                if base is output
                else f"shared with {', '.join(others)}: adapters merged into the one would change "
                "the others"
            )
            raise ModelError(
                "student.lora.targets must name layers whose matrix is their own and not the "
                f"output's, but {targets!r} names {_shown(name)}, {found}. Use all-linear, or the "
                "ends of other names, such as q_proj."
            )

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

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """While open, the model says what it said before it had adapters."""
        with self._wrapped.disable_adapter():
            yield

    def merge(self) -> PreTrainedModel:
        """The model itself, plain again: the adapters are merged in and gone."""
        merged: PreTrainedModel = self._wrapped.merge_and_unload()
        return merged.requires_grad_(True)

    def save(self, folder: Path) -> None:
        """Writes the adapters alone, as `peft.PeftModel.from_pretrained` reads them."""
        with atomic.replaced_folder(folder) as aside:
            self._wrapped.save_pretrained(aside)


class SwitchedAdapters:
    """Several adapters over one model, frozen: one of them is switched on at a time, or none.

    Making it changes the model in place; the first adapter is then on.
    """

    def __init__(self, model: PreTrainedModel, folders: Sequence[Path | None]) -> None:
        """`folders`: of each adapter by its place, None for the model without any.

        Raises UserError without peft, and ModelError for adapters that are not this model's, and
        for those that change its output layer, which is read as it is.
        """
        _require_peft()
        from peft import PeftModel

        output = model.get_output_embeddings()
        wrapped: Any = None
        self._names = [folder and f"teacher_{number}" for number, folder in enumerate(folders)]
        for name, folder in zip(self._names, folders, strict=True):
            if folder is None:
                continue
            _check_adapter_weights(folder)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if wrapped is None:
                        wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
                    else:
                        wrapped.load_adapter(str(folder), adapter_name=name)
            except Exception as error:  # whatever adapters say that does not fit
                raise ModelError(
                    f"The adapters in {folder} must fit their base model, but: {first_line(error)} "
                    "Give the base that they were trained on, or a folder of the merged model."
                ) from error
            if model.get_output_embeddings() is not output:
                raise ModelError(
                    f"Adapters that share a base model must leave its output layer as it is, but "
                    f"those in {folder} change it; give a folder of the merged model."
                )
        self._wrapped = wrapped.eval().requires_grad_(False)
        self._switch(0)

    def _switch(self, place: int) -> None:
        name = self._names[place]
        layers = self._wrapped.base_model
        if name is None:
            layers.disable_adapter_layers()
        else:
            layers.enable_adapter_layers()
            layers.set_adapter(name)
            self._wrapped.requires_grad_(False)  # what is switched on would be trained

    @contextlib.contextmanager
    def on(self, place: int) -> Iterator[None]:
        """While open, the model is the one with that adapter; afterwards the first."""
        self._switch(place)
        try:
            yield
        finally:
            self._switch(0)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One of several over a model that is in memory once."""

    shared: SwitchedAdapters
    place: int

    def on(self) -> AbstractContextManager[None]:
        """While open, the model is that of this adapter."""
        return self.shared.on(self.place)


def _shown(name: str) -> str:
    """Without what peft puts around it."""
    return (
        name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".base_layer")
    )


def merge_adapters(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapters in `folder` merged in, a plain one, proved to say the same.

    Raises UserError without peft, and ModelError for adapters that are not this model's or cannot
    be merged exactly, such as those of a matrix that is tied to another.
    """
    _require_peft()
    from peft import PeftModel

    _check_adapter_weights(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, str(folder))
            said = probe_logits(adapted.get_base_model())
            merged: PreTrainedModel = adapted.merge_and_unload()
    except Exception as error:  # whatever adapters say that does not fit
        raise ModelError(
            f"The adapters in {folder} must merge into their base model, but: "
            f"{first_line(error)} Give the base that they were trained on, or a folder "
            "of the merged model."
        ) from error
    apart = difference(said, probe_logits(merged))
    if not apart <= EXACT:
        raise ModelError(
            f"The adapters in {folder} must merge into their base model without changing what it "
            f"says, but the merged model's logits differ by {apart:.2g} of the largest: they sit "
            "on a matrix that is tied to another. Untie it, or give a folder of the merged model."
        )
    return merged.requires_grad_(True)


def _check_adapter_weights(folder: Path) -> None:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} must hold its adapters as {ADAPTER_WEIGHTS}, but has no such file; save "
            "them there with peft's save_pretrained."
        )


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            "LoRA adapters need the package peft, which is not installed; install seqdistill[lora]"
        )
