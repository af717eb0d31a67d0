"""What decides a model's outputs, as a short name: weights, configuration, vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.models.loading import LoadedModel, load_config
from seqdistill.models.places import model_folders
from seqdistill.records.fingerprint import of_folder, of_settings

# Keys of a configuration that say where it was or what wrote it, not what it computes.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_DECISIVE = (".safetensors", "config.json")


def pair_fingerprint(pair: LoadedModel) -> str:
    """A SHA-256 in hex over what a model that was not trained since was loaded from.

    Its files are read, each once a process; of a hub's model its name and revision are enough. A
    model that was made in this process is known by its weights.
    """
    if pair.folders:
        return _files_fingerprint(pair.folders)
    revision = getattr(pair.model.config, "_commit_hash", None)
    return of_settings([pair.name, revision]) if revision else model_fingerprint(pair.model)


def place_fingerprint(name: str, place: str) -> str:
    """`pair_fingerprint` of the model called `name` that lies at `place`, without loading it."""
    if folders := model_folders(place):
        return _files_fingerprint(folders)
    return of_settings([name, getattr(load_config(place), "_commit_hash", None)])


def _files_fingerprint(folders: Sequence[Path]) -> str:
    return of_settings([of_folder(folder, _DECISIVE) for folder in folders])


def model_fingerprint(model: PreTrainedModel) -> str:
    """A SHA-256 in hex over the weights and the configuration, wherever they were loaded from."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _INCIDENTAL}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().data
        )
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A SHA-256 in hex over the vocabulary, the special tokens and how a few texts are cut."""
    probe = "Grüße, the 3.14 quick-brown foxes' \u4f60\u597d <b>.  Ende"
    described = {
        "vocabulary": tokenizer.get_vocab(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "probe": tokenizer(probe).input_ids,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A SHA-256 in hex over which string each id stands for: equal where ids can be compared."""
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()
