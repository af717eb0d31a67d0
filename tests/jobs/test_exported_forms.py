"""`export`: every form is whole, comes back, runs by `generate`, and int8 in plain CTranslate2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ctranslate2
import pytest
import torch
from tests.jobs.runs import QUICK, save_pairs
from tests.tiny import EOS, character_tokenizer, tiny_model
from transformers import AutoTokenizer

from seqdistill.cli.measuring import evaluate
from seqdistill.compression.pruning import prune
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.core.stored_forms import StoredForm
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.jobs.export import Exported, Store, export_model
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.training import train_student
from seqdistill.models.loading import SPARSE_WEIGHTS, load_pair
from seqdistill.models.saving import save_pair
from seqdistill.recipe.schema import Recipe


def export(
    source: Path | str,
    output: Path,
    form: StoredForm,
    *,
    save_dtype: Store | None = None,
    verify_on: Path | None = None,
) -> Exported:
    return export_model(
        str(source),
        output,
        form=form,
        save_dtype=save_dtype,
        verify_on=None if verify_on is None else str(verify_on),
        threads=1,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a pruned model and a run directory of its student."""
    folder = tmp_path_factory.mktemp("forms")
    save_pairs(folder / "train.tsv", 24, seed=0)
    model = tiny_model("mbart", seed=3)
    model.final_logits_bias[0, EOS] += 8.0  # so that random outputs come to an end
    prune(model, pruned_share=0.9, scheme="class_blind")
    model.save_pretrained(folder / "model")
    character_tokenizer().save_pretrained(folder / "model")
    training = {key.partition(".")[2]: v for key, v in QUICK.items() if key[:9] == "training."}
    recipe = {
        "output_dir": str(folder / "run"),
        "data": {"train": str(folder / "train.tsv")},
        "student": {"model": str(folder / "model")},
        "training": training,
        "pruning": {"sparsity": 0.9},
    }
    train_student(Recipe.model_validate(recipe), progress=NoProgress())
    return folder


def assert_equal_models(one: Path, other: Path) -> None:
    first, second = (load_pair(str(folder)).model.state_dict() for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_runs_student_goes_to_the_sparse_form_and_back(place: Path, tmp_path: Path) -> None:
    student = place / "run" / "student"
    made = export(place / "run", tmp_path / "sparse", "sparse")
    assert made.folder == tmp_path / "sparse"
    assert made.weight_bytes == (tmp_path / "sparse" / SPARSE_WEIGHTS).stat().st_size
    assert made.weight_bytes_before == (student / "model.safetensors").stat().st_size
    assert made.weight_bytes < 0.5 * made.weight_bytes_before
    back = export(tmp_path / "sparse", tmp_path / "dense", "dense")
    assert back.weight_bytes_before == made.weight_bytes
    assert_equal_models(tmp_path / "dense", student)


def test_half_precision_is_stored_where_it_is_asked_for(place: Path, tmp_path: Path) -> None:
    exact = export(place / "model", tmp_path / "exact", "sparse")
    half = export(place / "model", tmp_path / "half", "sparse", save_dtype="fp16")
    assert half.weight_bytes < exact.weight_bytes
    export(tmp_path / "half", tmp_path / "back", "dense")
    found = load_pair(str(tmp_path / "back")).model.get_input_embeddings().weight
    wanted = load_pair(str(place / "model")).model.get_input_embeddings().weight
    assert torch.equal(found, wanted.half().float())


def test_the_precision_stays_that_of_the_source_where_none_is_asked_for(
    place: Path, tmp_path: Path
) -> None:
    save_pair(load_pair(str(place / "model")), tmp_path / "model", save_dtype="fp16")
    forms: tuple[StoredForm, ...] = ("sparse", "dense")
    made = {form: export(tmp_path / "model", tmp_path / form, form) for form in forms}
    assert made["sparse"].weight_bytes < made["dense"].weight_bytes
    assert made["dense"].weight_bytes == made["dense"].weight_bytes_before
    again = export(tmp_path / "sparse", tmp_path / "again", "dense")
    assert again.weight_bytes == made["dense"].weight_bytes
    assert_equal_models(tmp_path / "again", tmp_path / "model")


def test_int8_of_a_sparse_folder_is_that_of_the_model(place: Path, tmp_path: Path) -> None:
    export(place / "model", tmp_path / "sparse", "sparse")
    given = place / "train.tsv"
    export(tmp_path / "sparse", tmp_path / "of sparse", "int8", verify_on=given)
    export(place / "model", tmp_path / "of dense", "int8", verify_on=given)
    models = [tmp_path / name / "model.bin" for name in ("of sparse", "of dense")]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.parametrize(
    ("source", "form", "sentence"),
    [
        ("int8", "dense", "is a CTranslate2 folder"),
        ("unfinished", "sparse", "must have a trained student"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    source: str, form: StoredForm, sentence: str, tmp_path: Path
) -> None:
    for path in ("int8/model.bin", "int8/config.json", "unfinished/recipe.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("{}")
    with pytest.raises(UserError, match=sentence):
        export(tmp_path / source, tmp_path / "out", form)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial*"))


TEXTS = ["eins rot", "zwei blaue", "d"]
KINDS = {"mbart": "seq2seq", "llama": "causal"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        save_copy(folder, name)
    return folder


def save_copy(folder: Path, name: str) -> None:
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
def test_an_int8_folder_writes_what_the_models_int8_copy_does(copies: Path, name: str) -> None:
    live = written(copies / name, compute_type="int8")
    assert any(live)
    assert written(copies / f"{name}-int8") == live
    assert written(copies / f"{name}-int8", engine="ctranslate2", compute_type="int8") == live


def test_plain_ctranslate2_writes_the_same_as_the_guide_says(copies: Path) -> None:
    """Of an LLM; of encoder-decoders: `test_translation_families`."""
    folder = copies / "llama-int8"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), ctranslate2.Generator(str(folder))
    end = json.loads((folder / "seqdistill.json").read_text())["end_token"]
    settings = {"beam_size": 5, "max_length": 12, "include_prompt_in_result": False}
    for text, expected in zip(TEXTS, written(folder), strict=True):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
        (found,) = model.generate_batch([tokens], end_token=end, **settings)
        ids = tokenizer.convert_tokens_to_ids(found.sequences[0])
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == expected


def test_what_an_int8_folder_cannot_do_is_a_sentence(copies: Path, tmp_path: Path) -> None:
    folder = copies / "mbart-int8"
    assert CTranslate2Generator.open(folder, threads=1).longest == 40, "the model's positions"
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
    copies: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder = shutil.copytree(copies / "mbart-int8", tmp_path / "short")
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
