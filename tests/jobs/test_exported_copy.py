"""The int8 copy beside a student: measured with it, and again whenever the run is evaluated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import fill, start

from seqdistill.core.errors import EngineError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.export import INT8_FOLDER
from seqdistill.jobs.systems import exported_system
from seqdistill.metrics.translation import bleu_statistics
from seqdistill.records.results import Results
from seqdistill.records.run_directory import RunDirectory


def evaluated(run: RunDirectory, *overrides: str, export: bool = False) -> Results:
    given = ["data.test=test.tsv", *overrides]
    return evaluate_run(run, given, progress=NoProgress(), export=export)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, measured with its copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fill(tmp_path_factory.mktemp("trained")))
        evaluated(start("teacher.model=bart"), export=True)
        return Path.cwd()


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy"))
    return RunDirectory.open("runs/x")


def test_an_existing_copy_is_measured_again_and_keeps_its_row(run: RunDirectory) -> None:
    (first,) = run.read_results().exports
    assert (first.copy_of, first.folder) == ("baseline", INT8_FOLDER)
    content = (run.path / INT8_FOLDER / "model.bin").read_bytes()
    results = evaluated(run)
    (again,) = results.exports
    assert (run.path / INT8_FOLDER / "model.bin").read_bytes() == content
    old, new = first.columns(), again.columns()
    varying = {key for key in old if "_per_second_" in key}
    assert len(varying) == 12
    assert {k: v for k, v in new.items() if k not in varying} == {
        k: v for k, v in old.items() if k not in varying
    }
    assert run.read_results() == results


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


def test_a_copy_of_a_student_that_is_not_in_the_run_is_left_out_with_a_warning(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where a comparison's members were trained again after its student was chosen."""
    comparison = RunDirectory.create(folder / "runs" / "all")
    member = start("output_dir=runs/all/baseline")
    recipe = member.read_recipe().replace("compare: []", "compare: [baseline]")
    comparison.write_recipe(recipe)
    shutil.copytree(member.student_path, comparison.student_path)
    (comparison.path / INT8_FOLDER).mkdir()
    assert exported_system(comparison, []) == "baseline"
    (comparison.student_path / "config.json").write_text("{}", encoding="utf-8")
    assert exported_system(comparison, []) is None
    assert "no student of this run" in caplog.text


def test_a_copy_that_cannot_be_made_leaves_no_older_one_behind(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert (run.path / INT8_FOLDER).exists()

    def refuse(*_args: object, **_named: object) -> None:
        raise EngineError("not of this model")

    monkeypatch.setattr("seqdistill.jobs.evaluate.export_int8", refuse)
    assert evaluated(run, export=True).exports == ()
    assert not (run.path / INT8_FOLDER).exists()
    assert "which was made before, is removed" in caplog.text


def test_every_row_has_its_analyses_and_the_teacher_is_not_held_against_itself(
    run: RunDirectory,
) -> None:
    metrics = "evaluation.metrics=[token_error_rate,sequence_error_rate,chrf]"
    results = evaluated(run, metrics, export=True)
    teacher, student = results.systems
    (copy,) = results.exports
    assert [(m.name, m.higher_is_better) for m in results.metrics] == [
        ("token_error_rate", False),
        ("sequence_error_rate", False),
        ("chrf", True),
    ]
    common = {
        "greedy_beam_gap", "length_greedy", "length_ratio_beam", "mode_share_low",
        "token_error_rate_greedy_high", "sequence_error_rate_beam", "chrf_beam_low",
        "words_per_second_beam_low",
    }  # fmt: skip
    own = {"perplexity_low", "entropy_nats"}
    of_students = {"token_error_rate_to_teacher", "exact_match_to_teacher"}
    assert common | own <= teacher.columns().keys()
    assert common | own | of_students | {"agreement_top1"} <= student.columns().keys()
    assert common | of_students <= copy.columns().keys()
    assert not (of_students | {"agreement_top1"}) & teacher.columns().keys()
    assert "perplexity" not in copy.columns()
    assert list(results.entropy_by_position) == ["teacher", "baseline"]
    assert [(test.metric, test.mode) for test in results.paired_tests] == [
        ("token_error_rate", "beam"),
        ("token_error_rate", "greedy"),
    ]
