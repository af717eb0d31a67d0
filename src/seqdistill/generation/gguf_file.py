"""Model and tokenizer as one GGUF file, which llama.cpp runs, and back by another reader.

What is written is what is known exactly: Llama, Mistral, Qwen2 and Qwen3 with plain rotary
positions and byte-level BPE vocabularies; all else is refused. Names and keys are those of the
package gguf, the order of a Llama's query and key rows that of llama.cpp's own converter.
`read_gguf` goes through transformers' loader, which shares no code with the writing. Does not run
llama.cpp.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError, UserError
from seqdistill.data.marks import turn_end_id
from seqdistill.generation.conversion import unique_token_strings
from seqdistill.models.loading import LoadedModel

GgufType = Literal["f32", "f16", "q8_0"]
GGUF = "model.gguf"
GGUF_TYPES: tuple[GgufType, ...] = get_args(GgufType)
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
_BLOCK = 32
"""Numbers that share a scale in Q8_0: rows that are no multiple of it stay F16."""
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORD}|\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORD}|\p{{N}}{_REST}": "qwen2",
}
"""How texts are cut before merging -> llama.cpp's name for it: Llama 3's and Qwen2's patterns."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Kinds of tokens in a GGUF file."""


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            "GGUF files need the package gguf, which is not installed; install seqdistill[gguf]"
        ) from error
    return gguf


def write_gguf(pair: LoadedModel, path: Path, *, stored: GgufType) -> None:
    """Writes the file `path`: matrices as `stored`, vectors in F32.

    Raises ModelError, before anything is written, for a model or a tokenizer that is not known to
    be the same there.
    """
    gguf, config = _library(), pair.model.config
    _check_model(pair)
    vocabulary = _vocabulary(pair)
    name = _ARCHITECTURES[config.model_type]
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    tensors = dict(_tensors(pair, gguf.get_tensor_name_map(architecture, config.num_hidden_layers)))
    writer = gguf.GGUFWriter(path, name)
    # Not a name alone: what is called "mistral" is another architecture to transformers' reader.
    writer.add_name(f"{Path(pair.name).name}, by seqdistill")
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[stored]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, pair)
    for add, value in vocabulary.items():
        getattr(writer, add)(value)
    for tensor_name, array in tensors.items():
        kind = "F32" if array.ndim == 1 else stored.upper()
        if kind == "Q8_0" and array.shape[-1] % _BLOCK:
            kind = "F16"
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(
            tensor_name, gguf.quants.quantize(array, quantization), raw_dtype=quantization
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path, name: str) -> LoadedModel:
    """The model in a GGUF file, in fp32, as transformers' own loader rebuilds it."""
    _library()
    folder, settings = str(path.parent), {"gguf_file": path.name}
    with contextlib.redirect_stderr(io.StringIO()):  # the reader draws a bar
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)
        tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
    return LoadedModel(model.eval(), tokenizer, name)


def check_tokenizer(original: PreTrainedTokenizerBase, rebuilt: PreTrainedTokenizerBase) -> None:
    """Raises ModelError where the two do not cut a text of many scripts and signs alike.

    A file names how texts are cut before merging. Of SmolLM's way transformers' loader knows no
    name, so that the rebuilt one is told it.
    """
    if _cut_of(original) == "smollm":
        before = original.backend_tokenizer.pre_tokenizer
        rebuilt.backend_tokenizer.pre_tokenizer = before
    for text in _PROBES:
        both = [one(text, add_special_tokens=False).input_ids for one in (original, rebuilt)]
        if both[0] != both[1]:
            raise ModelError(
                "A GGUF file must cut texts as the model's tokenizer does, but "
                f"{text!r} becomes {both[1]} and not {both[0]}; export to another format"
            )


_PROBES = (
    "Hello, world!  It's 2026: 12345 foxes' we'll  x\n\n  y\tz",
    "Grüße aus Köln – naïve café; 你好，世界。 Привет 😀 ﬁn",
    "for (i = 0; i < 10; ++i) { a[i] *= 3.14e-2; }  # ok?",
)


