"""Error rates of a corpus against one reference per segment: token edits, and segments not exact.

A token stands between white space, or is a character. Lower is better; case is folded for words
that were spoken alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from seqdistill.core.version import __version__
from seqdistill.metrics.score import SummedStatistics, check_corpus, mean_statistics

_REMARK = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+?\)")


def token_error_rate(
    hypotheses: Sequence[str], references: Sequence[str], *, characters: bool = False
) -> SummedStatistics:
    """Rows of (token edits, reference tokens): 100 * edits / tokens, which can exceed 100.

    Edits are the fewest insertions, deletions and substitutions of one token that turn the
    reference into the output. Known as PER where tokens are phonemes, as WER where they are words,
    as CER with `characters`: every character but white space is then a token.
    Sums over the corpus, so long segments weigh more; a resample without any reference token is
    divided by 1.

    Raises ValueError if the sides differ in length, are empty or hold no reference token.

    Source: Levenshtein 1966; NIST's scoring of speech recognition.
    """
    check_corpus(hypotheses, references)
    split = _characters if characters else str.split
    pairs = [(split(h), split(r)) for h, r in zip(hypotheses, references, strict=True)]
    edits, lengths = zip(*((edit_distance(o, r), len(r)) for o, r in pairs), strict=True)
    tokens = "char" if characters else "whitespace"
    signature = f"edits:sub+ins+del|tok:{tokens}|norm:reference|version:{__version__}"
    return mean_statistics("token_error_rate", signature, edits, lengths, scale=100.0)


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> SummedStatistics:
    """As `token_error_rate`, of words as `spoken_words` finds them: WER of speech recognition."""
    check_corpus(hypotheses, references)
    counts = [word_edits(h, r) for h, r in zip(hypotheses, references, strict=True)]
    edits, lengths = zip(*counts, strict=True)
    signature = f"edits:sub+ins+del|tok:words|text:whisper-basic|version:{__version__}"
    return mean_statistics("word_error_rate", signature, edits, lengths, scale=100.0)


def word_edits(output: str, reference: str) -> tuple[int, int]:
    """How many edits of words turn the reference into the output, and its words."""
    wanted = spoken_words(reference)
    return edit_distance(spoken_words(output), wanted), len(wanted)


def spoken_words(text: str) -> list[str]:
    """The words without what cannot be heard: case, punctuation, remarks in brackets.

    Source: the `BasicTextNormalizer` of Whisper (Radford et al. 2022, app. C).
    """
    text = _REMARK.sub("", text.lower())
    letters = (
        " " if unicodedata.category(letter)[0] in "MSP" else letter
        for letter in unicodedata.normalize("NFKC", text)
    )
    return "".join(letters).lower().split()


def sequence_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> SummedStatistics:
    """Rows of (1 where the output is not exactly the reference, 1): 100 * wrong / segments.

    Tokens are compared, so the amount of white space does not matter. Known as WER in
    grapheme-to-phoneme conversion, where a segment is a word.

    Raises ValueError if the sides differ in length or are empty.

    Source: Bisani and Ney 2008, sec. 5.1.
    """
    check_corpus(hypotheses, references)
    wrong = [o.split() != r.split() for o, r in zip(hypotheses, references, strict=True)]
    signature = f"match:exact|tok:whitespace|version:{__version__}"
    return mean_statistics("sequence_error_rate", signature, wrong, scale=100.0)


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


def edit_distance(output: Sequence[str], reference: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that turn one sequence into the other.

    A metric: symmetric, zero for equals only, and never longer by a way round.

    Source: Levenshtein 1966, by the recurrence of Wagner and Fischer 1974, a row at a time.
    """
    start = 0
    shortest = min(len(output), len(reference))
    while start < shortest and output[start] == reference[start]:
        start += 1  # what both begin with costs nothing: most pairs are done here
    output, reference = output[start:], reference[start:]
    row = list(range(len(reference) + 1))
    for number, token in enumerate(output, start=1):
        diagonal, row[0] = row[0], number
        for position, wanted in enumerate(reference, start=1):
            above = row[position]
            row[position] = (
                diagonal if token == wanted else 1 + min(diagonal, above, row[position - 1])
            )
            diagonal = above
    return row[-1]
