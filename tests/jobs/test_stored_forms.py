"""`export`: every form of a tiny pruned model is written whole, and comes back bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs.runs import QUICK, save_pairs
from tests.tiny import EOS, character_tokenizer, tiny_model

from seqdistill.compression.pruning import prune
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.export import Exported, Form, Store, export_model
from seqdistill.jobs.training import train_student
from seqdistill.models.loading import SPARSE_WEIGHTS, load_pair
from seqdistill.models.saving import save_pair
from seqdistill.recipe.schema import Recipe


def export(
    source: Path | str,
    output: Path,
    form: Form,
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
    forms: tuple[Form, ...] = ("sparse", "dense")
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
        ("model", "int8", "give --verify-on DATA"),
        ("int8", "dense", "is a CTranslate2 folder"),
        ("nowhere", "sparse", "nowhere"),
        ("unfinished", "sparse", "must have a trained student"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    source: str, form: Form, sentence: str, tmp_path: Path
) -> None:
    tiny_model("mbart").save_pretrained(tmp_path / "model")
    character_tokenizer().save_pretrained(tmp_path / "model")
    for path in ("int8/model.bin", "int8/config.json", "unfinished/recipe.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("{}")
    with pytest.raises(UserError, match=sentence):
        export(tmp_path / source, tmp_path / "out", form)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("form", ["sparse", "int8", "dense"])
def test_what_is_there_is_never_replaced(place: Path, form: Form, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        export(place / "run", tmp_path / "out", form)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
