"""A model as ONNX graphs with a cache of keys and values, and back in ONNX Runtime.

Writing and running are transformers' own exporters. The folder `onnx` has `decode.onnx`: of a
decoder-only model it reads any number of tokens after those in the cache, which may be empty; of
an encoder-decoder one token, beside `encoder.onnx` and `prefill.onnx`, which reads the decoder's
first token and fills the cache of the source.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast, Seq2SeqLMOutput

from seqdistill.core.errors import ModelError, UserError, first_line
from seqdistill.core.source import Source, padded_ids, token_ids_of
from seqdistill.models.adapters import positions_from_mask
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.loading import LoadedModel
from seqdistill.models.modalities import modality_of
from seqdistill.records.checksums import write_checksums

ONNX = "onnx"
"""The folder of the graphs."""


def _exporters() -> Any:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        from transformers import exporters
    except ImportError as error:
        raise UserError(
            "ONNX graphs need transformers 5.23 or newer and the packages onnx, onnxscript and "
            f"onnxruntime, but {first_line(error)}; install seqdistill[onnx]"
        ) from error
    return exporters


def write_onnx(pair: LoadedModel, folder: Path, prompts: Sequence[Source]) -> None:
    """Writes `folder/onnx` and the tokenizer, in fp32; `prompts`, at least one, are traced.

    Raises ModelError for a model that transformers' exporter cannot write.
    """
    exporters, model = _exporters(), pair.model
    traced = [*prompts, *prompts][:2]  # of a single row the graph would be for single rows
    exporter, config = exporters.OnnxExporter(), exporters.OnnxConfig(dynamic=True)
    try:
        with evaluation_mode(model), _quiet():
            inputs = _inputs(pair, traced)
            found = exporter.export_for_generation(model, inputs, config, multi_token_decode=True)
            if pair.kind == "causal":
                del found.components["prefill"]  # which is the other, from an empty cache
            else:
                encoder = exporter.export(model.get_encoder(), inputs, config)
                found.components["encoder"] = encoder.components["model"]
    except Exception as error:
        raise ModelError(
            f"transformers' exporter must write the graphs of {pair.name}, but it cannot: "
            f"{first_line(error)}; export to another format"
        ) from error
    found.save_pretrained(folder / ONNX)
    write_checksums(folder / ONNX)
    pair.tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the tracing says of itself: what it wrote is compared with the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _inputs(pair: LoadedModel, sources: Sequence[Source]) -> dict[str, torch.Tensor]:
    if pair.kind == "causal":
        ids, mask = padded_ids(token_ids_of(sources), side="left")
        return {"input_ids": ids, "attention_mask": mask.long()}
    modality = modality_of(pair.model)
    return dict(modality.arguments(modality.pad(sources)))


def read_onnx(folder: Path, pair: LoadedModel) -> LoadedModel:
    """`pair`, but that ONNX Runtime computes what its model says: nothing is read of the weights
    in memory."""
    graphs = _exporters().ExportedModel.from_pretrained(folder / ONNX, device="cpu")
    model = copy.copy(pair.model)
    runs = graphs.runners
    if pair.kind == "causal":
        _replace_forward(model, functools.partial(_causal, runs["decode"], _cache_shapes(model)))
    else:
        encoder = copy.copy(model.get_encoder())
        _replace_forward(
            encoder, lambda **given: BaseModelOutput(runs["encoder"](**given).last_hidden_state)
        )
        model.get_encoder = lambda *_, **__: encoder
        _replace_forward(model, functools.partial(_seq2seq, encoder, runs))
    return LoadedModel(model, pair.tokenizer, pair.name, extractor=pair.extractor)


def _replace_forward(module: Any, run: Callable[..., Any]) -> None:
    """`generate` asks for the parameters of `forward`, so that they stay those of the module."""
    signature = inspect.signature(module.forward)

    @functools.wraps(module.forward)
    def forward(*positional: Any, **named: Any) -> Any:
        given = signature.bind_partial(*positional, **named).arguments
        return run(**{**given, **given.pop("kwargs", {})})

    module.forward = forward


def _causal(runner: Any, shapes: Sequence[tuple[int, int]], **given: Any) -> CausalLMOutputWithPast:
    ids, cache = given["input_ids"], given.get("past_key_values")
    if cache is None or not cache.get_seq_length():
        cache = _empty_cache(shapes, len(ids))
    mask = given.get("attention_mask")
    if mask is None:
        mask = ids.new_ones(len(ids), cache.get_seq_length() + ids.shape[1])
    positions = given.get("position_ids")
    if positions is None:
        positions = positions_from_mask(mask.bool())[:, -ids.shape[1] :]
    found: CausalLMOutputWithPast = runner(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache
    )
    return found


def _cache_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Heads and dimensions of keys and values, layer by layer."""
    with evaluation_mode(model), torch.inference_mode():
        layers = model(input_ids=torch.zeros(1, 1, dtype=torch.long)).past_key_values.layers
    return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in layers]


def _empty_cache(shapes: Sequence[tuple[int, int]], rows: int) -> DynamicCache:
    cache = DynamicCache()
    for layer, (heads, size) in enumerate(shapes):
        nothing = torch.zeros(rows, heads, 0, size)
        cache.update(nothing, nothing, layer)
    return cache


def _seq2seq(encoder: Callable[..., Any], runs: Mapping[str, Any], **given: Any) -> Seq2SeqLMOutput:
    read = given.get("encoder_outputs")
    if read is None:
        names = ("input_ids", "input_features", "attention_mask")
        read = encoder(**{key: given[key] for key in names if key in given})
    cache, logits = given.get("past_key_values"), []
    if cache is None:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for token in given["decoder_input_ids"].split(1, dim=1):
        found = runs["decode" if cache.get_seq_length() else "prefill"](
            decoder_input_ids=token,
            encoder_outputs=read,
            attention_mask=given.get("attention_mask"),
            past_key_values=cache,
        )
        cache = found.past_key_values
        logits.append(found.logits)
    return Seq2SeqLMOutput(logits=torch.cat(logits, 1), past_key_values=cache)
