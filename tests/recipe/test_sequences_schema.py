"""Who writes, who needs references, who is decoded beforehand: as the shares say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from seqdistill.recipe.sequences_schema import SequencesSection

ALWAYS = [1, {"start": 1}, {"start": 1, "end": 1, "shape": "exponential"},
          {"start": 1, "shape": "adaptive"}]  # fmt: skip
NEVER = [0, {"start": 0, "end": 0}, {"start": 0, "end": 0, "shape": "adaptive"}]
NOW_AND_THEN = [0.5, {"start": 0}, {"start": 1, "end": 0}, {"start": 0, "shape": "adaptive"},
                {"start": 1, "end": 0.5, "shape": "adaptive"}, {"shape": "measured"}]  # fmt: skip


@pytest.mark.parametrize("others", ["reference", "teacher"])
@pytest.mark.parametrize("origin", ["mixture", "replay"])
def test_the_share_of_a_mixture_says_who_writes(origin: str, others: str) -> None:
    def check(share: Any, coin: str, writers: tuple[str, ...], needing: str | None) -> None:
        mixture = {"student_fraction": share, "coin": coin, "others": others}
        found = SequencesSection.model_validate({"origin": origin, "mixture": mixture})
        assert found.writers == writers
        assert found.rolls_out == ("student" in writers)
        assert found.has_two_origins == (len(writers) == 2)
        assert found.decoded_by_teacher == ("teacher" in writers)
        wanted = needing if others == "reference" else None
        assert (found.needs_references or "").startswith(wanted or "")
        assert (found.needs_references is None) == (wanted is None)

    reference = "sequences.mixture.others: reference with "
    for coin in ("batch", "example"):
        for share in ALWAYS:
            check(share, coin, ("student",), None)
        for share in NEVER:
            check(share, coin, (others,), f"{reference}student_fraction: 0")
        for share in NOW_AND_THEN:
            check(share, coin, ("student", others), f"{reference}student_fraction: ")
    for share in itertools.chain(ALWAYS, NEVER, NOW_AND_THEN):  # every prompt is answered by both
        check(share, "both", ("student", others), f"{reference}coin: both")


@pytest.mark.parametrize(
    ("origin", "writer", "needs"),
    [
        ("reference", "reference", True),
        ("teacher", "teacher", False),
        ("interpolation", "teacher", True),
        ("student", "student", False),
        ("replay", "student", False),
    ],
)
def test_without_a_mixture_one_writer_writes_all(origin: str, writer: str, needs: bool) -> None:
    found = SequencesSection.model_validate({"origin": origin})
    assert found.writers == (writer,) and not found.has_two_origins
    assert found.decoded_by_teacher == (writer == "teacher")
    assert found.needs_references == (f"sequences.origin: {origin}" if needs else None)
