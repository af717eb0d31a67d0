"""What `evaluate` finds of a run: teacher, start, student and its int8 copy, on one engine."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import fill, start
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.assembly.data import read_split
from seqdistill.core.errors import EngineError
from seqdistill.core.progress import NoProgress
from seqdistill.evaluation import speed
from seqdistill.evaluation.systems import SystemResult, SystemUnderTest, evaluate_system
from seqdistill.generation.verification import TOLERANCES
from seqdistill.jobs import evaluate as evaluation
from seqdistill.jobs import systems
from seqdistill.jobs.evaluate import evaluate_run, evaluation_settings
from seqdistill.jobs.export import INT8_FOLDER
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.systems import exported_system, system_under_test
from seqdistill.metrics.translation import bleu_statistics
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.results import Results, System, number
from seqdistill.records.run_directory import RunDirectory

TEST = "data.test=test.tsv"


def evaluated(run: RunDirectory, *overrides: str, **given: Any) -> Results:
    return evaluate_run(run, [TEST, *overrides], progress=NoProgress(), **given)


def timeless(row: System, *more: str) -> dict[str, object]:
    """The columns without speed."""
    columns = row.columns().items()
    return {key: value for key, value in columns if "_per_second_" not in key and key not in more}


def measured(run: RunDirectory, name: str, model: str, init: str) -> SystemResult:
    """The system alone, by `evaluate_system`."""
    recipe = load_recipe(str(run.recipe_path), [TEST])
    test = read_split(recipe, "test")
    return evaluate_system(
        system_under_test(name, model, init, recipe, test),
        [example.target or "" for example in test],
        evaluation_settings(recipe, test, "seq2seq"),
        teacher=None,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose teacher is another model than its start, measured with its copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fill(tmp_path_factory.mktemp("trained")))
        tiny_model("bart", seed=1).save_pretrained("other")
        character_tokenizer(closes=True).save_pretrained("other")
        evaluated(start("teacher.model=other", "training.learning_rate=0.1"), export=True)
        return Path.cwd()


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy"))
    return RunDirectory.open("runs/x")


def test_an_existing_copy_and_a_known_teacher_are_measured_as_before(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run.read_results()
    content = (run.path / INT8_FOLDER / "model.bin").read_bytes()
    known, names = measured(run, "teacher", "other", "trained"), []
    before = known.row

    def watched(system: SystemUnderTest, *given: Any, **named: Any) -> SystemResult:
        names.append(system.name)
        return evaluate_system(system, *given, **named)

    monkeypatch.setattr(evaluation, "evaluate_system", watched)
    again = evaluated(run, measured_teacher=known)
    assert names == ["start", "baseline"] and known.row == before
    assert (run.path / INT8_FOLDER / "model.bin").read_bytes() == content
    (copy,) = first.exports
    assert (copy.copy_of, copy.folder) == ("baseline", INT8_FOLDER)
    for old, new in zip((*first.systems, copy), (*again.systems, *again.exports), strict=True):
        assert old.columns().keys() == new.columns().keys()
        assert timeless(old) == timeless(new)
    assert again.paired_tests == first.paired_tests
    assert again.entropy_by_position == first.entropy_by_position
    assert run.read_results() == again


def test_all_outputs_are_kept_and_give_the_scores_again(run: RunDirectory) -> None:
    results = run.read_results()
    outputs: list[dict[str, Any]] = run.read_outputs()
    rows = [*results.systems, *results.exports]
    assert [set(line["beam"]) for line in outputs] == [{r.name for r in rows}] * len(outputs)
    references = [line["reference"] for line in outputs]
    for row in rows:
        for mode, decoded in (("greedy", row.greedy), ("beam", row.beam)):
            texts = [line[mode][row.name] for line in outputs]
            assert bleu_statistics(texts, references).score().value == decoded.scores["bleu"].value


@pytest.mark.parametrize("kept", [True, False])
def test_one_system_at_a_time_is_in_memory_unless_all_are_small(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    if not kept:
        monkeypatch.setattr(speed, "KEPT_PARAMETERS", 0)
    engine = "ctranslate2" if kept else "transformers"
    loaded: list[weakref.ref[Any]] = []

    def load(*given: Any, **named: Any) -> SystemUnderTest:
        gc.collect()
        assert all(model() is None for model in loaded), "the one before is still there"
        system = system_under_test(*given, **named)
        loaded.append(weakref.ref(system.model.module))
        return system

    monkeypatch.setattr(systems, "system_under_test", load)
    given = ("evaluation.include_start=false", f"evaluation.engine={engine}")
    found = evaluated(run, *given, export=True)
    assert (len(found.systems), len(found.exports)) == (2, 1)
    # Once to measure, the student once more for its copy, then all three for the rounds of speed.
    assert len(loaded) == 2 + 1 + 3 * (1 if kept else 3)


def test_the_start_is_measured_as_its_folder_is_and_stands_beside_the_systems(
    run: RunDirectory,
) -> None:
    results = run.read_results()
    rows = {row.name: row for row in results.systems}
    assert list(rows) == ["teacher", "start", "baseline"]
    direct = timeless(measured(run, "start", "bart", "pretrained bart").row, "bytes")
    assert {key: rows["start"].columns()[key] for key in direct} == direct
    assert rows["start"].perplexity != rows["baseline"].perplexity
    assert rows["start"].faults == () and rows["start"].beam.words_per_second is None
    assert results.baseline == "teacher" and results.student == "baseline"
    assert {test.system for test in results.paired_tests} == {"baseline"}
    # One student is no choice, and this one never ends.
    assert results.recommended is None
    assert "8 of 8 outputs have no end" in rows["baseline"].faults
    shutil.rmtree("bart")
    gone = evaluated(run)
    assert [row.name for row in gone.systems] == ["teacher", "baseline"]


@pytest.mark.usefixtures("folder")
def test_random_weights_are_no_start() -> None:
    assert evaluated(start("student.init=scratch")).start is None


def test_a_copy_of_a_student_that_is_not_in_the_run_is_left_out_with_a_warning(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a comparison's members were trained again after its student was chosen."""
    comparison = RunDirectory.create(Path("runs/all"))
    comparison.write_recipe(run.read_recipe().replace("compare: []", "compare: [baseline]"))
    shutil.copytree(run.path, comparison.path / "baseline")
    shutil.copytree(run.student_path, comparison.student_path)
    (comparison.path / INT8_FOLDER).mkdir()
    assert exported_system(comparison, []) == "baseline"
    (comparison.student_path / "config.json").write_text("{}", encoding="utf-8")
    assert exported_system(comparison, []) is None
    assert "no student of this run" in caplog.text


