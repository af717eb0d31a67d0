"""Who wrote a sequence that a student learns from: the names, without the heavy libraries."""

from __future__ import annotations

from typing import Literal

Origin = Literal["reference", "teacher", "student", "teacher_mixed"]
"""Who wrote a sequence. `teacher_mixed`: sampled token by token from a mixture of teacher and
student (MiniLLM)."""

ROUTE = "teacher_of_row"
"""The extra of a row that says, by its place, which of several teachers is asked about it."""
STUDENT_ORIGINS: tuple[Origin, ...] = ("student", "teacher_mixed")
"""Those of sequences that the student had a hand in; of a mixed one it draws most tokens."""
