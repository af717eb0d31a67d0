"""CTranslate2 and torch share OpenMP: decoding must not slow the training that follows it."""

from __future__ import annotations

import pytest
import torch

from seqdistill.generation import ctranslate2_engine


def test_torch_keeps_its_threads_through_decoding() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ctranslate2_engine._torch_threads_kept():
            torch.set_num_threads(1)  # what a worker of one thread does to the shared setting
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_come_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), ctranslate2_engine._torch_threads_kept():
        torch.set_num_threads(before + 1)
        raise RuntimeError("decoding failed")
    assert torch.get_num_threads() == before
