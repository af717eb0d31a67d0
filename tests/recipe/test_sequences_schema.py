"""Who writes, who needs references, who is decoded beforehand: as the shares say."""

from __future__ import annotations

from typing import Any

import pytest

from seqdistill.recipe.sequences_schema import SequencesSection


def mixture(share: Any, *, origin: str = "mixture", **more: Any) -> SequencesSection:
    return SequencesSection.model_validate(
        {"origin": origin, "mixture": {"student_fraction": share, **more}}
    )


ALWAYS = [1, 1.0, {"start": 1}, {"start": 1, "end": 1, "shape": "exponential"},
          {"start": 1, "shape": "adaptive"}]  # fmt: skip
NEVER = [0, 0.0, {"start": 0, "end": 0}, {"start": 0, "end": 0, "shape": "adaptive"}]
NOW_AND_THEN = [0.5, {"start": 0}, {"start": 1, "end": 0}, {"start": 0, "shape": "adaptive"},
                {"start": 1, "end": 0.5, "shape": "adaptive"}]  # fmt: skip


@pytest.mark.parametrize("coin", ["batch", "example"])
@pytest.mark.parametrize("others", ["reference", "teacher"])
@pytest.mark.parametrize("origin", ["mixture", "replay"])
@pytest.mark.parametrize("share", ALWAYS)
def test_a_student_that_writes_every_sequence_needs_nobody_elses(
    share: Any, origin: str, others: str, coin: str
) -> None:
    found = mixture(share, origin=origin, others=others, coin=coin)
    assert found.writers == ("student",) and found.rolls_out
    assert not found.has_two_origins and not found.decoded_by_teacher
    assert found.needs_references is None


@pytest.mark.parametrize("coin", ["batch", "example"])
@pytest.mark.parametrize("origin", ["mixture", "replay"])
@pytest.mark.parametrize("share", NEVER)
def test_a_student_that_never_writes_samples_nothing(share: Any, origin: str, coin: str) -> None:
    found = mixture(share, origin=origin, coin=coin)
    assert found.writers == ("reference",) and not found.rolls_out and not found.has_two_origins
    needing = str(found.needs_references)
    assert needing.startswith("sequences.mixture.others: reference with student_fraction: 0")
    by_teacher = mixture(share, origin=origin, coin=coin, others="teacher")
    assert by_teacher.writers == ("teacher",) and by_teacher.decoded_by_teacher
    assert by_teacher.needs_references is None


@pytest.mark.parametrize("origin", ["mixture", "replay"])
@pytest.mark.parametrize("share", NOW_AND_THEN)
def test_any_other_share_has_both_write(share: Any, origin: str) -> None:
    found = mixture(share, origin=origin)
    assert found.writers == ("student", "reference")
    assert found.rolls_out and found.has_two_origins
    assert "sequences.mixture.others: reference" in str(found.needs_references)


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_with_the_coin_both_every_prompt_is_answered_by_both_whatever_the_share(
    share: float,
) -> None:
    found = mixture(share, coin="both", others="teacher")
    assert found.writers == ("student", "teacher")
    assert found.rolls_out and found.has_two_origins and found.decoded_by_teacher
    needing = mixture(share, coin="both").needs_references
    assert needing == "sequences.mixture.others: reference with coin: both"


@pytest.mark.parametrize(
    ("origin", "writers", "decoded", "needing"),
    [
        ("reference", ("reference",), False, "sequences.origin: reference"),
        ("teacher", ("teacher",), True, None),
        ("interpolation", ("teacher",), True, "sequences.origin: interpolation"),
        ("student", ("student",), False, None),
        ("replay", ("student",), False, None),
    ],
)
def test_without_a_mixture_one_writer_writes_all(
    origin: str, writers: tuple[str, ...], decoded: bool, needing: str | None
) -> None:
    found = SequencesSection.model_validate({"origin": origin})
    assert found.writers == writers and not found.has_two_origins
    assert found.decoded_by_teacher == decoded
    assert found.needs_references == needing
