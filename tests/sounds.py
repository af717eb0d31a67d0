"""Speech for tests: every letter is a tone of a tenth of a second, and tiny models that hear it."""

from __future__ import annotations

import json
import string
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.tiny import BOS, EOS, PAD, VOCAB, character_tokenizer
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

RATE = 16_000
MELS, SECONDS = 8, 1
SHAPE: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": MELS,
    "max_source_positions": 50 * SECONDS,
    "max_target_positions": 40,
}


def samples_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tone for each letter."""
    place = np.arange(RATE // 10) / RATE
    tones = [np.sin(2 * np.pi * 200 * (1 + string.ascii_lowercase.find(c)) * place) for c in text]
    return (0.3 * np.concatenate(tones)).astype(np.float32)


def save_wav(path: Path, samples: Any, *, rate: int = RATE, channels: int = 1) -> Path:
    """16-bit samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(samples) * 32767).round().astype("<i2").tobytes())
    return path


def save_table(path: Path, texts: Sequence[str], **columns: Sequence[object]) -> Path:
    """A table of recordings, which lie in a folder beside it."""
    rows: list[Mapping[str, object]] = []
    for number, text in enumerate(texts):
        name = f"{path.stem}-clips/{number}.wav"
        save_wav(path.parent / name, samples_of(text))
        more = {key: values[number] for key, values in columns.items()}
        rows.append({"audio": name, "text": text, **more})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)


def tiny_whisper(*, seed: int = 0, **settings: Any) -> WhisperForConditionalGeneration:
    """A Whisper that hears a second, in evaluation mode; its outputs are of many kinds."""
    config = WhisperConfig(
        **{"vocab_size": VOCAB, "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS},
        **{"decoder_start_token_id": EOS, "begin_suppress_tokens": None, "init_std": 0.4},
        **{**SHAPE, **settings},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
                if "encoder_attn" in name or "conv" in name:  # so that it listens
                    parameter.mul_(3)
            end = model.model.decoder.embed_tokens.weight[EOS]
            model.model.decoder.layer_norm.bias.add_(1.5 * end / end.norm())  # so that some end
    return model


def save_whisper(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    tiny_whisper(seed=seed, **settings).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    extractor().save_pretrained(folder)
    return folder
