"""What a Whisper makes features of audio with: log-mel spectrograms of one shape and rate."""

from __future__ import annotations

from transformers import PreTrainedConfig, WhisperFeatureExtractor

from seqdistill.core.errors import ModelError

_FRAMES_A_SECOND = 100


def hears(config: PreTrainedConfig) -> bool:
    """Whether a model of that configuration is given audio."""
    return bool(config.model_type == "whisper")


def new_extractor(config: PreTrainedConfig) -> WhisperFeatureExtractor | None:
    """That of a model from scratch: 16 kHz, 10 ms a frame. None for a model that does not hear.

    Raises ModelError for positions that are no whole number of seconds.
    """
    if not hears(config):
        return None
    seconds, rest = divmod(2 * config.max_source_positions, _FRAMES_A_SECOND)
    if rest or not seconds:
        raise ModelError(
            "student.architecture.max_source_positions must be a multiple of 50, the encoder's "
            f"positions of a second of audio, got {config.max_source_positions}; give 1500 for the "
            "30 seconds of the published models, or 500 for 10"
        )
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)


def check_extractor(
    extractor: WhisperFeatureExtractor, config: PreTrainedConfig, name: str
) -> None:
    """Raises ModelError where the features have another shape than the model reads."""
    made = (extractor.nb_max_frames, extractor.feature_size)
    read = (2 * config.max_source_positions, config.num_mel_bins)
    if made != read:
        raise ModelError(
            f"The feature extractor of {name!r} must make what its model reads, {read[0]} frames "
            f"of {read[1]} mel bins, but its preprocessor_config.json makes {made[0]} of "
            f"{made[1]}; copy that file from where the model came from"
        )
