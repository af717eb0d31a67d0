"""How an encoder-decoder reads its sources: text, or whatever a registered modality says.

A model of another modality joins with a `Modality` registered under the `model_type` of its
configuration, and with a reader that puts its `SourceInputs` into the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.core.errors import ModelError
from seqdistill.core.source import Source, SourceInputs, pad_sources


def tiny_ids(model: PreTrainedModel) -> Tensor:
    """Three token ids that every vocabulary has, as a batch of one: enough to compare logits."""
    num_rows: int = model.get_input_embeddings().weight.shape[0]
    return torch.tensor([[3, 1, 2]], device=model.device) % num_rows


class Modality:
    """Text: token ids. Other modalities override what differs."""

    reads_text = True
    """Whether a source is token ids; engines that know no other input refuse the rest."""
    max_steps: int | None = None
    """The longest source of another modality that the model reads; None where there is no limit."""

    def pad(self, sources: Sequence[Source]) -> SourceInputs:
        """A batch of the sources, on the CPU."""
        return pad_sources(sources)

    def arguments(self, source: SourceInputs) -> dict[str, Tensor]:
        """The batch as arguments of the model's `forward`, of its encoder and of `generate`."""
        return {"input_ids": source.tensors["input_ids"], "attention_mask": source.mask.long()}

    def encode(
        self, model: PreTrainedModel, source: SourceInputs
    ) -> tuple[Float[Tensor, "batch encoded dim"], Bool[Tensor, "batch encoded"]]:
        """The encoder's last hidden states, and which of them the decoder may attend to."""
        encoded: Tensor = model.get_encoder()(**self.arguments(source)).last_hidden_state
        return encoded, self.encoded_mask(model, source, encoded.shape[1])

    def encoded_mask(
        self, model: PreTrainedModel, source: SourceInputs, width: int
    ) -> Bool[Tensor, "batch encoded"]:
        """Which of the encoder's `width` states are real: an encoder may shorten its source."""
        return source.mask

    def attended(
        self, encoded: Float[Tensor, "batch encoded dim"], mask: Bool[Tensor, "batch encoded"]
    ) -> dict[str, Tensor]:
        """What `encode` gave as arguments of the decoder's `forward`."""
        return {"encoder_hidden_states": encoded, "encoder_attention_mask": mask.long()}

    def tiny(self, model: PreTrainedModel) -> Source:
        """One short source that every model of the kind can read: enough to try it on."""
        ids: list[int] = tiny_ids(model)[0].tolist()
        return ids


class LogMel(Modality):
    """Audio as Whisper hears it: log-mel features of so many frames, silence at the end included.

    A source's `input_features` are (frames, mel bins). The encoder gives a state for every second
    frame, and none is masked: Whisper has learned what silence is.
    """

    reads_text = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.max_steps = 2 * int(model.config.max_source_positions)
        self._dtype = model.dtype

    def arguments(self, source: SourceInputs) -> dict[str, Tensor]:
        """The batch as (batch, mel bins, frames) in the model's dtype."""
        features = source.tensors["input_features"].transpose(1, 2)
        return {
            "input_features": features.to(self._dtype),
            "attention_mask": source.mask.long(),  # not read, and asked for by `generate`
        }

    def encoded_mask(
        self, model: PreTrainedModel, source: SourceInputs, width: int
    ) -> Bool[Tensor, "batch encoded"]:
        """All of them."""
        return source.mask.new_ones(len(source.mask), width)

    def attended(
        self, encoded: Float[Tensor, "batch encoded dim"], mask: Bool[Tensor, "batch encoded"]
    ) -> dict[str, Tensor]:
        """Without a mask, which Whisper's decoder does not take."""
        return {"encoder_hidden_states": encoded}

    def tiny(self, model: PreTrainedModel) -> Source:
        """A sweep through the mel bins."""
        assert self.max_steps is not None
        frames = torch.arange(self.max_steps)[:, None] / self.max_steps
        bins = torch.arange(model.config.num_mel_bins) / model.config.num_mel_bins
        return SourceInputs.of(input_features=torch.cos(6 * (frames - bins)))


_MODALITIES: dict[str, Callable[[PreTrainedModel], Modality]] = {"whisper": LogMel}


def register_modality(model_type: str, modality: Callable[[PreTrainedModel], Modality]) -> None:
    """Models whose configuration has this `model_type` read their sources as `modality` says of
    the model."""
    _MODALITIES[model_type] = modality


def modality_of(model: PreTrainedModel) -> Modality:
    """How the model reads its sources.

    Raises ModelError for a model that reads something else than token ids and is not registered.
    """
    registered = _MODALITIES.get(model.config.model_type)
    if registered is None and model.main_input_name != "input_ids":
        raise ModelError(
            f"A model must read token ids or be registered with its modality, but "
            f"{type(model).__name__} reads {model.main_input_name}; call register_modality for "
            f"{model.config.model_type!r}."
        )
    return Modality() if registered is None else registered(model)
