"""How much and how often a system writes what others wrote, counted in tokens and sentences.

Good for seeing a system that stops early or runs on. Does not measure quality.
"""

from __future__ import annotations

from collections.abc import Sequence


def length_ratio(num_written: Sequence[int], num_reference: Sequence[int]) -> float:
    """Tokens written / tokens of the references, over the whole corpus; 1 is equal.

    Both are counts per sentence in one vocabulary, with or without the end token on both sides.

    Raises ValueError if the sides differ in length or the references hold no token.
    """
    _check_same_length(num_written, num_reference)
    if not any(num_reference):
        raise ValueError("the length ratio needs references with tokens, got none")
    return sum(num_written) / sum(num_reference)


def exact_match_share(outputs: Sequence[str], others: Sequence[str]) -> float:
    """Share of sentences, in [0, 1], on which two systems wrote the same text.

    White space is compared as one space, and stripped at both ends. With the teacher's outputs as
    `others` it says how often a student's user would not see the change.

    Raises ValueError if the sides differ in length or are empty.
    """
    _check_same_length(outputs, others)
    if not outputs:
        raise ValueError("the exact match share needs at least one sentence, got none")
    same = sum(
        output.split() == other.split() for output, other in zip(outputs, others, strict=True)
    )
    return same / len(outputs)


def _check_same_length(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise ValueError(
            "both systems must have one output per sentence, "
            f"got {len(first)} and {len(second)} outputs"
        )
