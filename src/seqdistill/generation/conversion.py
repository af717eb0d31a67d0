"""Live transformers models to CTranslate2 model files, in memory.

Works on a copy: CTranslate2's loaders delete layers from the model they read, and its int8
conversion scales weights in place. Uses CTranslate2's own loaders for the weights and repairs what
they take from configurations of older transformers. Does not judge the result: `verification`
compares it with the live model.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import json
from collections.abc import Iterator
from typing import Any

import torch
from ctranslate2.converters import transformers as loaders
from ctranslate2.specs.model_spec import LayerSpec, ModelSpec, index_spec
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.errors import EngineError
from seqdistill.generation.model_facts import ModelFacts, has_mute_last_row
from seqdistill.models.modalities import modality_of
from seqdistill.records.temporary import temporary_folder

WEIGHTS = "model.bin"

# What BartLoader reads and transformers 5 configurations no longer say, because each architecture
# has it fixed: (normalize_before, normalize_embedding).
_NORMALIZATION = {
    "BartConfig": (False, True),
    "MarianConfig": (False, False),
    "MBartConfig": (True, True),
    "PegasusConfig": (True, False),
}


@dataclasses.dataclass(frozen=True)
class ConvertedModel:
    """A CTranslate2 model: its files by name, and the string that stands for each id."""

    files: dict[str, bytes]
    token_strings: tuple[str, ...]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {string: token_id for token_id, string in enumerate(self.token_strings)}

    @property
    def content_id(self) -> int:
        """A token that is neither start nor end to CTranslate2."""
        config = json.loads(self.files["config.json"])
        marks = {config["bos_token"], config["eos_token"]}
        return next(i for i, string in enumerate(self.token_strings) if string not in marks)

    def strings(self, token_ids: tuple[int, ...] | list[int]) -> list[str]:
        """The strings that CTranslate2 reads for these ids."""
        return [self.token_strings[token_id] for token_id in token_ids]

    def known(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the ids that the model has: symbols that CTranslate2 left out are no outputs."""
        return tuple(token_id for token_id in token_ids if token_id < len(self.token_strings))

    def ids(self, strings: list[str]) -> tuple[int, ...]:
        """The ids of strings that CTranslate2 wrote."""
        return tuple(self._ids[string] for string in strings)


