"""Sparse model folders: the identical model comes back, the bytes are fewer, damage is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import CAUSAL, SEQ2SEQ, character_tokenizer, tiny_model

from seqdistill.compression import sparse_files
from seqdistill.compression.bit_patterns import bit_patterns
from seqdistill.compression.pruning import prune
from seqdistill.compression.sparse_files import (
    SPARSE_WEIGHTS,
    load_sparse_pair,
    read_sparse_file,
    save_sparse_pair,
    write_sparse_file,
)
from seqdistill.core.errors import ModelError
from seqdistill.models.identity import model_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.saving import save_pair
from seqdistill.records.checksums import CHECKSUMS

Store = Literal["fp32", "fp16"]
_IN_FP32: list[tuple[str, Store]] = [(name, "fp32") for name in SEQ2SEQ + CAUSAL]
_IN_FP16: list[tuple[str, Store]] = [(name, "fp16") for name in ("mbart", "marian", "llama-tied")]


def pruned_pair(name: str = "llama-tied", *, share: float = 0.8) -> LoadedModel:
    model = tiny_model(name)
    prune(model, pruned_share=share, scheme="class_blind")
    return LoadedModel(model, character_tokenizer(), "tiny")


@pytest.mark.parametrize(("name", "save_dtype"), _IN_FP32 + _IN_FP16)
def test_what_is_stored_comes_back_identical(name: str, save_dtype: Store, tmp_path: Path) -> None:
    pair = pruned_pair(name)
    save_sparse_pair(pair, tmp_path / "sparse", save_dtype=save_dtype)
    loaded = load_sparse_pair(str(tmp_path / "sparse"))
    was, found = pair.model.state_dict(), loaded.model.state_dict()
    assert found.keys() == was.keys()
    for key, tensor in was.items():
        is_stored = not (name.startswith("marian") and "embed_positions" in key)  # sinusoids
        expected = tensor.half().float() if is_stored and save_dtype == "fp16" else tensor
        assert torch.equal(bit_patterns(found[key]), bit_patterns(expected)), key
    embedding, head = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    was_tied = pair.model.get_output_embeddings().weight is pair.model.get_input_embeddings().weight
    assert (head.weight is embedding.weight) == was_tied
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("name", "save_dtype"), [("mbart", "fp16"), ("t5-untied", "fp32"), ("llama-tied", "fp16")]
)
def test_loading_gives_what_the_dense_folder_gives(
    name: str, save_dtype: Store, tmp_path: Path
) -> None:
    pair = pruned_pair(name)
    assert pair.model.generation_config is not None
    pair.model.generation_config.max_new_tokens = 17
    save_sparse_pair(pair, tmp_path / "sparse", save_dtype=save_dtype)
    save_pair(pair, tmp_path / "dense", save_dtype=save_dtype)
    sparse, dense = load_sparse_pair(str(tmp_path / "sparse")), load_pair(str(tmp_path / "dense"))
    assert model_fingerprint(sparse.model) == model_fingerprint(dense.model)
    assert tokenizer_fingerprint(sparse.tokenizer) == tokenizer_fingerprint(dense.tokenizer)
    assert type(sparse.model) is type(dense.model)
    assert sparse.kind == dense.kind
    settings = [pair.model.generation_config for pair in (sparse, dense)]
    assert settings[0] is not None and settings[1] is not None
    assert settings[0].max_new_tokens == 17
    assert settings[0].to_dict() == settings[1].to_dict()


def test_a_sparse_folder_is_an_ordinary_one_but_for_the_weights(tmp_path: Path) -> None:
    pair = pruned_pair()
    save_sparse_pair(pair, tmp_path / "sparse")
    save_pair(pair, tmp_path / "dense")
    of_sparse, of_dense = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("sparse", "dense")
    )
    assert of_sparse.keys() == of_dense.keys() - {"model.safetensors"} | {SPARSE_WEIGHTS}
    for name in of_sparse.keys() & of_dense.keys() - {CHECKSUMS}:
        assert of_sparse[name] == of_dense[name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "sparse"]


@pytest.mark.parametrize(
    ("share", "most_bits", "of_fp32", "of_fp16"),
    [(0.5, 1.0, 0.54, 0.58), (0.8, 0.85, 0.24, 0.27), (0.9, 0.6, 0.14, 0.16)],
)
def test_bytes_are_those_of_the_values_and_at_most_a_bit_a_weight(
    share: float, most_bits: float, of_fp32: float, of_fp16: float, tmp_path: Path
) -> None:
    model = tiny_model("llama-tied", vocab_size=20_000)
    mask = prune(model, pruned_share=share, scheme="class_blind")
    pair = LoadedModel(model, character_tokenizer(), "tiny")
    stores: list[tuple[Store, int, float]] = [("fp32", 4, of_fp32), ("fp16", 2, of_fp16)]
    for save_dtype, width, most in stores:
        save_sparse_pair(pair, tmp_path / "sparse", save_dtype=save_dtype)
        save_pair(pair, tmp_path / "dense", save_dtype=save_dtype)
        found = (tmp_path / "sparse" / SPARSE_WEIGHTS).stat().st_size
        dense = (tmp_path / "dense" / "model.safetensors").stat().st_size
        values = width * mask.num_kept
        the_rest = dense - width * mask.num_weights + 256 * len(mask.densities())  # and headers
        assert values < found < values + most_bits * mask.num_weights / 8 + the_rest
        assert found < most * dense


def test_a_dense_model_costs_nothing_more_than_a_header(tmp_path: Path) -> None:
    dense = {"a": torch.randn(50, 50), "b": torch.randn(7), "count": torch.tensor(3)}
    write_sparse_file(tmp_path / "w", dense)
    assert load_file(tmp_path / "w").keys() == dense.keys()  # any safetensors reader
    found = read_sparse_file(tmp_path / "w")
    assert all(torch.equal(found[name], tensor) for name, tensor in dense.items())


def test_storing_replaces_what_was_there_and_an_interrupted_storing_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "student"
    save_pair(pruned_pair("qwen2"), folder)
    (tmp_path / "student.new").mkdir()  # of a process that was killed while storing
    save_sparse_pair(pruned_pair("llama-tied"), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    assert load_sparse_pair(str(folder)).model.config.model_type == "llama"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sparse_files, "write_sparse_file", interrupted)
        save_sparse_pair(pruned_pair("qwen2"), folder)
    assert load_sparse_pair(str(folder)).model.config.model_type == "llama"
    save_sparse_pair(pruned_pair("qwen2"), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    assert load_sparse_pair(str(folder)).model.config.model_type == "qwen2"


def test_weights_beyond_fp16_are_refused_and_the_old_folder_stays(tmp_path: Path) -> None:
    pair = pruned_pair()
    save_sparse_pair(pair, tmp_path / "student", save_dtype="fp16")
    before = model_fingerprint(load_sparse_pair(str(tmp_path / "student")).model)
    with torch.no_grad():
        pair.model.get_input_embeddings().weight[5, 0] = 1e6
    with pytest.raises(ModelError, match="below 65,504"):
        save_sparse_pair(pair, tmp_path / "student", save_dtype="fp16")
    assert model_fingerprint(load_sparse_pair(str(tmp_path / "student")).model) == before


def test_every_flipped_byte_and_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 20, generator=generator)
    write_sparse_file(
        path, {"w": weight * (weight.abs() > 1.5), "b": torch.randn(5, generator=generator)}
    )
    whole = path.read_bytes()
    start_of_header = 8
    for place in range(start_of_header, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ModelError, match="must be a file of sparse weights"):
            read_sparse_file(path)
    for length in (0, 5, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="must be a file of sparse weights"):
            read_sparse_file(path)
    path.write_bytes(whole)
    assert read_sparse_file(path).keys() == {"w", "b"}


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_sparse_file(tmp_path / "nowhere")
    save_file({"w": torch.zeros(3)}, tmp_path / "dense", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="its format is 'pt'"):
        read_sparse_file(tmp_path / "dense")
    torch.save({"w": torch.zeros(3)}, tmp_path / "pickle")
    with pytest.raises(ModelError, match="must be a file of sparse weights"):
        read_sparse_file(tmp_path / "pickle")


def test_weights_of_another_configuration_are_refused_by_name(tmp_path: Path) -> None:
    save_sparse_pair(pruned_pair(), tmp_path)
    (tmp_path / CHECKSUMS).unlink()
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key, value, found in [
        ("intermediate_size", 48, r"of another shape \['model\.layers\.0\.mlp\.down_proj\."),
        ("num_hidden_layers", 3, r"missing are \['model\.layers\.2\."),
        ("num_hidden_layers", 1, r"unknown \['model\.layers\.1\."),
    ]:
        path.write_text(json.dumps({**config, key: value}))
        with pytest.raises(ModelError, match=found):
            load_sparse_pair(str(tmp_path))
    path.write_text(json.dumps(config))
    load_sparse_pair(str(tmp_path))


@pytest.mark.parametrize(
    ("gone", "found"),
    [
        (SPARSE_WEIGHTS, "No such file"),
        ("config.json", "The configuration must load"),
        ("generation_config.json", "must hold generation_config.json"),
        ("tokenizer.json", "The tokenizer must load"),
    ],
)
def test_a_folder_without_one_of_its_files_is_refused(
    gone: str, found: str, tmp_path: Path
) -> None:
    save_sparse_pair(pruned_pair(), tmp_path)
    (tmp_path / CHECKSUMS).unlink()
    (tmp_path / gone).unlink()
    if gone == "tokenizer.json":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=found):
        load_sparse_pair(str(tmp_path))


def test_a_dense_loader_refuses_a_sparse_folder(tmp_path: Path) -> None:
    save_sparse_pair(pruned_pair(), tmp_path)
    with pytest.raises(ModelError, match="The weights must load"):
        load_pair(str(tmp_path))
