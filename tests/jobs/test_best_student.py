"""Which student a comparison recommends: by the main metric, whichever way it counts."""

from __future__ import annotations

from seqdistill.jobs.evaluate import best_student


def test_the_best_student_is_the_highest_by_bleu_and_the_lowest_by_an_error_rate() -> None:
    rows: list[dict[str, object]] = [
        {"name": "teacher", "method": "teacher", "bleu_beam": 40.0, "token_error_rate_beam": 1.0},
        {"name": "a", "method": "seq_kd", "bleu_beam": 30.0, "token_error_rate_beam": 9.0},
        {"name": "b", "method": "word_kd", "bleu_beam": 20.0, "token_error_rate_beam": 5.0},
    ]
    assert best_student(rows, "bleu") == "a"
    assert best_student(rows, "token_error_rate") == "b"
    assert best_student(rows[:1], "bleu") == "teacher"
