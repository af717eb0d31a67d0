"""ROUGE of summaries against one reference each, computed by rouge-score, in any script.

Words are runs of letters and digits, and single characters where a script has no spaces (see
`scripts`). English is read as rouge-score reads it. Sentences are not split: no ROUGE-Lsum.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import Literal

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from seqdistill.metrics.score import SummedStatistics, check_corpus, mean_statistics
from seqdistill.metrics.scripts import words

RougeType = Literal["rouge1", "rouge2", "rougeL"]
"""As rouge-score calls them."""


class WordTokenizer(Tokenizer):
    """rouge-score's own tokens of a text of ASCII; of others the words in lower case.

    Words of a to z are stemmed as rouge-score does wherever they stand; others are not.
    """

    def __init__(self) -> None:
        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of the text, in their order."""
        if text.isascii():
            found: list[str] = self._ascii.tokenize(text)
            return found
        return [
            token
            for word in words(text.lower())
            for token in (self._ascii.tokenize(word) if word.isascii() else (word,))
        ]


@functools.cache
def _scorer(rouge_type: RougeType) -> RougeScorer:
    return RougeScorer([rouge_type], tokenizer=WordTokenizer())


def rouge_f1(rouge_type: RougeType, hypothesis: str, reference: str) -> float:
    """The F1 of one summary, 0 to 1: of shared words, shared word pairs, or the longest common
    subsequence.

    Words are in lower case and, when of more than three letters of a to z, stemmed by Porter's
    stemmer. Zero where either side holds no word.
    """
    return float(_scorer(rouge_type).score(reference, hypothesis)[rouge_type].fmeasure)


def _statistics(
    rouge_type: RougeType, hypotheses: Sequence[str], references: Sequence[str]
) -> SummedStatistics:
    """Rows of (F1, 1): 100 * mean F1. See `rouge_f1`.

    Raises ValueError if the sides differ in length or are empty.

    Source: Lin 2004; stemmed, as the numbers published for XSum and CNN/DailyMail are.
    """
    check_corpus(hypotheses, references)
    values = [rouge_f1(rouge_type, o, r) for o, r in zip(hypotheses, references, strict=True)]
    version = importlib.metadata.version("rouge-score")
    signature = (
        f"{rouge_type}|f1|mean|tok:words+unspaced-characters|stem:porter-a-to-z|case:lower"
        f"|rouge-score:{version}"
    )
    name = f"rouge_{rouge_type.removeprefix('rouge').lower()}"
    return mean_statistics(name, signature, values, scale=100.0)


rouge_1_statistics = functools.partial(_statistics, "rouge1")
"""Of words."""
rouge_2_statistics = functools.partial(_statistics, "rouge2")
"""Of pairs of neighbouring words."""
rouge_l_statistics = functools.partial(_statistics, "rougeL")
"""Of the longest common subsequence; a whole summary is one sequence: rougeL, not rougeLsum."""
