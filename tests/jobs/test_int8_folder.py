"""The folder that `export --format int8` writes runs: by `generate`, and in five lines of others.

The oracle is the live model's int8 decoder, from which the folder was saved.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from tests.tiny import EOS, character_tokenizer, tiny_model

from seqdistill.cli.measuring import evaluate
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.jobs.export import export_model
from seqdistill.jobs.generate import generate_texts
from seqdistill.models.loading import load_pair

TEXTS = ["eins rot", "zwei blaue", "d"]
KINDS = {"mbart": "seq2seq", "llama": "causal"}

FIVE_LINES = {
    "seq2seq": """
        tokenizer, model = AutoTokenizer.from_pretrained(folder), ctranslate2.Translator(folder)
        how = json.loads(Path(folder, "seqdistill.json").read_text())
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
        found = model.translate_batch([tokens], target_prefix=[how["target_prefix"]], end_token=how["end_token"], beam_size=5, max_input_length=0, min_decoding_length=0, max_decoding_length=12)
        print(tokenizer.decode(tokenizer.convert_tokens_to_ids(found[0].hypotheses[0]), skip_special_tokens=True))
    """,  # noqa: E501
    "causal": """
        tokenizer, model = AutoTokenizer.from_pretrained(folder), ctranslate2.Generator(folder)
        how = json.loads(Path(folder, "seqdistill.json").read_text())
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
        found = model.generate_batch([tokens], end_token=how["end_token"], beam_size=5, max_length=12, include_prompt_in_result=False)
        print(tokenizer.decode(tokenizer.convert_tokens_to_ids(found[0].sequences[0]), skip_special_tokens=True))
    """,  # noqa: E501
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of each kind and its int8 copy."""
    folder = tmp_path_factory.mktemp("int8")
    (folder / "texts.txt").write_text("\n".join([*TEXTS, "drei gruene haeuser"]) + "\n")
    for name, kind in KINDS.items():
        model = tiny_model(name, seed=3)
        with torch.no_grad():  # small steps round little in int8
            for parameter in model.parameters():
                parameter.mul_(0.7)
            if kind == "seq2seq":
                model.final_logits_bias[0, EOS] += 1.0
        model.save_pretrained(folder / name)
        character_tokenizer(closes=kind == "seq2seq").save_pretrained(folder / name)
        export(folder, name)
    return folder


def export(folder: Path, name: str) -> None:
    made = export_model(
        str(folder / name),
        folder / f"{name}-int8",
        form="int8",
        save_dtype=None,
        verify_on=str(folder / "texts.txt"),
        threads=1,
    )
    assert made.agreement is not None
    assert made.agreement.num_tokens > 10
    assert 0.5 < made.agreement.argmax_share <= 1.0
    assert 0.0 < made.agreement.mean_nats <= made.agreement.max_nats
    stored = json.loads((made.folder / "seqdistill.json").read_text())
    assert stored["agreement"]["argmax_share"] == made.agreement.argmax_share
    assert f"of {made.agreement.num_tokens} positions" in made.agreement.sentence


def written(
    folder: Path,
    texts: list[str] = TEXTS,
    *,
    engine: str = "auto",
    compute_type: str = "float32",
) -> list[str]:
    return generate_texts(
        str(folder),
        texts,
        engine=engine,
        compute_type=compute_type,
        max_new_tokens=12,
        threads=1,
        progress=NoProgress(),
    )


@pytest.mark.parametrize("name", KINDS)
def test_an_int8_folder_writes_what_the_models_int8_copy_does(place: Path, name: str) -> None:
    live = written(place / name, compute_type="int8")
    assert any(live)
    assert written(place / f"{name}-int8") == live
    assert written(place / f"{name}-int8", engine="ctranslate2", compute_type="int8") == live


@pytest.mark.parametrize("name", KINDS)
def test_five_lines_of_plain_ctranslate2_write_the_same(place: Path, name: str) -> None:
    folder = str(place / f"{name}-int8")
    for text, expected in zip(TEXTS, written(Path(folder)), strict=True):
        screen = io.StringIO()
        with contextlib.redirect_stdout(screen):
            exec(
                "import ctranslate2, json\nfrom pathlib import Path\n"
                "from transformers import AutoTokenizer\n" + dedent(FIVE_LINES[KINDS[name]]),
                {"folder": folder, "text": text},
            )
        assert screen.getvalue().strip() == expected


def test_an_opened_copy_tells_how_far_it_lay_from_its_model(place: Path) -> None:
    generator = CTranslate2Generator.open(place / "mbart-int8", threads=1)
    assert (generator.kind, generator.compute_type) == ("seq2seq", "int8")
    assert 0.5 < generator.agreement.argmax_share <= 1.0
    assert generator.longest == 40, "as long as the model has positions"


def test_what_an_int8_folder_cannot_do_is_a_sentence(place: Path, tmp_path: Path) -> None:
    folder = place / "mbart-int8"
    with pytest.raises(ModelError, match=r"--engine must be ctranslate2 for .*got transformers"):
        written(folder, engine="transformers")
    with pytest.raises(ModelError, match=r"stored in int8, got float16"):
        written(folder, compute_type="float16")
    with pytest.raises(ModelError, match=r"is a CTranslate2 folder.*`generate` runs it"):
        load_pair(str(folder))
    with pytest.raises(UserError, match=r"must be a run directory, got the CTranslate2 folder"):
        evaluate(folder)
    flipped = shutil.copytree(folder, tmp_path / "flipped")
    content = bytearray((flipped / "model.bin").read_bytes())
    content[len(content) // 2] ^= 4
    (flipped / "model.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"model.bin does not match its checksum"):
        written(flipped)
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    (foreign / "checksums.json").unlink()
    (foreign / "seqdistill.json").unlink()
    with pytest.raises(ModelError, match=r"must hold seqdistill.json.*--format int8"):
        written(foreign)
    (foreign / "seqdistill.json").write_text('{"facts": 3}')
    with pytest.raises(ModelError, match=r"must hold seqdistill.json"):
        written(foreign)
    torn = shutil.copytree(folder, tmp_path / "torn")
    (torn / "checksums.json").unlink()
    (torn / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:999])
    with pytest.raises(ModelError, match=r"must hold a whole CTranslate2 model"):
        written(torn)


def test_texts_beyond_what_was_compared_are_said(
    place: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder = shutil.copytree(place / "mbart-int8", tmp_path / "short")
    (folder / "checksums.json").unlink()
    stored = json.loads((folder / "seqdistill.json").read_text())
    (folder / "seqdistill.json").write_text(json.dumps({**stored, "longest": 5}))
    written(folder)
    assert "2 of 3 texts may take more than the 5 positions" in caplog.text


def test_a_model_that_writes_nothing_is_an_error_and_no_empty_lines(tmp_path: Path) -> None:
    model = tiny_model("mbart")
    model.final_logits_bias[0, EOS] = 1000.0
    model.save_pretrained(tmp_path / "mute")
    character_tokenizer().save_pretrained(tmp_path / "mute")
    with pytest.raises(ModelError, match="outputs for all 2 prompts are empty"):
        written(tmp_path / "mute", ["eins", "", "zwei"])
    assert written(tmp_path / "mute", [""]) == [""]
