"""Loads model and tokenizer folders: safetensors only, no remote code unless the user asks.

Knows transformers' Auto classes and nothing of training.
"""

from __future__ import annotations

import dataclasses
import functools
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdistill.core.errors import ModelError
from seqdistill.models.adapters import Kind, kind_of

_HUB_SECONDS = 5.0
_CONVERTED = ("model.bin", "model.bin.safetensors")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.spm")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and the name the user gave it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    @property
    def kind(self) -> Kind:
        """`seq2seq` or `causal`."""
        return kind_of(self.model)


def _explained(name: str, what: str, error: Exception) -> ModelError:
    if not Path(name).exists() and name.startswith((".", "/", "~")):
        return ModelError(
            f"The {what} must load from a model folder, but there is no folder {name!r}; check the "
            "path, which counts from the current folder."
        )
    if "://" in name:
        return ModelError(
            f"The {what} must load from a model folder or a hub name, but {name!r} is an address: "
            "models run in this process and not behind a server."
        )
    if not Path(name).exists() and not hub_answers():
        return ModelError(
            f"The {what} must load from a model folder, a hub name that was loaded before, or the "
            f"hub, but there is no folder {name!r}, nothing of that name in the hub's cache, and "
            f"no connection to {constants.ENDPOINT}; check the name, or go online."
        )
    found = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = "folder" if Path(name).exists() else "folder (none of that name exists) or hub name"
    return ModelError(
        f"The {what} must load from the {where} {name!r}, but: {found} "
        "Give a folder written by save_pretrained: config.json, model.safetensors, tokenizer."
    )


@functools.cache
def hub_answers() -> bool:
    """Whether the hub's server takes connections; asked once a process.

    Where there is none, the hub's own client would try for half a minute for every file. Behind a
    proxy it is left to try: only the proxy knows.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if address.scheme in urllib.request.getproxies():
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_HUB_SECONDS):
            return True
    except OSError:
        return False


def only_local(name: str, *, trust_remote_code: bool) -> bool:
    """Whether files can be this machine's alone: a folder's, or those in the hub's cache.

    Code that a trusted folder names may lie on the hub.
    """
    return (Path(name).exists() and not trust_remote_code) or not hub_answers()


def load_config(name: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration in a model folder.

    Raises ModelError when there is none, and for folders of CTranslate2 and of quantized weights.
    """
    _check_not_converted(name)
    try:
        config = AutoConfig.from_pretrained(
            name,
            trust_remote_code=trust_remote_code,
            local_files_only=only_local(name, trust_remote_code=trust_remote_code),
        )
    except (OSError, ValueError, KeyError) as error:
        raise _explained(name, "configuration", error) from error
    return _unquantized(config, name)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder. Raises ModelError when there is none.

    Without its files transformers would make up an empty one for the model's type.
    """
    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(files)) for files in _TOKENIZER_FILES):
        raise ModelError(
            f"The tokenizer must load from the folder {name!r}, but it holds none; save it there "
            "with save_pretrained."
        )
    try:
        return AutoTokenizer.from_pretrained(
            name,
            trust_remote_code=trust_remote_code,
            local_files_only=only_local(name, trust_remote_code=trust_remote_code),
        )
    except (OSError, ValueError, KeyError) as error:
        raise _explained(name, "tokenizer", error) from error


def load_model(name: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The fp32 model in a folder, in eval mode.

    Raises ModelError when it does not load, or when the folder lacks some of its weights: those
    would be random numbers.
    """
    config = load_config(name, trust_remote_code=trust_remote_code)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        model, found = auto.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            local_files_only=only_local(name, trust_remote_code=trust_remote_code),
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _explained(name, "weights", error) from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"The folder {name!r} must hold every weight of a {type(model).__name__}, but it has "
            f"no {missing[0]!r} ({len(missing)} are missing); save the whole model with "
            "save_pretrained."
        )
    check_finite(model)
    whole: PreTrainedModel = model.eval()
    return whole


def load_pair(name: str, *, trust_remote_code: bool = False) -> LoadedModel:
    """Model and tokenizer of one folder."""
    return LoadedModel(
        load_model(name, trust_remote_code=trust_remote_code),
        load_tokenizer(name, trust_remote_code=trust_remote_code),
        name,
    )


def _check_not_converted(name: str) -> None:
    """Raises ModelError for a folder that CTranslate2 reads."""
    folder = Path(name)
    if any((folder / file).is_file() for file in _CONVERTED):
        raise ModelError(
            f"The folder {name!r} must hold a transformers model, but it is a CTranslate2 folder: "
            "`generate` runs it and `export` packs or unpacks it, nothing else can be made of it; "
            "give the model that it was made of."
        )


def _unquantized(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """`config`, where it says of no quantized weights; else ModelError."""
    found = getattr(config, "quantization_config", None)
    if found:
        method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
        raise ModelError(
            f"The model {name!r} must have weights that are not quantized, since they are trained "
            f"and compared in fp32, but its quantization_config says {str(method)!r}; give the "
            "model that was quantized."
        )
    return config


def check_finite(model: PreTrainedModel) -> None:
    """Raises ModelError, naming the tensor, for weights that are NaN or infinite."""
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"The model's weights must be finite numbers, but {name!r} holds NaN or infinity; "
                "its training diverged or its file is damaged: give another checkpoint."
            )
