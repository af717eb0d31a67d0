"""Which of transformers' classes a configuration is of."""

from __future__ import annotations

from typing import Any

from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    PreTrainedConfig,
)


def auto_class(config: PreTrainedConfig) -> Any:
    """The auto class that makes a model which writes text."""
    if not config.is_encoder_decoder:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        return AutoModelForSpeechSeq2Seq
    return AutoModelForSeq2SeqLM
