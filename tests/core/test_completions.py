"""Completions as tensors: rows come back as they went in, whatever is cut, joined or unknown."""

from __future__ import annotations

import torch

from seqdistill.core.completions import Completions

ROWS = [(5, 6, 2), (7,), (8, 9)]
SOME = Completions.of_rows(
    ROWS, finished=[True, False, False], log_probs=[(-1.0, -2.0, -3.0), (-4.0,), (-5.0, -6.0)]
)


def test_rows_selected_and_joined_are_the_rows_that_went_in() -> None:
    assert SOME.rows() == ROWS
    part = SOME.select([2, 0, 2])
    assert part.rows() == [ROWS[2], ROWS[0], ROWS[2]]
    assert part.finished.tolist() == [False, True, False]
    whole = Completions.concatenated([SOME.select([1]), part])
    assert whole.rows() == [ROWS[1], *part.rows()]
    assert whole.log_probs is not None
    assert whole.log_probs.tolist() == [
        [-4.0, 0.0, 0.0],
        [-5.0, -6.0, 0.0],
        [-1.0, -2.0, -3.0],
        [-5.0, -6.0, 0.0],
    ]
    assert len(Completions.of_rows([])) == len(SOME.select([])) == 0


def test_what_is_unknown_of_some_rows_is_nan_there_and_none_where_all_are() -> None:
    unknown = Completions.of_rows([(4, 4, 4, 2)])
    joined = Completions.concatenated([SOME, unknown])
    assert joined.log_probs is not None and joined.token_ids.shape == (4, 4)
    assert joined.log_probs[3].isnan().all() and not joined.log_probs[:3].isnan().any()
    assert Completions.concatenated([unknown, unknown]).log_probs is None
    assert torch.equal(joined.finished, torch.tensor([True, False, False, True]))
