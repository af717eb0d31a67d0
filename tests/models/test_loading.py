"""Folders of models: what is saved comes back, and what is broken is refused."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tests.tiny import character_tokenizer, save_unlisted, tiny_model
from transformers import BertConfig, EncoderDecoderConfig

from seqdistill.assembly.models import build_student
from seqdistill.core import hub
from seqdistill.core.errors import ModelError
from seqdistill.models.identity import model_fingerprint, pair_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import (
    LoadedModel,
    load_config,
    load_model,
    load_pair,
    load_tokenizer,
)
from seqdistill.models.proof import difference, probe_logits
from seqdistill.models.saving import save_pair
from seqdistill.recipe.schema import Recipe


@pytest.fixture
def pair() -> LoadedModel:
    return LoadedModel(tiny_model("mbart"), character_tokenizer(), "tiny")


@pytest.mark.parametrize("name", ["marian", "mbart", "llama", "gpt2", "t5"])
def test_a_saved_pair_comes_back_the_same(name: str, tmp_path: Path) -> None:
    saved = LoadedModel(tiny_model(name), character_tokenizer(), "tiny")
    save_pair(saved, tmp_path / "student")
    loaded = load_pair(str(tmp_path / "student"))
    assert loaded.kind == saved.kind
    assert not loaded.model.training
    assert model_fingerprint(loaded.model) == model_fingerprint(saved.model)
    assert tokenizer_fingerprint(loaded.tokenizer) == tokenizer_fingerprint(saved.tokenizer)
    # Marian's positions are a table: several processes would wait for its gradient for ever.
    trained, again = (
        {key for key, weight in pair.model.named_parameters() if weight.requires_grad}
        for pair in (saved, loaded)
    )
    assert trained == again


def test_fp16_halves_the_file_loads_as_fp32_and_refuses_what_it_cannot_hold(
    pair: LoadedModel, tmp_path: Path
) -> None:
    folder, files = tmp_path / "student", []
    for save_dtype in ("fp32", "fp16"):
        save_pair(pair, folder, save_dtype=save_dtype)
        files.append((folder / "model.safetensors").stat().st_size)
    assert files[1] < 0.6 * files[0]
    loaded = load_pair(str(folder)).model
    for name, tensor in pair.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    with torch.no_grad():
        pair.model.get_input_embeddings().weight[5, 0] = 1e6
    with pytest.raises(ModelError, match="below 65,504"):
        save_pair(pair, folder, save_dtype="fp16")
    assert model_fingerprint(load_pair(str(folder)).model) == model_fingerprint(loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """The addresses that were asked for, on a network on which nothing answers."""
    tried: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        tried.append(address)
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    hub.hub_answers.cache_clear()
    yield tried
    hub.hub_answers.cache_clear()


def test_without_a_network_folders_load_and_names_that_are_nowhere_are_refused_at_once(
    tried: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_unlisted(tiny_model("mbart"), character_tokenizer(), tmp_path)
    load_pair(str(tmp_path))
    assert not tried
    began = time.monotonic()
    for load in (load_config, load_tokenizer, load_model):
        with pytest.raises(ModelError, match=r"no folder 'no/such', nothing.* and no connection"):
            load("no/such")
    assert tried == [("huggingface.co", 443)], "asked once, and not again for each file"
    hub.hub_answers.cache_clear()
    monkeypatch.setattr(hub, "_HUB_SECONDS", 0.1)
    monkeypatch.setattr(hub, "_connects", lambda: time.sleep(20))  # not even resolved
    assert not hub.hub_answers()
    assert time.monotonic() - began < 5.0


def test_code_in_a_model_folder_is_not_run_unless_asked(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        load_config(str(tmp_path))
    assert not ran.exists()


def test_a_loaded_model_is_known_by_its_files_wherever_they_lie(
    pair: LoadedModel, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        save_pair(pair, folder)
    (one / "README.md").write_text("mine")
    found = [pair_fingerprint(load_pair(str(folder))) for folder in (one, other)]
    assert found[0] == found[1] != pair_fingerprint(pair)
    changed = load_pair(str(one))
    config = one / "config.json"
    config.write_text(config.read_text().replace("false", "true", 1))
    assert pair_fingerprint(changed) != found[1]
    with torch.no_grad():
        pair.model.get_input_embeddings().weight[5, 0] += 1.0
    save_pair(pair, other)
    assert pair_fingerprint(load_pair(str(other))) not in found


def test_a_fingerprint_changes_with_one_weight_one_setting_and_one_token() -> None:
    same, weight, setting = (tiny_model("mbart") for _ in range(3))
    with torch.no_grad():
        weight.get_input_embeddings().weight[5, 0] += 1e-6
    setting.config.scale_embedding = True
    models = (tiny_model("mbart"), same, weight, setting)
    assert len({model_fingerprint(model) for model in models}) == 3
    changes: list[dict[str, Any]] = [{}, {"closes": False}, {"extra": ["x"]}, {"pad": "</s>"}]
    assert len({tokenizer_fingerprint(character_tokenizer(**change)) for change in changes}) == 4


def _without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).rename(folder / f"old.{name}") for name in names]


def _renamed(name: str, other: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / other)


def _holding(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _configured(**settings: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _lacking(key: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor.clone() for name, tensor in weights.items() if name != key}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _sharded(then: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        tiny_model("llama").bfloat16().save_pretrained(folder, max_shard_size="4KB")
        then(folder)

    return change


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
KEY = "model.layers.1.mlp.up_proj.weight"
SHARD = "model-00002-of-00004.safetensors"


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (_without("tokenizer_config.json"), "it has no tokenizer_config.json"),
    (_without("tokenizer.json"), "The tokenizer must load"),
    (_without(*TOKENIZER), "The tokenizer must load.*it holds none"),
    (_without("config.json"), "holds no config.json"),
    (_without("model.safetensors"), "The weights must load"),
    (_lacking(KEY), rf"has no '{KEY}' \(1 are missing\)"),
    *(
        (_holding(name, b"[1]"), f"{name} must be a JSON object")
        for name in ("tokenizer_config.json", "tokenizer.json", "generation_config.json")
    ),
    *(
        (_holding("config.json", content), "config.json must be a JSON object")
        for content in (b"", b"{", b"null", b"\xff\xfe", b"[" * 5000)
    ),
    (_holding("generation_config.json", b'{"eos_token_id": ["x"]}'), r"eos_token_id.*\['x'\]"),
    (_holding("tokenizer.json", b"{}"), "a file there lacks 'added_tokens'"),
    (_holding("chat_template.jinja", b"\xff\xfe"), "The tokenizer must load"),
    (_configured(model_type="nosuch"), "The configuration must load"),
    (_configured(vocab_size=-1), "The weights must load"),
    (_configured(vocab_size="40"), "vocab_size.*'40'"),
    (_holding("model.safetensors", b""), "The weights must load"),
    (_renamed("model.safetensors", "pytorch_model.bin"), "pytorch_model.bin, a pickle"),
    (_sharded(_without(SHARD)), f"The weights must load.*{SHARD}"),
    (_sharded(_holding(SHARD, b"cut")), "The weights must load"),
    (_sharded(_holding("model.safetensors.index.json", b"{}")), "The weights must load"),
]


@pytest.mark.parametrize(("change", "words"), DAMAGES)
def test_whatever_is_wrong_in_a_folder_is_one_sentence(
    change: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    save_unlisted(tiny_model("llama"), character_tokenizer(), tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=words):
        load_pair(str(tmp_path))


def test_shards_in_bf16_load_as_fp32_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mit Ü und Leerzeichen"
    save_unlisted(tiny_model("llama"), character_tokenizer(), folder)
    _sharded(lambda _folder: None)(folder)
    wanted = tiny_model("llama").bfloat16().float().state_dict()
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(folder)
    for name in (str(folder), f"{folder}/", str(tmp_path / "link"), ".", f"../{folder.name}"):
        found = load_pair(name).model.state_dict()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_tokenizer_that_grew_beyond_its_model_is_refused(tmp_path: Path) -> None:
    tokenizer, model = character_tokenizer(), tiny_model("llama")
    room = model.get_input_embeddings().weight.shape[0] - len(tokenizer)
    tokenizer.add_tokens([f"<new{i}>" for i in range(room)])
    save_pair(LoadedModel(model, tokenizer, "tiny"), tmp_path / "fits")
    tokenizer.add_tokens(["<beyond>"])
    save_unlisted(model, tokenizer, tmp_path)
    with pytest.raises(ModelError, match=r"1 tokens lie beyond, first '<beyond>' \(id 40\)"):
        load_pair(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("runs/teacher", "runs/teacher/student"),
        ("runs/teecher", "runs/teacher/student"),
        ("./runs/teecher", "runs/teacher/student"),
        ("runs/both", "runs/both/kd/student"),
        ("modles/small", None),
        ("models/smal", "models/small"),
        ("models/nothing/like/it", None),
        ("with space", None),
        ("http://localhost:8000/v1", None),
    ],
)
def test_a_mistyped_folder_is_told_at_once(
    name: str,
    meant: str | None,
    tried: list[tuple[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/teacher/student", "runs/both/kd/student", "models/small"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    began = time.monotonic()
    found = f"Did you mean '{meant}'" if meant else "there is no folder|is an address"
    for load in (load_config, load_tokenizer, load_model):
        with pytest.raises(ModelError, match=found):
            load(name)
    assert time.monotonic() - began < 1.0
    assert meant is None or not tried


def test_two_models_put_together_are_refused_by_name(tmp_path: Path) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    part = BertConfig(**sizes, intermediate_size=32)
    EncoderDecoderConfig.from_encoder_decoder_configs(part, part).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is an EncoderDecoderModel"):
        load_model(str(tmp_path))


def test_a_student_whose_generation_settings_cannot_be_saved_is_refused_before_training(
    tmp_path: Path,
) -> None:
    save_unlisted(tiny_model("llama"), character_tokenizer(), tmp_path)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.3, "do_sample": false}')
    recipe = Recipe.model_validate({"student": {"model": str(tmp_path)}})
    with pytest.raises(ModelError, match=r"generation_config\.json must hold.*temperature"):
        build_student(recipe, None, [])


def test_an_output_layer_that_left_its_tied_embedding_is_not_lost(tmp_path: Path) -> None:
    model = tiny_model("llama-tied")
    model.set_output_embeddings(torch.nn.Linear(16, model.config.vocab_size, bias=False))
    said = probe_logits(model)
    save_pair(LoadedModel(model, character_tokenizer(), "tiny"), tmp_path / "student", said=said)
    assert difference(said, probe_logits(load_pair(str(tmp_path / "student")).model)) <= 1e-6
