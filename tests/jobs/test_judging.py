"""What judges a run is decided by its targets, said, and never zero by construction."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest
from tests.jobs.runs import start
from tests.metrics.test_scripts import LANGUAGES

from seqdistill.assembly.data import read_split
from seqdistill.assembly.judging import judging_of
from seqdistill.core.batch import Kind
from seqdistill.data.examples import Example, Turn
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.recipe.resolving import read_recipe

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
