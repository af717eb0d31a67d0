"""Loads model and tokenizer folders: safetensors only, no remote code unless the user asks.

A folder of LoRA adapters, alone or beside its base, loads as the adapted model, merged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
)

from seqdistill.core.batch import Kind
from seqdistill.core.errors import ModelError, first_line
from seqdistill.core.hub import only_local
from seqdistill.models.adapters import kind_of
from seqdistill.models.architectures import auto_class
from seqdistill.models.hearing import check_extractor, hears
from seqdistill.models.lora import Adapter, SwitchedAdapters, merge_adapters
from seqdistill.models.placement import ON_CPU, Placement
from seqdistill.models.places import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    base_of,
    check_place,
    check_tokenizer_files,
    check_weight_files,
    model_folders,
    read_object,
)
from seqdistill.records.checksums import check_model_folder
from seqdistill.records.temporary import temporary_folder

_CONVERTED = "model.bin"
SPARSE_WEIGHTS = "model.sparse.safetensors"
"""What `export --format sparse` writes in the place of model.safetensors."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and the name the user gave it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    folders: tuple[Path, ...] = ()
    """The local folders that the model was read from, its adapters' base among them."""
    extractor: WhisperFeatureExtractor | None = None
    """What makes features of audio, for models that hear."""
    adapter: Adapter | None = None
    """What is switched on while the model is asked, where several share it."""

    @property
    def kind(self) -> Kind:
        """`seq2seq` or `causal`."""
        return kind_of(self.model)


def _explained(name: str, what: str, error: Exception) -> ModelError:
    """A library's error: its first sentence, or the list that it leads up to."""
    if "trust_remote_code" in str(error):
        return ModelError(
            f"The {what} of {name!r} must load without Python code of its own, but its config.json "
            "names code (auto_map), which could do anything on this machine; read it, and where "
            "you trust it say so on the command line: --trust-remote-code."
        )
    found = first_line(error).rstrip()
    if isinstance(error, KeyError):
        found = f"a file there lacks {error}."
    elif found.endswith(":"):
        found = " ".join(str(error).split())[:200]
    where = "folder" if Path(name).exists() else "hub name"
    return ModelError(
        f"The {what} must load from the {where} {name!r}, but: {found} "
        "Give a folder written by save_pretrained: config.json, model.safetensors, tokenizer."
    )


def _read(auto: Any, name: str, what: str, *, trust_remote_code: bool, **settings: Any) -> Any:
    """What `auto` finds there, without asking the network about what is local."""
    try:
        return auto.from_pretrained(
            name,
            trust_remote_code=trust_remote_code,
            local_files_only=only_local(name, trust_remote_code=trust_remote_code),
            **settings,
        )
    except Exception as error:  # whatever a folder says that it should not, in many libraries
        raise _explained(name, what, error) from error


