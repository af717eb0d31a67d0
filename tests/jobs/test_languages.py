"""Languages and ends through whole jobs: train, label, evaluate and generate of tiny families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import settings_in, student_of, texts, trained
from tests.translation_families import FAMILIES, TEXTS

from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.label import check_labels, label_data
from seqdistill.models.languages import language_code
from seqdistill.models.loading import load_pair
from seqdistill.models.saving import save_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.teacher_corpus import TeacherCorpus

SOURCES = [source for source, _ in TEXTS]


def folder_for(folder: Path, name: str, *, ends: bool = True) -> Path:
    """A teacher and a student of a family as published folders are, and rows of a translation."""
    for role, seed in (("teacher", 3), ("student", 8)):
        pair = FAMILIES[name].pair()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            for parameter in pair.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        if ends and "final_logits_bias" in dict(pair.model.named_buffers()):
            pair.model.final_logits_bias[0, pair.tokenizer.eos_token_id] += 3.0
        save_pair(pair, folder / role)
    rows = [{"translation": {"en": source, "de": target}} for source, target in TEXTS * 3]
    for split in ("train", "test"):
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def recipe_in(folder: Path, method: str, name: str, *more: str) -> Recipe:
    data = {f"data.{split}": str(folder / f"{split}.jsonl") for split in ("train", "test")}
    return load_recipe(method, [*texts({**settings_in(folder, name), **data}), *more])


def told(source: str, target: str) -> list[str]:
    return [f"data.source_language={source}", f"data.target_language={target}"]


@pytest.mark.parametrize(
    ("name", "languages"),
    [("nllb", ("en:eng_Latn", "de:deu_Latn")), ("mbart", ("en", "de"))],
)
def test_a_student_keeps_the_languages_that_it_was_trained_for(
    tmp_path: Path, name: str, languages: tuple[str, str]
) -> None:
    folder = folder_for(tmp_path, name)
    run = trained(recipe_in(folder, "word_kd", "one", *told(*languages)))
    student = load_pair(str(run.student_path))
    assert (student.tokenizer.src_lang, student.tokenizer.tgt_lang) == FAMILIES[name].languages
    given = FAMILIES[name].forced(student.tokenizer)
    settings = {key: getattr(student.model.generation_config, key) for key in given}
    assert settings == given
    plain = []
    for source in SOURCES:
        read = student.tokenizer(source, return_tensors="pt")
        written = student.model.generate(**read, num_beams=1, do_sample=False, max_new_tokens=9)
        plain += student.tokenizer.batch_decode(written, skip_special_tokens=True)
    for engine in ("transformers", "ctranslate2"):
        settings = {"engine": engine, "beam_size": 1, "max_new_tokens": 9 - (name != "mbart")}
        own = generate_texts(
            str(run.student_path), SOURCES, threads=1, progress=NoProgress(), **settings
        )
        assert own == [text.strip() for text in plain]


def test_states_that_are_kept_train_as_live_ones_do_with_a_prefix(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "mbart50")
    more = [*told("en", "de"), "training.precision=fp32"]
    live = trained(recipe_in(folder, "word_kd", "live", *more))
    kept = trained(recipe_in(folder, "word_kd", "kept", *more, "teacher.cache_hidden_states=fp32"))
    for weight, tensor in student_of(live).items():
        torch.testing.assert_close(student_of(kept)[weight], tensor)


def test_no_job_begins_without_a_target_language(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "nllb")
    text = "\n".join(f"{source}\t{target}" for source, target in [("source", "target"), *TEXTS])
    for split in ("train", "test"):
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    files = [f"data.{split}={folder / split}.tsv" for split in ("train", "test")]
    recipe = recipe_in(folder, "seq_kd", "none", *files)
    for job in (
        lambda: prepare(recipe),
        lambda: label_data(recipe, progress=NoProgress()),
        lambda: generate_texts(str(folder / "teacher"), SOURCES, progress=NoProgress()),
    ):
        with pytest.raises(RecipeError, match="language must be given for"):
            job()
    assert not (folder / "runs").exists()


def test_corpora_of_two_languages_are_two(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "mbart50")
    found = []
    for target in ("de", "ro_RO"):
        keys = told("en:en_XX", f"de:{target}" if target != "de" else "de")
        corpus = label_data(recipe_in(folder, "seq_kd", "one", *keys), progress=NoProgress())
        found.append(list(TeacherCorpus.open(corpus, expected=None)))
    assert [o.log_prob for o in found[0]] != [o.log_prob for o in found[1]]


@pytest.mark.parametrize(
    ("bias", "words"), [(-50.0, r"must end its outputs with '</s>'"), (50.0, "must write texts")]
)
def test_a_teacher_that_never_or_only_ends_labels_nothing(
    tmp_path: Path, bias: float, words: str
) -> None:
    folder = folder_for(tmp_path, "mbart50", ends=False)
    pair = load_pair(str(folder / "teacher"))
    pair.model.final_logits_bias[0, pair.tokenizer.eos_token_id] = bias
    save_pair(pair, folder / "teacher")
    recipe = recipe_in(folder, "seq_kd", "one", *told("en", "de"))
    with pytest.raises(ModelError, match=words):
        check_labels(label_data(recipe, progress=NoProgress()))


@pytest.mark.parametrize(
    ("wanted", "codes", "meant"),
    [
        ("en", ["__java__", "__python__", "__en_XX__"], "__en_XX__"),
        ("java", ["__java__", "__javascript__"], "__java__"),
        ("ja", ["ja_XX", "jv_ID"], "ja_XX"),
        ("zh", ["zh", "zu"], "zh"),
        ("zho", ["zho_Hans", "zho_Hant", "zul_Latn"], None),
        ("english", ["eng_Latn", "deu_Latn"], None),
    ],
)
def test_a_language_means_the_one_code_that_has_its_name(
    wanted: str, codes: list[str], meant: str | None
) -> None:
    known = {code: place for place, code in enumerate(codes)}
    if meant is not None:
        assert language_code(wanted, known, key="x") == meant
        return
    with pytest.raises(RecipeError, match=f"such as {codes[0]}.*got '{wanted}'"):
        language_code(wanted, known, key="x")
