"""`score --teacher-scores` and training from it: without a teacher, never from what is stale."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tests.jobs.runs import assert_equal_students, losses, recipe_in, trained
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.assembly import preparing
from seqdistill.core.errors import DataError, RecipeError, StaleCorpusError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.cards import model_card
from seqdistill.jobs.doctor import examine
from seqdistill.jobs.plan import plan
from seqdistill.jobs.score import plan_teacher_scores, score_teacher
from seqdistill.jobs.train import train
from seqdistill.models.loading import load_pair
from seqdistill.recipe.schema import Recipe
from seqdistill.teachers import keeping_scores, kept_scores
from seqdistill.teachers.kept_scores import SCORES, read_record

TOP_K = "teacher.scores=top_k"
EVERY = "teacher.top_k=1000"  # more than there are: all


def recipe_of(place: Path, *overrides: str, name: str = "run", scores: str = TOP_K) -> Recipe:
    kept = f"teacher.kept_scores={place / 'kept'}"
    return recipe_in(place, "word_kd", scores, kept, *overrides, name=name)


def score(recipe: Recipe) -> Path:
    return score_teacher(recipe, progress=NoProgress())


@pytest.fixture
def scored(place: Path) -> Path:
    """A place without its teacher, of which all symbols are kept."""
    assert score(recipe_of(place, EVERY)) == place / "kept"
    shutil.move(place / "teacher", place / "elsewhere")
    return place


def test_training_on_all_symbols_is_that_with_the_teacher_and_loads_none(
    scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(scored / "elsewhere", scored / "teacher")
    live = losses(trained(recipe_in(scored, "word_kd", name="live")))
    monkeypatch.setattr(preparing, "build_teachers", None)
    named = losses(trained(recipe_of(scored, EVERY, name="named")))
    shutil.rmtree(scored / "teacher")
    none = losses(trained(recipe_of(scored, EVERY, "teacher.model=null", name="none")))
    assert none == named == pytest.approx(live, rel=1e-3)


def test_a_resumed_run_is_an_uninterrupted_one(place: Path) -> None:
    scores = "teacher.scores=sampled"
    whole = trained(recipe_of(place, "teacher.dtype=fp32", scores=scores, name="whole"))
    recipe = recipe_of(place, "teacher.dtype=fp32", scores=scores, name="again")
    train(recipe, progress=NoProgress(), until=2)
    assert_equal_students(whole, trained(recipe, resume=True))


def test_rows_are_found_in_any_order_and_part_of_the_data(scored: Path) -> None:
    recipe = recipe_of(scored, EVERY, "teacher.model=null", name="shuffled")
    head, *rows = (scored / "train.tsv").read_text("utf-8").splitlines()
    random.Random(1).shuffle(rows)
    (scored / "train.tsv").write_text("\n".join([head, *rows[:15]]) + "\n", "utf-8")
    assert len(losses(trained(recipe))) == 4
    (scored / "train.tsv").write_text("\n".join([head, *rows[:15], "eins\tzwei"]) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"kept must hold .* but lacks 1 of 16, the first that of"):
        trained(recipe_of(scored, EVERY, "teacher.model=null", name="another row"))
    assert not (scored / "runs" / "another row").exists()


def test_scores_of_another_teacher_vocabulary_or_start_are_refused(scored: Path) -> None:
    without = recipe_of(scored, EVERY, "teacher.model=null", name="refused")
    tiny_model("mbart", seed=9).save_pretrained(scored / "teacher")
    character_tokenizer().save_pretrained(scored / "teacher")
    with pytest.raises(StaleCorpusError, match="its teacher_fingerprint is"):
        trained(recipe_of(scored, EVERY, name="refused"))
    with pytest.raises(StaleCorpusError, match=r"its form is top 40 of 40 .* is top 3 of 40"):
        trained(recipe_of(scored, "teacher.top_k=3", "teacher.model=null", name="refused"))
    character_tokenizer(extra=["!"]).save_pretrained(scored / "student")
    with pytest.raises(StaleCorpusError, match="its vocabulary_fingerprint is"):
        trained(without)
    character_tokenizer().save_pretrained(scored / "student")
    tiny_model("mbart", seed=8, decoder_start_token_id=4).save_pretrained(scored / "student")
    with pytest.raises(StaleCorpusError, match="its start_id is"):
        trained(without)
    assert not (scored / "runs" / "refused").exists()


def test_truncated_and_unfinished_scores_are_refused_and_the_latter_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_scores, "PART_EXAMPLES", 10)
    states, seen = keeping_scores._states, list[int]()

    def interrupted(*given: object) -> object:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return states(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(keeping_scores, "_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(recipe_of(place, EVERY))
    num_made = len([*(place / "kept").glob("*.arrow")])
    assert 0 < num_made < 3
    without = recipe_of(place, EVERY, "teacher.model=null", name="without")
    with pytest.raises(
        RecipeError, match=r"teacher\.model must .* which lacks scores-0000\d\.arrow \(\d of 3"
    ):
        trained(without)
    seen.clear()
    seen += [1] * 4
    score(recipe_of(place, EVERY))
    assert len([*(place / "kept").glob("*.arrow")]) == 3
    last = place / "kept" / "scores-00002.arrow"
    content = last.read_bytes()
    last.write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"scores-00002.arrow must have the sha256"):
        trained(without)
    last.unlink()
    with pytest.raises(DataError, match=r"scores-00002.arrow must .* found no such file"):
        trained(without)
    last.write_bytes(content)
    trained(without)
    inputs = (place / "runs" / "without" / "manifest.json").read_text("utf-8")
    assert "teacher.kept_scores" in inputs and SCORES in inputs


def test_what_would_be_kept_is_told_and_then_what_was(place: Path) -> None:
    recipe = recipe_of(place, "teacher.top_k=8", name="planned")
    planned = dict(plan_teacher_scores(recipe))
    assert planned["kept of each"] == "top 8 of 40 at temperature 1, at most 28 bytes"
    assert planned["on disk"].endswith("\u202fkB")  # of some hundred tokens
    assert not (place / "kept").exists()
    score(recipe)
    score(recipe)
    with pytest.raises(StaleCorpusError, match=r"top 8 of 40 .* and this run's is top 9 of 40"):
        score(recipe_of(place, "teacher.top_k=9"))
    shutil.rmtree(place / "teacher")
    lines = dict(plan(recipe_of(place, "teacher.top_k=8", "teacher.model=null")).lines())
    assert lines["teacher's scores"] == "top 8 of 40 at temperature 1: on disk"
    other = recipe_of(place, "teacher.top_k=9", "teacher.model=null")
    with pytest.raises(StaleCorpusError, match=r"top 8 of 40 .* and this run's is top 9 of 40"):
        plan(other)
    assert examine(other).would_fail


def test_only_a_recipe_that_keeps_scores_of_one_student_is_scored(place: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs a recipe that keeps scores, got .* dense; set"):
        score(recipe_in(place, "word_kd"))
    with pytest.raises(RecipeError, match="the recipe of one student, got one of stages"):
        score(recipe_in(place, "word_kd_seq_inter"))


def test_the_card_of_a_student_of_kept_scores_names_their_teacher(scored: Path) -> None:
    run = trained(recipe_of(scored, EVERY, "teacher.model=null", name="without"))
    name = str(scored / "teacher")
    assert read_record(scored / "kept").teacher == name
    pair = load_pair(str(run.student_path))
    exported = {"form": "dense", "weight_bytes": 1, "agreement": None, "equal_outputs": None}
    told = model_card(pair, run, exported)
    assert "distilled from teacher" in told and "- teacher: teacher; licence: unknown" in told
