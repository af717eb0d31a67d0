"""BLEU and chrF of a corpus against one reference per segment, computed by sacrebleu.

As per-segment statistics whose sum determines the score, so that resampling is adding rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.core.errors import RecipeError
from seqdistill.metrics.score import SummedStatistics, check_corpus


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a"
) -> SummedStatistics:
    """Rows of (hypothesis length, reference length, 4 matches, 4 totals), for BLEU-4.

    `tokenize` is one of sacrebleu's tokenizers: `13a` (mteval-v13a, its default), `zh`, `char`,
    `intl`, `none`, ... It is part of the signature: scores with different ones do not compare.

    Raises ValueError if the corpus is empty or the two sides differ in length.

    Source: Papineni et al. 2002; Post 2018. Exponential smoothing, mixed case.
    """
    return _statistics("bleu", BLEU(tokenize=tokenize), hypotheses, references)


def chrf_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> SummedStatistics:
    """Rows of (hypothesis, reference, matching) character n-gram counts, n = 1..6, for chrF2.

    Raises ValueError if the corpus is empty or the two sides differ in length.

    Source: Popovic 2015, with sacrebleu's effective order; beta = 2, no word n-grams.
    """
    return _statistics("chrf", CHRF(), hypotheses, references)


def bleu_tokens(tokenize: str) -> Callable[[str], Sequence[str]]:
    """How one of sacrebleu's tokenizers cuts a text into what BLEU counts.

    Raises RecipeError where the tokenizer cannot be loaded: some need further packages, and those
    of sentence pieces a file that sacrebleu downloads.
    """
    try:
        tokenizer = BLEU(tokenize=tokenize).tokenizer
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(
            f"evaluation.bleu_tokenizer must be one that sacrebleu can load here, got {tokenize} "
            f"({reason}); install what it asks for, or use char"
        ) from error
    return lambda text: tokenizer(text).split()


def _statistics(
    name: str, metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[str]
) -> SummedStatistics:
    check_corpus(hypotheses, references)
    # The two underscored methods are the contract of sacrebleu's Metric base class, through which
    # its own significance tests go; a test compares the result with its public corpus_score.
    rows = np.asarray(
        metric._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.float64
    )

    def score_of_sums(sums: Float[np.ndarray, " statistics"]) -> float:
        return float(metric._compute_score_from_stats(sums).score)

    # Only now: sacrebleu learns the number of references, part of the signature, by reading them.
    return SummedStatistics(name, str(metric.get_signature()), rows, score_of_sums)