@contextlib.contextmanager
def as_engine_error(name: str) -> Iterator[None]:
    """What CTranslate2 raises inside is an EngineError: it cannot run the model `name`.

    Its loaders read attributes that configurations of newer transformers lack, and its C++ speaks
    in RuntimeError and ValueError.
    """
    try:
        yield
    except (EngineError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or "nothing"
        raise EngineError(
            f"CTranslate2 must be able to run the model, but of {name} it says: {said} "
            f"({type(error).__name__})"
        ) from error


def convert(
    disposable: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: ModelFacts,
    *,
    compute_type: str,
) -> tuple[ConvertedModel, ConvertedModel]:
    """The CTranslate2 forms of `disposable`, a copy that this function may ruin: exact and wanted.

    The first is in float32, where a wrong conversion cannot hide in rounding; the second is in
    `compute_type`, and is the first when that is float32.

    Raises EngineError when CTranslate2 has no loader for the architecture or the loader fails.
    """
    with torch.no_grad(), as_engine_error(type(disposable.config).__name__):
        spec = _spec_of(disposable, facts, tokenizer)
        token_strings = unique_token_strings(tokenizer, _vocabulary_size(spec))
        _set_tokens(spec, token_strings, tokenizer, facts)
        spec.validate()
        _store(spec, "float32")
        exact = ConvertedModel(_serialized(spec), token_strings)
        if compute_type == "float32":
            return exact, exact
        spec._quantize(compute_type)
        return exact, dataclasses.replace(exact, files=_serialized(spec))


def with_weights_of(
    disposable: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: ModelFacts,
    *,
    compute_type: str,
    converted: ConvertedModel,
) -> ConvertedModel:
    """`converted`, made earlier of a model of the same shape, with the weights of `disposable`.

    Vocabulary and configuration are the earlier ones, so this is several times faster than
    `convert`. Raises EngineError as `convert` does.
    """
    name = type(disposable.config).__name__
    with torch.no_grad(), as_engine_error(name), temporary_folder() as folder:
        spec = _spec_of(disposable, facts, tokenizer)
        LayerSpec.validate(spec)  # the vocabulary was validated then
        _store(spec, "float32")
        if compute_type != "float32":
            spec._quantize(compute_type)
        path = folder / WEIGHTS
        spec._serialize(str(path))
        files = {**converted.files, WEIGHTS: path.read_bytes()}
    return dataclasses.replace(converted, files=files)


def _spec_of(
    disposable: PreTrainedModel, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase
) -> ModelSpec:
    loader = loader_for(disposable)
    _repair_config(disposable, facts)
    with _cheap_collections():
        spec: ModelSpec = loader.get_model_spec(disposable)
        loader.set_config(spec.config, disposable, tokenizer)
    return spec


def _store(spec: ModelSpec, dtype: str) -> None:
    """What `spec.optimize` does, which may be called once: tied weights are stored once.

    CTranslate2 compares the values of all weights with all others instead, which takes longer
    than the rest of a conversion and also ties what is equal by chance.
    """
    names: dict[tuple[object, ...], str] = {}
    for name, variable in spec.variables(ordered=True):
        if variable.is_scalar():
            continue
        array = variable.numpy()
        place = array.__array_interface__
        first = names.setdefault((place["data"][0], place["typestr"], *array.shape), name)
        if first != name and array.size:
            scope, _, attribute = name.rpartition("/")
            setattr(index_spec(spec, scope), attribute, first)
    spec._quantize(dtype)


@contextlib.contextmanager
def _cheap_collections() -> Iterator[None]:
    """Garbage collections inside the block look at new objects only.

    Some loaders collect after every layer, which would walk every object of the process each time:
    seconds for a small model, at each evaluation during training.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def loader_for(model: PreTrainedModel) -> loaders.ModelLoader:
    """CTranslate2's loader for the architecture of `model`.

    Its Marian loader starts the decoder from a zero vector and drops the last symbol, which is
    right only where that row is mute; any other Marian model goes through the BART loader, which
    starts from the start token's embedding and drops nothing. Raises EngineError where there is
    none, and for models that read anything but token ids.
    """
    if not modality_of(model).reads_text:
        raise EngineError(
            "CTranslate2 must be given models that read token ids, but "
            f"{type(model).__name__} reads {model.main_input_name}"
        )
    name = type(model.config).__name__
    if name == "MarianConfig" and not has_mute_last_row(model):
        name = "BartConfig"
    loader = loaders._MODEL_LOADERS.get(name)
    if loader is None:
        raise EngineError(
            "engine: ctranslate2 needs an architecture that CTranslate2 converts (such as M2M100, "
            f"MBart, T5, Llama or Qwen2), got {name}"
        )
    return loader


def _repair_config(disposable: PreTrainedModel, facts: ModelFacts) -> None:
    config = disposable.config
    if facts.kind == "seq2seq":
        config.decoder_start_token_id = facts.start_id
    name = type(config).__name__
    if name in _NORMALIZATION:
        config.normalize_before, config.normalize_embedding = _NORMALIZATION[name]
    scaled = getattr(config, "scale_decoder_outputs", None)
    if scaled is not None:
        # T5's loader takes the scale of the outputs for granted where embeddings are tied, which
        # transformers 5 says of every T5.
        config.tie_word_embeddings = scaled
    if name == "MT5Config":  # ties them where it says so, and never scales
        config.tie_word_embeddings = False
    rope = getattr(config, "rope_parameters", None)
    if rope and "rope_theta" in rope:
        # Where transformers 4 kept what the loaders of Gemma and GPT-NeoX look for.
        config.rope_theta = rope["rope_theta"]
        config.rotary_pct = rope.get("partial_rotary_factor", 1.0)
    if name == "GPTNeoXConfig":
        disposable.embed_out = disposable.get_output_embeddings()


def _vocabulary_size(spec: ModelSpec) -> int:
    if isinstance(spec, loaders.transformer_spec.TransformerSpec):
        source, target = spec.get_source_vocabulary_size(), spec.get_target_vocabulary_size()
        (source_size,) = source if isinstance(source, list) else (source,)
        if source_size != target:
            raise EngineError(
                "engine: ctranslate2 needs one vocabulary for source and target, got "
                f"{source_size} and {target} symbols"
            )
        return int(target)
    return int(spec.get_vocabulary_size())


def unique_token_strings(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[str, ...]:
    """One string per id below `size`, all different: the tokenizer's own where it has one.

    Rows of the embedding that no token uses (padding of the vocabulary) get `<unused_N>`.
    """
    strings: list[str | None] = [None] * size
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for token, token_id in vocabulary.items():
        if 0 <= token_id < size and strings[token_id] is None:
            strings[token_id] = token
    named = [
        _new_string(token_id, vocabulary) if string is None else string
        for token_id, string in enumerate(strings)
    ]
    assert len(set(named)) == size
    return tuple(named)


def _new_string(token_id: int, taken: dict[str, int]) -> str:
    string = f"<unused_{token_id}>"
    while string in taken:
        string = f"<{string}>"
    return string


def _set_tokens(
    spec: ModelSpec,
    token_strings: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    facts: ModelFacts,
) -> None:
    """Registers the vocabulary, and special tokens as ids say, not as loaders guess."""

    def string_or(token_id: int | None, fallback: str) -> str:
        known = token_id is not None and token_id < len(token_strings)
        return token_strings[token_id] if known and token_id is not None else fallback

    end = token_strings[facts.end_id]
    spec.config.eos_token = end
    spec.config.bos_token = string_or(tokenizer.bos_token_id, end)
    # CTranslate2 appends an unknown unk token to its vocabulary; any token of ours prevents that,
    # and none is ever looked up by a string that is not in the list.
    spec.config.unk_token = string_or(tokenizer.unk_token_id, end)
    if facts.kind == "causal":
        spec.register_vocabulary(list(token_strings))
        return
    # A start token whose row was dropped stands for the zero vector: any string will do.
    spec.config.decoder_start_token = string_or(facts.start_id, end)
    spec.config.add_source_bos = False
    spec.config.add_source_eos = False
    spec.register_source_vocabulary(list(token_strings))
    spec.register_target_vocabulary(list(token_strings))


def _serialized(spec: ModelSpec) -> dict[str, bytes]:
    """The files of the model. CTranslate2 writes to folders only; this one is gone on return."""
    with temporary_folder() as folder:
        spec.save(str(folder))
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def detached_cpu_copy(model: PreTrainedModel) -> PreTrainedModel:
    """`model` on the CPU, in fp32 and evaluation mode, without gradients; `model` is untouched.

    Modules, weights, buffers and the top configuration are new, tied weights tied again. Other
    attributes of the modules are shared. `copy.deepcopy` walks every attribute in Python: most of
    the price of converting a small student anew before each update.
    """
    copied: PreTrainedModel = _copied(model, {})
    copied.config = copy.deepcopy(model.config)
    return copied.eval()


def _copied(module: nn.Module, tensors: dict[int, Tensor]) -> Any:
    new = copy.copy(module)
    new._parameters = {
        name: None if weight is None else nn.Parameter(_twin(weight, tensors), requires_grad=False)
        for name, weight in module._parameters.items()
    }
    new._buffers = {
        name: None if buffer is None else _twin(buffer, tensors)
        for name, buffer in module._buffers.items()
    }
    new._modules = {
        name: None if child is None else _copied(child, tensors)
        for name, child in module._modules.items()
    }
    return new


def _twin(tensor: Tensor, tensors: dict[int, Tensor]) -> Tensor:
    """The same copy for the same tensor: what is tied stays tied."""
    if id(tensor) not in tensors:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        tensors[id(tensor)] = tensor.detach().to("cpu", dtype, copy=True)
    return tensors[id(tensor)]
