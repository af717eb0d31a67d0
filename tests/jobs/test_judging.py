"""What judges a run is decided by its targets, said, and never zero by construction."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest
from tests.jobs.test_feasibility import folder, start
from tests.metrics.test_scripts import HAS_KOREAN, LANGUAGES
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.assembly.data import read_split
from seqdistill.assembly.judging import judging_of
from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.data.examples import Example, Turn
from seqdistill.evaluation.systems import evaluate_system
from seqdistill.jobs.evaluate import evaluate_run, evaluation_settings
from seqdistill.jobs.systems import system_under_test
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.resolving import read_recipe

__all__ = ["folder"]

CHAT = (Turn("user", "Add one and three."),)


def examples(*targets: str, chat: bool = False) -> list[Example]:
    messages = CHAT if chat else None
    return [Example(str(n), "" if chat else "a", t, messages) for n, t in enumerate(targets)]


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
@pytest.mark.parametrize("name", LANGUAGES)
def test_translations_are_judged_by_what_suits_their_script(name: str, kind: Kind) -> None:
    reference, _, tokenizer, unspaced = LANGUAGES[name]
    recipe = read_recipe("baseline", ["data.source_language=en", "data.target_language=xx"])
    found = judging_of(recipe, examples(*[reference] * 5), kind)
    expected = ("chrf", "bleu") if unspaced else ("bleu", "chrf")
    assert found.metrics == expected
    assert found.eval_metric == ("loss" if kind == "causal" else expected[0])
    assert found.units.bleu_tokenizer == tokenizer
    assert f"tok:{tokenizer}" in str(found)
    # What chooses is not zero by construction: a perfect output has more.
    for metric in found.metrics:
        statistics = corpus_metrics()[metric].statistics
        if not unspaced:
            assert statistics([reference] * 5, [reference] * 5).score().value > 0.0


@pytest.mark.parametrize(
    ("targets", "chat", "kind", "chooses", "metrics"),
    [
        (["Four.", "It is five."], True, "causal", "loss", ("rouge_l", "exact_match")),
        (["Four.", "It is five."], True, "seq2seq", "loss", ("rouge_l", "exact_match")),
        (["四", "答案是五"], False, "causal", "loss", ("rouge_l", "exact_match")),
        (["1 + 3 = 4 #### 4", "#### 5"], True, "causal", "answer_accuracy", ("answer_accuracy",)),
        (["so it is #### 4", "no mark: 5"], False, "causal", "loss", ("rouge_l", "exact_match")),
        # No run of four words: BLEU of a perfect output is 0.
        (["red", "green", "light blue"], False, "seq2seq", "chrf", ("chrf", "bleu")),
    ],
)
def test_tasks_are_judged_by_what_suits_them(
    targets: list[str], chat: bool, kind: Kind, chooses: str, metrics: tuple[str, ...]
) -> None:
    found = judging_of(read_recipe("baseline"), examples(*targets, chat=chat), kind)
    assert (found.eval_metric, found.metrics, found.automatic) == (chooses, metrics, True)


def test_what_the_recipe_names_is_kept_and_its_main_metric_chooses() -> None:
    targets = examples("我今天去北京看老朋友。")
    named = read_recipe("baseline", ["evaluation.metrics=[rouge_2, bleu]"])
    found = judging_of(named, targets, "seq2seq")
    assert (found.eval_metric, found.metrics) == ("rouge_2", ("rouge_2", "bleu"))
    assert "named by the recipe" in str(found)
    both = read_recipe("baseline", ["training.eval_metric=bleu", "evaluation.bleu_tokenizer=char"])
    found = judging_of(both, targets, "causal")
    assert (found.eval_metric, found.units.bleu_tokenizer) == ("bleu", "char")
    assert found.dev_metrics == ("rouge_l", "exact_match", "bleu")


@pytest.mark.parametrize("preset", ["demo", "teacher"])
def test_a_preset_does_not_judge_over_a_users_own_data(preset: str, tmp_path: Path) -> None:
    rows = ["source\ttarget", *["Good morning.\t我今天去北京看老朋友。"] * 3]
    path = tmp_path / "own.tsv"
    path.write_text("\n".join(rows), encoding="utf-8")
    own = [f"data.{split}={path}" for split in ("train", "dev", "test")]
    recipe = read_recipe(preset, own)
    found = judging_of(recipe, read_split(recipe, "dev"), "seq2seq")
    assert (found.eval_metric, found.metrics) == ("chrf", ("chrf", "bleu"))
    assert found.units.bleu_tokenizer == "zh"


def test_a_metric_that_the_targets_cannot_have_is_refused_before_training(folder: Path) -> None:
    for given in (
        ["data.dev=dev.tsv", "training.eval_metric=answer_accuracy"],
        ["data.test=test.tsv", "evaluation.metrics=[answer_accuracy]"],
    ):
        with pytest.raises(DataError, match="answer_accuracy must find what it compares"):
            start(*given)
    assert not (folder / "runs").exists()


@pytest.mark.skipif(HAS_KOREAN, reason="it can be loaded here")
def test_a_tokenizer_that_cannot_be_loaded_is_refused_before_training(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation.bleu_tokenizer must be one that sacrebleu"):
        start("data.dev=dev.tsv", "evaluation.bleu_tokenizer=ko-mecab")
    assert not (folder / "runs").exists()


def test_a_tokenizer_that_takes_sentences_for_words_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "dev.tsv").write_text("source\ttarget\nrot\t我今天去北京看老朋友\n", encoding="utf-8")
    start("data.dev=dev.tsv", "evaluation.bleu_tokenizer=13a", "training.eval_metric=bleu")
    assert "takes whole sentences for words in the targets of data.dev" in caplog.text


def test_the_lowest_loss_chooses_and_the_manifest_says_what_judged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["data.dev=dev.tsv", "training.eval_metric=loss", "training.eval_every=1"]
    with caplog.at_level(logging.INFO, logger="seqdistill"):
        run = start(*given, "training.steps=3", "training.learning_rate=0.2")
    manifest = cast("dict[str, Any]", run.read_manifest())
    losses = [row["dev_loss_nats"] for row in run.read_metrics() if "dev_loss_nats" in row]
    assert len(losses) == 3
    assert manifest["training"]["best"][0][0] == min(losses)  # type: ignore[type-var]
    assert manifest["judging"]["eval_metric"] == "loss"
    assert manifest["judging"]["units"] == {"bleu_tokenizer": "13a", "unspaced": False}
    assert "loss chooses checkpoints; outputs by" in caplog.text


def test_the_start_is_measured_as_its_folder_is_and_stands_beside_the_systems(
    folder: Path,
) -> None:
    tiny_model("bart", seed=1).save_pretrained("other")
    character_tokenizer(closes=True).save_pretrained("other")
    run = start("teacher.model=other", "training.learning_rate=0.1")
    results = evaluate_run(run, ["data.test=test.tsv"], progress=NoProgress())
    rows = {row.name: row for row in results.systems}
    assert list(rows) == ["teacher", "start", "baseline"]
    recipe = load_recipe(str(run.recipe_path), ["data.test=test.tsv"])
    test = read_split(recipe, "test")
    direct = evaluate_system(
        system_under_test("start", "bart", "pretrained bart", recipe, test),
        [example.target or "" for example in test],
        evaluation_settings(recipe, test, "seq2seq"),
        teacher=None,
    ).row.columns()
    beside = rows["start"].columns()
    assert {k: beside[k] for k in direct if k != "bytes"} == {
        k: v for k, v in direct.items() if k != "bytes"
    }
    assert rows["start"].perplexity != rows["baseline"].perplexity
    assert rows["start"].faults == () and rows["start"].beam.words_per_second is None
    assert results.baseline == "teacher" and results.student == "baseline"
    assert {test.system for test in results.paired_tests} == {"baseline"}
    # One student is no choice, and this one never ends.
    assert results.recommended is None
    assert "8 of 8 outputs have no end" in rows["baseline"].faults
    without = ["data.test=test.tsv", "evaluation.include_start=false"]
    again = evaluate_run(run, without, progress=NoProgress())
    assert [row.name for row in again.systems] == ["teacher", "baseline"]
    (folder / "bart" / "config.json").unlink()
    gone = evaluate_run(run, ["data.test=test.tsv"], progress=NoProgress())
    assert [row.name for row in gone.systems] == ["teacher", "baseline"]


def test_random_weights_are_no_start(folder: Path) -> None:
    run = start("student.init=scratch")
    results = evaluate_run(run, ["data.test=test.tsv"], progress=NoProgress())
    assert results.start is None


def test_tokens_between_spaces_are_no_similarity_where_there_are_none(folder: Path) -> None:
    rows = ["source\ttarget", *[f"rot {'a' * n}\t我今天去北京" for n in range(1, 9)]]
    (folder / "zh.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = ["teacher.model=bart", "data.train=zh.tsv", "sequences.decoding.n_best=2"]
    with pytest.raises(RecipeError, match="written without spaces between tokens"):
        start(*given, "sequences.similarity=smoothed_bleu_of_tokens", method="seq_inter")
    assert not (folder / "runs").exists()
