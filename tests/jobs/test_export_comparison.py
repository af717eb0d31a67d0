"""`export`: copies decode what their models do, are refused when they do not, and have a card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from tests.byte_level import pair_of
from tests.jobs.runs import save_pairs
from tests.report.made import write_run
from tests.sounds import save_table, save_whisper
from tests.tiny import EOS, character_tokenizer, tiny_model

from seqdistill.core.errors import EngineError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.core.stored_forms import StoredForm
from seqdistill.generation import gguf_file
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.jobs.cards import model_card
from seqdistill.jobs.export import Exported, export_model
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.pushing import check_repository, push
from seqdistill.models.loading import load_pair
from seqdistill.models.saving import save_pair
from seqdistill.records.run_directory import RunDirectory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model folder of each kind, and texts."""
    save_pairs(tmp_path / "texts.tsv", 40, seed=0)
    for name in ("mbart", "llama"):
        model = tiny_model(name, seed=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.7)
            if name == "mbart":
                model.final_logits_bias[0, EOS] += 1.0
        model.save_pretrained(tmp_path / name)
        character_tokenizer(closes=name == "mbart").save_pretrained(tmp_path / name)
    return tmp_path


def exported(place: Path, form: StoredForm, name: str = "mbart") -> Exported:
    return export_model(
        str(place / name),
        place / form,
        form=form,
        save_dtype=None,
        verify_on=str(place / "texts.tsv"),
        threads=1,
    )


FORMS: tuple[StoredForm, ...] = ("dense", "sparse", "float32", "int8", "int8_float16")