def load_config(name: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration in a model folder.

    Raises ModelError when there is none, and for folders of CTranslate2 and of quantized weights.
    """
    check_place(name, "configuration")
    _check_not_converted(name)
    base = base_of(name)
    read_object(Path(base) / CONFIG)
    config: PreTrainedConfig = _read(
        AutoConfig, base, "configuration", trust_remote_code=trust_remote_code
    )
    if config.model_type == "encoder-decoder":
        raise ModelError(
            "A model must be one network whose last states and output layer can be read, but "
            f"{name!r} is an EncoderDecoderModel, two models of other kinds put together, each "
            "with a vocabulary and head of its own; use an architecture that is an "
            "encoder-decoder itself, such as T5, BART, mBART or Marian."
        )
    if quantized := getattr(config, "quantization_config", None):
        method = (
            quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        )
        raise ModelError(
            f"The model {name!r} must have weights that are not quantized, since they are trained "
            f"and compared in fp32, but its quantization_config says {str(method)!r}; give the "
            "model that was quantized."
        )
    return config


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder. Raises ModelError when there is none.

    Without its files transformers would make up an empty one for the model's type, or take the
    type's own special tokens for it.
    """
    check_place(name, "tokenizer")
    tokenizer: PreTrainedTokenizerBase = _read(
        AutoTokenizer,
        check_tokenizer_files(name),
        "tokenizer",
        trust_remote_code=trust_remote_code,
    )
    return tokenizer


def load_model(
    name: str, *, trust_remote_code: bool = False, placement: Placement = ON_CPU
) -> PreTrainedModel:
    """The model in a folder, where and as `placement` says, in eval mode, adapters merged into it.

    Weights are read from disk straight to where they are to lie, in their dtype.

    Raises ModelError when it does not load, or when the folder lacks some of its weights: those
    would be random numbers.
    """
    if not (Path(name) / ADAPTER_CONFIG).is_file():
        return _load_whole(name, placement, trust_remote_code=trust_remote_code)
    base = base_of(name)
    if base != name:
        model = _load_whole(base, placement, trust_remote_code=trust_remote_code)
    else:
        with temporary_folder() as bare:
            # transformers would put the adapters onto what it loads, under other names.
            for file in Path(name).iterdir():
                if file.name not in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                    (bare / file.name).symlink_to(file.resolve())
            model = _load_whole(str(bare), placement, trust_remote_code=trust_remote_code)
    return merge_adapters(model, Path(name)).eval()


def _load_whole(name: str, placement: Placement, *, trust_remote_code: bool) -> PreTrainedModel:
    config = load_config(name, trust_remote_code=trust_remote_code)
    check_weight_files(name)
    auto = auto_class(config)
    model, found = _read(
        auto,
        name,
        "weights",
        trust_remote_code=trust_remote_code,
        config=config,
        dtype=placement.dtype_of(config),
        device_map=None if placement.device.type == "cpu" else {"": placement.device},
        attn_implementation=None if placement.attention == "auto" else placement.attention,
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"The folder {name!r} must hold every weight of a {type(model).__name__}, but it has "
            f"no {missing[0]!r} ({len(missing)} are missing); save the whole model with "
            "save_pretrained."
        )
    check_finite(model)
    whole: PreTrainedModel = model.eval()
    for module in whole.modules():
        # Marian's tables of positions: loading makes them look trainable, and several processes
        # would wait for their gradient.
        if "Sinusoidal" in type(module).__name__:
            module.requires_grad_(requires_grad=False)
    return whole


def load_pair(
    name: str, *, trust_remote_code: bool = False, placement: Placement = ON_CPU
) -> LoadedModel:
    """Model and tokenizer of one folder, whose files are as they were saved where that is known."""
    check_model_folder(name)
    model = load_model(name, trust_remote_code=trust_remote_code, placement=placement)
    return fitting(
        LoadedModel(
            model,
            load_tokenizer(name, trust_remote_code=trust_remote_code),
            name,
            model_folders(name),
            load_extractor(name, model.config),
        )
    )


def with_adapters(base: LoadedModel, names: Sequence[str]) -> list[LoadedModel]:
    """The models of several folders of adapters, over `base`, which is changed in place and lies
    in memory once. A name that is no such folder stands for the base itself.

    Raises ModelError for adapters that do not fit it.
    """
    folders = [Path(name) if (Path(name) / ADAPTER_CONFIG).is_file() else None for name in names]
    shared = SwitchedAdapters(base.model, folders)
    return [
        fitting(
            dataclasses.replace(
                base,
                tokenizer=load_tokenizer(name),
                name=name,
                folders=model_folders(name),
                adapter=Adapter(shared, place),
            )
        )
        for place, name in enumerate(names)
    ]


def load_extractor(name: str, config: PreTrainedConfig) -> WhisperFeatureExtractor | None:
    """What a model that hears makes features of audio with; None for others.

    Raises ModelError where it is missing, or makes features of another shape than the model reads.
    """
    if not hears(config):
        return None
    found: WhisperFeatureExtractor = _read(
        WhisperFeatureExtractor, base_of(name), "feature extractor", trust_remote_code=False
    )
    check_extractor(found, config, name)
    return found


def fitting(pair: LoadedModel) -> LoadedModel:
    """The pair, whose embedding has a row for every token of its tokenizer.

    Raises ModelError for a tokenizer that grew and a model that was never resized. Rows beyond the
    tokenizer's are padding.
    """
    rows = int(pair.model.get_input_embeddings().weight.shape[0])
    beyond = {i: token for token, i in pair.tokenizer.get_vocab().items() if i >= rows}
    if beyond:
        first = min(beyond)
        raise ModelError(
            f"The tokenizer of {pair.name!r} must have no token that its model has no row for, but "
            f"the embedding has {rows} rows and {len(beyond)} tokens lie beyond, first "
            f"{beyond[first]!r} (id {first}): they were added and the model was never "
            "resized; call model.resize_token_embeddings(len(tokenizer)) and save both again."
        )
    return pair


def _check_not_converted(name: str) -> None:
    """Raises ModelError for a folder of another stored form: CTranslate2's, or without zeros."""
    folder = Path(name)
    if (folder / _CONVERTED).is_file():
        raise ModelError(
            f"The folder {name!r} must hold a transformers model, but it is a CTranslate2 folder: "
            "`generate` runs it, nothing else can be made of it; give the model that it was made "
            "of."
        )
    if (folder / SPARSE_WEIGHTS).is_file():
        raise ModelError(
            f"The folder {name!r} must hold a transformers model, but its weights are stored "
            f"without zeros; run `seqdistill export {name} OUTPUT --format dense` and give OUTPUT."
        )


def check_finite(model: PreTrainedModel) -> None:
    """Raises ModelError, naming the tensor, for weights that are NaN or infinite."""
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"The model's weights must be finite numbers, but {name!r} holds NaN or infinity; "
                "its training diverged or its file is damaged: give another checkpoint."
            )
