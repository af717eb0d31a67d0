"""Audio files -> samples -> log-mel features, as a model's own feature extractor makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import WhisperFeatureExtractor

from seqdistill.core.errors import UserError, first_line
from seqdistill.core.source import SourceInputs


class AudioError(Exception):
    """The sentence about one file; becomes one line of a DataError."""


def read_audio(path: str, *, rate: int) -> npt.NDArray[np.float32]:
    """The samples of a WAV, FLAC or OGG file with one channel and that many samples a second.

    Raises AudioError for a file that is not there, cannot be read, or is another one, and
    UserError without the library that reads them.
    """
    try:
        import soundfile  # an extra: most users read text
    except ImportError as error:
        raise UserError(
            "Audio must be read with the library soundfile, which is not installed; install it, "
            "for example with pip install 'seqdistill[speech]'"
        ) from error
    if not Path(path).is_file():
        raise AudioError(
            f"there must be a file {path!r}, found none; paths count from the table's folder"
        )
    try:
        samples, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(
            f"{path!r} must be WAV or FLAC, but cannot be read: {first_line(error)}"
        ) from error
    if found != rate or samples.shape[1] != 1:
        raise AudioError(
            f"{path!r} must have {rate:,} samples a second and one channel, found {found:,} and "
            f"{samples.shape[1]}; convert it, for example with ffmpeg -i OLD -ar {rate} -ac 1 NEW"
        )
    if not len(samples) or not np.isfinite(samples).all():
        what = "samples that are no numbers" if len(samples) else "no samples"
        raise AudioError(f"{path!r} must hold sound, found {what}")
    only: npt.NDArray[np.float32] = samples[:, 0]
    return only


def log_mel(samples: npt.NDArray[np.float32], extractor: WhisperFeatureExtractor) -> SourceInputs:
    """`input_features` (frames, mel bins) of as many frames as the model reads, with silence after
    the sound. What is longer is cut there and has one frame more, which tells.
    """
    rate = extractor.sampling_rate
    made = extractor(samples, sampling_rate=rate, return_tensors="np").input_features[0]
    frames = torch.from_numpy(np.ascontiguousarray(made.T, dtype=np.float32))
    if len(samples) > extractor.n_samples:
        frames = torch.cat([frames, frames[-1:]])
    return SourceInputs.of(input_features=frames)