def _check_model(pair: LoadedModel) -> None:
    config = pair.model.config
    if config.model_type not in _ARCHITECTURES:
        raise ModelError(
            f"GGUF is written for {', '.join(_ARCHITECTURES)}, got a {config.model_type}; use "
            "--format dense, or llama.cpp's own converter"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    windows = {"sliding_attention", "chunked_attention"} & {
        *(getattr(config, "layer_types", ()) or ())
    }
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    unknown = {
        f"rope_type {rope.get('rope_type')!r}": rope.get("rope_type", "default") != "default",
        f"partial_rotary_factor {rope.get('partial_rotary_factor')}": (
            rope.get("partial_rotary_factor", 1.0) != 1.0
        ),
        f"hidden_act {config.hidden_act!r}": config.hidden_act != "silu",
        "attention windows": bool(windows) or window is not None,
    }
    for what, is_there in unknown.items():
        if is_there:
            raise ModelError(
                f"GGUF is written for models that it is known to hold exactly, but this one has "
                f"{what}; use --format int8, or llama.cpp's own converter"
            )


def _add_shape(writer: Any, pair: LoadedModel) -> None:
    config = pair.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(pair.model.get_output_embeddings().weight.shape[0])


def _tensors(pair: LoadedModel, names: Any) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """The model's tensors under their names there, tied ones once."""
    model, config = pair.model, pair.model.config
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if is_tied and name.startswith("lm_head."):
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(
                f"GGUF must have a name for every weight of the model, but has none for {name!r}; "
                "use --format int8"
            )
        array = tensor.detach().to("cpu", torch.float32).numpy()
        projection = name.split(".")[-2]
        if projection in heads and _ARCHITECTURES[config.model_type] == "llama":
            array = _rotated_in_pairs(array, heads[projection])
        yield found, np.ascontiguousarray(array)


def _rotated_in_pairs(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """The rows of a projection in the order of neighbours that rotate together, as Llama's own
    checkpoints have them; transformers rotates the first half of a head with the second."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _vocabulary(pair: LoadedModel) -> dict[str, object]:
    """What a file says of the tokenizer: the writer's methods and their arguments."""
    tokenizer = pair.tokenizer
    size = pair.model.get_output_embeddings().weight.shape[0]
    special = {i: token.special for i, token in tokenizer.added_tokens_decoder.items()}
    known = set(tokenizer.get_vocab().values())
    kinds = [
        (_CONTROL if special[i] else _USER_DEFINED)
        if i in special
        else (_NORMAL if i in known else _UNUSED)
        for i in range(size)
    ]
    empty = tokenizer("").input_ids
    cut = _cut_of(tokenizer)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    found: dict[str, object] = {
        "add_tokenizer_model": "gpt2",
        "add_tokenizer_pre": cut,
        "add_token_list": list(unique_token_strings(tokenizer, size)),
        "add_token_types": kinds,
        "add_token_merges": [" ".join(merge) for merge in merges],
        "add_add_bos_token": empty[:1] == [tokenizer.bos_token_id],
        "add_add_eos_token": False,  # behind a prompt that is to be gone on with
    }
    ids = {
        "add_bos_token_id": tokenizer.bos_token_id,
        "add_eos_token_id": tokenizer.eos_token_id,
        "add_eot_token_id": turn_end_id(tokenizer),
        "add_pad_token_id": tokenizer.pad_token_id,
        "add_unk_token_id": tokenizer.unk_token_id,
    }
    found |= {add: token_id for add, token_id in ids.items() if token_id is not None}
    if isinstance(tokenizer.chat_template, str):
        found["add_chat_template"] = tokenizer.chat_template
    return found


def _cut_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name for how the tokenizer cuts texts before merging.

    Raises ModelError for a tokenizer that is no byte-level BPE, or cuts in another way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    model = described.get("model") or {}
    normalizer = (described.get("normalizer") or {}).get("type", "NFC")
    name = _name_of_cut(described.get("pre_tokenizer") or {})
    if (
        model.get("type") != "BPE"
        or not model["merges"]  # no reader takes a vocabulary alone
        or model.get("byte_fallback")
        or normalizer != "NFC"
        or name is None
        or bool(model.get("ignore_merges")) != (name == "llama-bpe")
    ):
        raise ModelError(
            "GGUF is written for byte-level BPE tokenizers that cut texts as GPT-2, Llama 3, Qwen2 "
            f"or SmolLM do, got another {type(tokenizer).__name__}; use --format int8, or "
            "llama.cpp's own converter"
        )
    return name


def _name_of_cut(cut: Mapping[str, Any]) -> str | None:
    steps = cut["pretokenizers"] if cut.get("type") == "Sequence" else [cut]
    *before, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    by_words = bool(last.get("use_regex", True))
    if not before:
        return "gpt-2" if by_words else None
    if len(before) > 1:
        return None
    (first,) = before
    if first["type"] == "Digits" and first["individual_digits"] and by_words:
        return "smollm"
    if first["type"] == "Split" and first["behavior"] == "Isolated" and not by_words:
        return _SPLITS.get(first["pattern"].get("Regex", ""))
    return None