def test_a_copy_that_cannot_be_made_leaves_no_older_one_behind(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise EngineError("not of this model")

    monkeypatch.setattr(evaluation, "export_int8", refuse)
    assert evaluated(run, export=True).exports == ()
    assert not (run.path / INT8_FOLDER).exists()
    assert "which was made before, is removed" in caplog.text


def test_every_row_has_its_analyses_and_the_teacher_is_not_held_against_itself(
    run: RunDirectory,
) -> None:
    metrics = "evaluation.metrics=[token_error_rate,sequence_error_rate,chrf]"
    results = evaluated(run, metrics, export=True)
    teacher, _, student = (row.columns().keys() for row in results.systems)
    (copy,) = (row.columns().keys() for row in results.exports)
    assert [(m.name, m.higher_is_better) for m in results.metrics] == [
        ("token_error_rate", False),
        ("sequence_error_rate", False),
        ("chrf", True),
    ]
    common = {"greedy_beam_gap", "length_ratio_beam", "mode_share_low", "chrf_beam_low"}
    own = {"perplexity_low", "entropy_nats"}
    of_students = {"token_error_rate_to_teacher", "exact_match_to_teacher"}
    assert common | own <= teacher and not (of_students | {"agreement_top1"}) & teacher
    assert common | own | of_students | {"agreement_top1"} <= student
    assert common | of_students <= copy and "perplexity" not in copy
    assert list(results.entropy_by_position) == ["teacher", "start", "baseline"]
    assert [(test.metric, test.mode) for test in results.paired_tests] == [
        ("token_error_rate", "beam"),
        ("token_error_rate", "greedy"),
    ]


def test_students_are_measured_on_their_own_outputs_beside_the_teacher_where_asked(
    run: RunDirectory,
) -> None:
    plain = {row.name: row.columns().keys() for row in run.read_results().systems}
    asked = "evaluation.on_policy=true"
    first = evaluated(run, asked)
    forced, own = {"bleu_forced", "chrf_forced"}, {"kl_student_teacher_own", "acceptance_own"}
    for row in first.systems:
        more = row.columns().keys() - plain[row.name]
        assert forced <= more
        assert (own <= more) == (row.name != "teacher"), "a teacher is at no distance from itself"
    for row in first.systems[1:]:
        assert (number(row.kl_student_teacher_own) or 0.0) > 0.0
        assert 0.0 < (number(row.topk_overlap_own) or 0.0) <= 1.0
        assert 0.0 < (number(row.acceptance_own) or 0.0) < 1.0
    outputs: list[dict[str, Any]] = run.read_outputs()
    for row in first.systems:
        texts = [line["forced"][row.name] for line in outputs]
        assert row.forced is not None
        score = bleu_statistics(texts, [line["reference"] for line in outputs]).score().value
        assert row.forced.scores["bleu"].value == score
    again = evaluated(run, asked)
    assert [timeless(row) for row in again.systems] == [timeless(row) for row in first.systems]


def test_students_of_another_vocabulary_are_not_compared_on_their_samples(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    character_tokenizer(closes=True, extra=["!"]).save_pretrained("other")
    asked = ("evaluation.on_policy=true", "evaluation.include_start=false")
    teacher, student = evaluated(run, *asked).systems
    assert teacher.forced is not None and student.forced is not None
    assert student.kl_student_teacher_own is None
    assert "baseline is not compared with the teacher on its own samples: " in caplog.text
    assert "must share one vocabulary" in caplog.text


@pytest.mark.usefixtures("folder")
def test_without_a_teacher_the_recovery_rate_is_measured_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = evaluated(start(model="gemma2"), "evaluation.on_policy=true")
    assert all(row.forced and row.kl_student_teacher_own is None for row in found.systems)
    assert "the recovery rate alone" in caplog.text


@pytest.mark.parametrize("agrees", [True, False])
def test_auto_takes_ctranslate2_where_it_agrees_and_else_transformers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, agrees: bool
) -> None:
    if not agrees:
        monkeypatch.setitem(TOLERANCES, "float32", (-1.0, -1.0))
    rollouts = "sequences.rollouts={engine: auto, max_new_tokens: 12}"
    given = ("data.dev=dev.tsv", TEST, "teacher.model=bart", "training.eval_every=1", rollouts)
    run = start(*given, method="on_policy_kd")
    name = "ctranslate2" if agrees else "transformers"
    engines = json.loads(run.manifest_path.read_text("utf-8"))["engines"]
    assert engines["evaluation"] == f"{name} float32"
    assert agrees or engines["sequences.rollouts"] == name  # else the faster one
    said = [line for line in caplog.messages if "evaluation.engine: auto takes transf" in line]
    results = evaluated(run, export=True)
    assert [row.engine for row in results.systems] == [f"{name} float32"] * 2
    if not agrees:
        assert len(said) == 1 and "off by up to" in said[0]
        assert results.exports == () and not (run.path / INT8_FOLDER).exists()
        assert "there is no int8 copy of" in caplog.text
        return
    assert not said
    (copy,) = results.exports
    assert copy.engine == "ctranslate2 int8"
    agreement = copy.copy_agreement
    assert agreement is not None and agreement.num_tokens > 30
    assert 0.5 < agreement.argmax_share <= 1.0
    assert 0.0 < agreement.mean_nats <= agreement.max_nats
    assert (agreement.longest or 0) >= 12


def test_one_system_that_needs_transformers_brings_all_there_and_generate_falls_back(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model("llama").save_pretrained(folder / "student")
    character_tokenizer(closes=False).save_pretrained(folder / "student")
    # The soft caps of a Gemma 2 are not CTranslate2's.
    run = start(TEST, "teacher.model=gemma2", model="student")
    results = evaluated(run)
    assert [row.engine for row in results.systems] == ["transformers float32"] * 3
    assert "all systems decode with transformers, as teacher must" in caplog.text

    def written(engine: str) -> list[str]:
        texts = ["rot", "blau gelb " * 3]
        given: dict[str, Any] = {"max_new_tokens": 8, "threads": 1, "progress": NoProgress()}
        return generate_texts("gemma2", texts, engine=engine, **given)

    assert written("auto") == written("transformers")
    assert "--engine: auto takes transformers" in caplog.text
    with pytest.raises(EngineError, match=r"use --engine=transformers$"):
        written("ctranslate2")