@pytest.mark.parametrize("form", [*FORMS, "onnx"])
@pytest.mark.parametrize("name", ["mbart", "llama"])
def test_every_form_decodes_the_inputs_of_its_model(
    form: StoredForm, name: str, place: Path
) -> None:
    if form == "onnx":
        for package in ("onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    made = exported(place, form, name)
    assert made.num_inputs == 32
    assert made.equal_outputs is not None and made.agreement is not None
    if form in ("dense", "sparse", "float32", "onnx"):
        assert made.equal_outputs == 1.0 and made.agreement.max_nats < 1e-4
    else:
        assert made.equal_outputs > 0.5 and 0.0 < made.agreement.max_nats < 2.0
    stored = json.loads((place / form / "export.json").read_text("utf-8"))
    assert stored["equal_outputs"] == made.equal_outputs
    assert stored["weight_bytes"] == made.weight_bytes > 0
    assert stored["agreement"]["max_nats"] == made.agreement.max_nats
    assert made.per_second is not None and made.per_second > 0.0
    assert f"as `{form}`" in (place / form / "README.md").read_text("utf-8")


def test_int8_float16_is_stored_as_such_and_runs_here(place: Path) -> None:
    sizes = {form: exported(place, form).weight_bytes for form in FORMS[2:]}
    assert sizes["int8_float16"] < sizes["int8"] < sizes["float32"]
    opened = CTranslate2Generator.open(place / "int8_float16", threads=1)
    assert (opened.stored_type, opened.compute_type) == ("int8_float16", "int8")
    assert any(
        generate_texts(
            str(place / "int8_float16"),
            ["eins rot", "zwei"],
            max_new_tokens=12,
            threads=1,
            progress=NoProgress(),
        )
    )


def test_exact_forms_of_a_model_folder_need_no_texts(place: Path) -> None:
    made = export_model(
        str(place / "mbart"),
        place / "dense",
        form="dense",
        save_dtype=None,
        verify_on=None,
        threads=1,
    )
    assert (made.num_inputs, made.equal_outputs, made.agreement) == (0, None, None)


def test_recordings_are_decoded_alone(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    save_whisper(tmp_path / "hears")
    save_table(tmp_path / "texts.jsonl", ["ab", "cab", "eca"])
    made = export_model(
        str(tmp_path / "hears"),
        tmp_path / "dense",
        form="dense",
        save_dtype=None,
        verify_on=str(tmp_path / "texts.jsonl"),
        threads=1,
    )
    assert (made.num_inputs, made.equal_outputs, made.agreement) == (3, 1.0, None)


GGUF_FORMS: tuple[StoredForm, ...] = ("gguf-f32", "gguf-f16", "gguf-q8_0")


@pytest.fixture
def chat_model(place: Path) -> Path:
    pytest.importorskip("gguf")
    pair = pair_of("llama", "llama-bpe")
    with torch.no_grad():  # small steps round little
        for parameter in pair.model.parameters():
            parameter.mul_(0.7)
    save_pair(pair, place / "chat")
    return place


def test_gguf_is_read_back_and_compared(chat_model: Path) -> None:
    made = {form: exported(chat_model, form, "chat") for form in GGUF_FORMS}
    sizes = [made[form].weight_bytes for form in GGUF_FORMS]
    assert sizes == sorted(sizes, reverse=True)
    first = made["gguf-f32"]
    assert first.equal_outputs == 1.0
    assert first.agreement is not None and first.agreement.max_nats < 1e-3
    assert first.per_second is None, "llama.cpp's speed is not known"
    assert "llama.cpp itself was not run" in (chat_model / "gguf-f32" / "README.md").read_text()


def test_a_wrong_copy_is_refused_and_nothing_stays(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "_rotated_in_pairs", lambda rows, heads: rows)
    with pytest.raises(EngineError, match="must give every token the live model's"):
        exported(chat_model, "gguf-f32", "chat")
    assert not (chat_model / "gguf-f32").exists() and not list(chat_model.glob("*.partial*"))


def test_gguf_without_its_package_names_the_extra(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"install seqdistill\[gguf\]"):
        exported(place, "gguf-f16", "llama")


def test_the_card_of_a_run_has_its_numbers_recipe_and_licences(place: Path) -> None:
    run = write_run(place / "run")
    (place / "teacher").mkdir()
    (place / "teacher" / "README.md").write_text("---\nlicense: mit\n---\n")
    (run / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "preset": "word_kd",
                "teacher": {"model": str(place / "teacher")},
                "student": {"model": str(place / "mbart")},
                "data": {"train": str(place / "texts.tsv")},
            }
        )
    )
    for path in ("manifest.json",):
        (run / path).unlink(missing_ok=True)
    (place / "mbart").rename(run / "student")
    export_model(str(run), place / "out", form="dense", save_dtype=None, verify_on=None, threads=1)
    card = (place / "out" / "README.md").read_text("utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["tags"][0] == "seqdistill"
    assert "teacher: teacher; licence: mit" in body
    assert "data.train: texts.tsv; licence: unknown" in body
    assert re.search(r"\| \S+ \| \d+\.\d \(\d+\.\d to \d+\.\d\)", body), "with intervals"
    assert str(place) not in card, "no places of this machine"
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["teacher"]["model"] == "teacher"


def test_the_card_of_a_chain_names_the_teachers_of_all_its_stages(place: Path) -> None:
    run = write_run(place / "run")
    (run / "manifest.json").unlink(missing_ok=True)
    teachers = {"teacher": {"model": [str(place / "first"), str(place / "second")]}}
    chain = {
        "teacher": {"model": str(place / "third")},
        "student": {"model": str(place / "mbart")},
        "data": {"train": str(place / "texts.tsv")},
        "stages": [{"preset": "word_kd", "settings": teachers}, {"preset": "word_kd"}],
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(chain))
    pair = load_pair(str(place / "mbart"))
    facts = {"form": "dense", "weight_bytes": 1, "agreement": None, "equal_outputs": None}
    card = model_card(pair, RunDirectory(run), facts)
    assert "distilled from first and second and third" in card
    assert [name for name in ("first", "second", "third") if f"teacher: {name}; lic" in card] == [
        *("first", "second", "third")
    ]
    assert card.count("data.train: ") == 1


class FakeHub:
    """Notes what it was asked; refuses some names."""

    endpoint = "https://hub"

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if repo_id == "not/mine":
            raise OSError("401 Client Error")
        self.calls.append((repo_id, private))

    def upload_folder(self, *, folder_path: str, repo_id: str) -> None:
        self.calls.append((repo_id, folder_path))


def test_a_push_is_private_and_a_refusal_is_a_sentence(tmp_path: Path) -> None:
    hub = FakeHub()
    assert push(tmp_path, "me/small", api=hub) == "https://hub/me/small"  # type: ignore[arg-type]
    assert hub.calls == [("me/small", True), ("me/small", str(tmp_path))]
    with pytest.raises(UserError, match=r"'not/mine' was refused: 401.*is written"):
        push(tmp_path, "not/mine", api=hub)  # type: ignore[arg-type]


def test_a_name_that_no_repository_has_is_refused_before_anything_is_made() -> None:
    check_repository("me/small")
    with pytest.raises(UserError, match=r"--push must name .* got 'me/my model'"):
        check_repository("me/my model")
