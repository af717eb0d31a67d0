"""Errors that users can mend: one family, and a hint at what was meant."""

from __future__ import annotations

import pytest

from seqdistill.core import errors


def test_every_error_of_the_house_is_a_user_error() -> None:
    own = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(own) >= 6
    assert all(issubclass(error, errors.UserError) for error in own)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("revers_kl", " Did you mean 'reverse_kl'?"),
        ("forwardkl", " Did you mean 'forward_kl'?"),
        ("banana", ""),
    ],
)
def test_the_closest_known_name_is_suggested(typed: str, hint: str) -> None:
    assert errors.did_you_mean(typed, ["forward_kl", "reverse_kl"]) == hint
