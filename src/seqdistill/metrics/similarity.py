"""How like its reference a single sentence is, for choosing among a teacher's outputs.

All values run from 0 to 100. A mean of sentence scores is not a corpus score (see `translation`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.core.errors import RecipeError
from seqdistill.core.version import __version__
from seqdistill.metrics.scripts import Units

BLEU_ORDER = 4


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceSimilarity:
    """A named score of hypotheses against one reference, 0 to 100; see the functions below."""

    name: str
    """The key in SIMILARITIES."""
    signature: str
    """Every setting that the values depend on, with versions."""
    metric: BLEU | CHRF
    """What counts n-grams."""
    score: Callable[[Sequence[int]], float]
    """The value of the metric's statistics of one hypothesis."""

    def __call__(self, hypotheses: Sequence[str], reference: str) -> list[float]:
        """The similarity of each hypothesis, in their order; the reference is read once."""
        # The underscored methods are the contract of sacrebleu's Metric base class.
        (read,) = self.metric._cache_references([[reference]])
        split = self.metric._preprocess_segment
        return [
            self.score(self.metric._compute_segment_statistics(split(text), read))
            for text in hypotheses
        ]


def smoothed_bleu(*, tokenize: str = "13a") -> SentenceSimilarity:
    """BLEU of a sentence as Kim and Rush's released code smooths it, 0 to 100.

    With c and r the lengths of hypothesis and reference in words, m_n the matching n-grams (clipped
    by the reference) and t_n = max(c - n + 1, 0) those of the hypothesis, n = 1 .. 4:

        100 * exp(1 - max(1, r / c)) * prod over n with t_n > 0 of (m_n / t_n) ** (1 / 4)

    where the first m_n that is 0 counts as 1/2, the second as 1/4, and so on: the geometric
    smoothing of Chen and Cherry's third technique. Orders that the hypothesis is too short for
    drop out but the exponent stays 1/4, which is generous to hypotheses of less than four words.
    An empty hypothesis has 0. With four words and a match or more it equals `sentence_bleu`; but
    without any match it is above 0, where `sentence_bleu` is 0.

    `tokenize` is one of sacrebleu's tokenizers: `13a` splits punctuation from words, `none` splits
    at white space only, `zh` and `char` serve scripts without spaces.

    Source: Kim and Rush 2016, sec. 3.3 and their published seq2seq-attn, bleu.lua; Chen and Cherry
    2014, sec. 3. Theirs counts the words of a tokenized corpus, which `13a` makes of running text.
    """
    metric = BLEU(tokenize=tokenize)
    signature = (
        f"nrefs:1|case:mixed|eff:no|tok:{metric.tokenizer.signature()}|smooth:halving"
        f"|sacrebleu:{sacrebleu.__version__}|seqdistill:{__version__}"
    )
    return SentenceSimilarity("smoothed_bleu", signature, metric, _halving_bleu)


def smoothed_bleu_of_tokens() -> SentenceSimilarity:
    """`smoothed_bleu` over what white space separates: for phonemes and tokenized corpora."""
    return dataclasses.replace(smoothed_bleu(tokenize="none"), name="smoothed_bleu_of_tokens")


def sentence_bleu(*, tokenize: str = "13a") -> SentenceSimilarity:
    """sacrebleu's sentence BLEU, 0 to 100: exponential smoothing, effective order.

    0 without any matching word. Orders that the hypothesis is too short for drop out, and the
    exponent is one over the number of those that are left.

    Source: Papineni et al. 2002; Post 2018.
    """
    metric = BLEU(tokenize=tokenize, effective_order=True, references=[[""]])
    return _of_sacrebleu("sentence_bleu", metric)


def sentence_chrf() -> SentenceSimilarity:
    """sacrebleu's sentence chrF2, 0 to 100: n-grams of 1 to 6 characters, white space left out.

    Needs no tokenizer, so it serves every script.

    Source: Popovic 2015, with sacrebleu's effective order; beta = 2, no word n-grams.
    """
    return _of_sacrebleu("sentence_chrf", CHRF(references=[[""]]))


def _of_sacrebleu(name: str, metric: BLEU | CHRF) -> SentenceSimilarity:
    """`metric` was given one reference: their number is part of its signature."""

    def score(statistics: Sequence[int]) -> float:
        return float(metric._compute_score_from_stats(statistics).score)

    return SentenceSimilarity(name, str(metric.get_signature()), metric, score)


SIMILARITIES: dict[str, Callable[..., SentenceSimilarity]] = {
    "smoothed_bleu": smoothed_bleu,
    "smoothed_bleu_of_tokens": smoothed_bleu_of_tokens,
    "sentence_bleu": sentence_bleu,
    "sentence_chrf": sentence_chrf,
}
"""Every similarity by its name, to be called for the similarity with its default settings."""


def similarity_of(name: str, units: Units) -> SentenceSimilarity:
    """The similarity of that name, counting in the units of the references.

    Raises RecipeError for `smoothed_bleu_of_tokens` of a language without spaces: a sentence would
    be one token, like nothing but itself.
    """
    if name in ("smoothed_bleu", "sentence_bleu"):
        return SIMILARITIES[name](tokenize=units.bleu_tokenizer)
    if name == "smoothed_bleu_of_tokens" and units.unspaced:
        raise RecipeError(
            "sequences.similarity must be smoothed_bleu, sentence_bleu or sentence_chrf for "
            "targets that are written without spaces between tokens, got smoothed_bleu_of_tokens; "
            "take one of them"
        )
    return SIMILARITIES[name]()


def _halving_bleu(statistics: Sequence[int]) -> float:
    """Of sacrebleu's lengths of hypothesis and reference, matches, and n-grams by order."""
    length, reference_length, *counts = statistics
    if not length:
        return 0.0
    log_score = 1.0 - max(1.0, reference_length / length)
    smallest = 1.0
    for matches, ngrams in zip(counts[:BLEU_ORDER], counts[BLEU_ORDER:], strict=True):
        if not ngrams:
            break
        if not matches:
            smallest /= 2.0
        log_score += math.log((matches or smallest) / ngrams) / BLEU_ORDER
    return 100.0 * math.exp(log_score)
