"""`export`: every form of a tiny pruned model is written whole, and comes back bit for bit."""

from __future__ import annotations

import filecmp
from pathlib import Path

import ctranslate2
import pytest
import torch
from tests.jobs.test_distill import QUICK, save_pairs
from tests.tiny import EOS, character_tokenizer, tiny_model

from seqdistill.compression.int8_folders import PACKED_MODEL
from seqdistill.compression.pruning import prune
from seqdistill.compression.sparse_files import SPARSE_WEIGHTS, load_stored_pair
from seqdistill.compression.stored_sizes import stored_sizes
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.export import Exported, Form, Store, export_model
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.training import train_student
from seqdistill.models.loading import load_pair
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
    first, second = (load_stored_pair(str(folder)).model.state_dict() for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def assert_equal_folders(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def test_a_runs_student_goes_to_the_sparse_form_and_back(place: Path, tmp_path: Path) -> None:
    student = place / "run" / "student"
    made = export(place / "run", tmp_path / "sparse", "sparse")
    assert made.folder == tmp_path / "sparse"
    assert made.weight_bytes == (tmp_path / "sparse" / SPARSE_WEIGHTS).stat().st_size
    assert made.weight_bytes_before == (student / "model.safetensors").stat().st_size
    assert made.weight_bytes < 0.5 * made.weight_bytes_before
    assert_equal_models(tmp_path / "sparse", student)
    back = export(tmp_path / "sparse", tmp_path / "dense", "dense")
    assert back.weight_bytes_before == made.weight_bytes
    assert_equal_models(tmp_path / "dense", student)
    load_pair(str(tmp_path / "dense"))


def test_half_precision_is_stored_where_it_is_asked_for(place: Path, tmp_path: Path) -> None:
    exact = export(place / "model", tmp_path / "exact", "sparse")
    half = export(place / "model", tmp_path / "half", "sparse", save_dtype="fp16")
    assert half.weight_bytes < exact.weight_bytes
    found = load_stored_pair(str(tmp_path / "half")).model.get_input_embeddings().weight
    wanted = load_pair(str(place / "model")).model.get_input_embeddings().weight
    assert torch.equal(found, wanted.half().float())


def test_the_precision_stays_that_of_the_source_where_none_is_asked_for(
    place: Path, tmp_path: Path
) -> None:
    save_pair(load_pair(str(place / "model")), tmp_path / "model", save_dtype="fp16")
    forms: tuple[Form, ...] = ("sparse", "dense")
    made = {form: export(tmp_path / "model", tmp_path / form, form) for form in forms}
    assert made["sparse"].weight_bytes < 1.1 * made["dense"].weight_bytes
    assert made["dense"].weight_bytes == made["dense"].weight_bytes_before
    again = export(tmp_path / "sparse", tmp_path / "again", "dense")
    assert again.weight_bytes == made["dense"].weight_bytes
    assert_equal_models(tmp_path / "again", tmp_path / "model")


def test_int8_is_packed_and_unpacked_byte_for_byte(place: Path, tmp_path: Path) -> None:
    int8 = export(place / "run", tmp_path / "int8", "int8")
    packed = export(place / "run", tmp_path / "packed", "sparse-int8")
    assert packed.weight_bytes == (tmp_path / "packed" / PACKED_MODEL).stat().st_size
    assert packed.weight_bytes < int8.weight_bytes
    export(tmp_path / "packed", tmp_path / "unpacked", "dense")
    assert_equal_folders(tmp_path / "int8", tmp_path / "unpacked")
    ctranslate2.Translator(str(tmp_path / "unpacked"))
    export(tmp_path / "int8", tmp_path / "packed again", "sparse-int8")
    assert_equal_folders(tmp_path / "packed", tmp_path / "packed again")


def test_int8_of_a_sparse_folder_is_that_of_the_model(place: Path, tmp_path: Path) -> None:
    export(place / "model", tmp_path / "sparse", "sparse")
    given = place / "train.tsv"
    export(tmp_path / "sparse", tmp_path / "of sparse", "int8", verify_on=given)
    export(place / "model", tmp_path / "of dense", "int8", verify_on=given)
    models = [tmp_path / name / "model.bin" for name in ("of sparse", "of dense")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_sparse_folder_translates_as_the_model_does(tmp_path: Path) -> None:
    model = tiny_model("mbart", seed=3)
    prune(model, pruned_share=0.9, scheme="class_blind")
    model.save_pretrained(tmp_path / "model")
    character_tokenizer().save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "sparse", "sparse")
    outputs = [
        generate_texts(str(folder), ["eins rot"], max_new_tokens=12, progress=NoProgress())
        for folder in (tmp_path / "model", tmp_path / "sparse")
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("source", "form", "sentence"),
    [
        ("model", "int8", "give --verify-on DATA"),
        ("model", "sparse-int8", "give --verify-on DATA"),
        ("int8", "int8", r"--format must be sparse-int8 for .* \(int8\), got int8"),
        ("int8", "dense", "--format must be sparse-int8"),
        ("packed", "sparse", r"--format must be dense for .* \(packed\), got sparse"),
        ("nowhere", "sparse", "nowhere"),
        ("unfinished", "sparse", "must have a trained student"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    source: str, form: Form, sentence: str, tmp_path: Path
) -> None:
    tiny_model("mbart").save_pretrained(tmp_path / "model")
    character_tokenizer().save_pretrained(tmp_path / "model")
    for name, file in (
        ("int8", "model.bin"),
        ("packed", PACKED_MODEL),
        ("unfinished", "recipe.yaml"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
    with pytest.raises(UserError, match=sentence):
        export(tmp_path / source, tmp_path / "out", form)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("form", ["sparse", "int8", "sparse-int8", "dense"])
def test_what_is_there_is_never_replaced(place: Path, form: Form, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        export(place / "run", tmp_path / "out", form)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_sizes_of_all_forms_are_those_of_the_files(place: Path, tmp_path: Path) -> None:
    forms: tuple[Form, ...] = ("dense", "sparse", "int8", "sparse-int8")
    made = [export(place / "run", tmp_path / form, form, save_dtype="fp16") for form in forms]
    student = load_pair(str(place / "run" / "student"))
    sizes = stored_sizes(student, int8_folder=tmp_path / "int8")
    assert list(sizes) == ["fp16", "fp16_sparse", "int8", "int8_sparse"]
    assert list(sizes.values()) == [exported.weight_bytes for exported in made]
    assert sizes["fp16_sparse"] < sizes["fp16"] and sizes["int8_sparse"] < sizes["int8"]
