"""How like its reference a single sentence is, for many hypotheses of one source at once.

For choosing among a teacher's outputs (see `sources.interpolation`). All values run from 0 to 100.
Does not measure systems: a mean of sentence scores is not a corpus score (see `translation`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import sacrebleu
from jaxtyping import Int
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.core.errors import RecipeError
from seqdistill.core.version import __version__
from seqdistill.metrics.scripts import Units

BLEU_ORDER = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Overlap:
    """What a hypothesis shares with its reference, both as sequences of symbols."""

    hypothesis_length: int
    reference_length: int
    matches: tuple[int, ...]
    """For n = 1, 2, ...: n-grams of the hypothesis that the reference has, none counted more often
    than the reference has it."""

    @property
    def hypothesis_ngrams(self) -> tuple[int, ...]:
        """For n = 1, 2, ...: how many n-grams the hypothesis has."""
        return tuple(max(self.hypothesis_length - n, 0) for n in range(len(self.matches)))

    @property
    def reference_ngrams(self) -> tuple[int, ...]:
        """For n = 1, 2, ...: how many n-grams the reference has."""
        return tuple(max(self.reference_length - n, 0) for n in range(len(self.matches)))


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceSimilarity:
    """A named score of hypotheses against one reference, 0 to 100; see the functions below."""

    name: str
    """The key in SIMILARITIES."""
    signature: str
    """Every setting that the values depend on, with versions."""
    symbols: Callable[[str], Sequence[str]]
    """A text as what n-grams are made of: words or characters."""
    max_order: int
    """The longest n-grams that count."""
    score: Callable[[Overlap], float]
    """The value of one hypothesis. Equal overlaps have equal values, to the last bit."""

    def __call__(self, hypotheses: Sequence[str], reference: str) -> list[float]:
        """The similarity of each hypothesis, in their order; the reference is read once."""
        reference_symbols = self.symbols(reference)
        hypotheses_symbols = [self.symbols(text) for text in hypotheses]
        matches = clipped_matches(hypotheses_symbols, reference_symbols, max_order=self.max_order)
        return [
            self.score(Overlap(len(symbols), len(reference_symbols), tuple(row)))
            for symbols, row in zip(hypotheses_symbols, matches.tolist(), strict=True)
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
    at white space only, `zh` and `char` serve scripts without spaces, of which `13a` would take a
    whole sentence for a word. Start and end symbols are no words.

    Source: Kim and Rush 2016, sec. 3.3 and their published seq2seq-attn, bleu.lua; Chen and Cherry
    2014, sec. 3. Theirs counts the words of a tokenized corpus, which `13a` makes of running text.
    """
    metric = _sacrebleu_bleu(tokenize)
    signature = (
        f"nrefs:1|case:mixed|eff:no|tok:{metric.tokenizer.signature()}|smooth:halving"
        f"|sacrebleu:{sacrebleu.__version__}|seqdistill:{__version__}"
    )
    name = "smoothed_bleu"
    return SentenceSimilarity(name, signature, _words_of(metric), BLEU_ORDER, _halving_bleu)


def smoothed_bleu_of_tokens() -> SentenceSimilarity:
    """`smoothed_bleu` over what white space separates: for phonemes and tokenized corpora."""
    return dataclasses.replace(smoothed_bleu(tokenize="none"), name="smoothed_bleu_of_tokens")


def sentence_bleu(*, tokenize: str = "13a") -> SentenceSimilarity:
    """sacrebleu's sentence BLEU, 0 to 100: exponential smoothing, effective order.

    0 without any matching word. Orders that the hypothesis is too short for drop out, and the
    exponent is one over the number of those that are left.

    Source: Papineni et al. 2002; Post 2018.
    """
    metric = _sacrebleu_bleu(tokenize)

    def score(overlap: Overlap) -> float:
        lengths = (overlap.hypothesis_length, overlap.reference_length)
        statistics = [*lengths, *overlap.matches, *overlap.hypothesis_ngrams]
        return float(metric._compute_score_from_stats(statistics).score)

    signature = str(metric.get_signature())
    return SentenceSimilarity("sentence_bleu", signature, _words_of(metric), BLEU_ORDER, score)


def sentence_chrf() -> SentenceSimilarity:
    """sacrebleu's sentence chrF2, 0 to 100: n-grams of 1 to 6 characters, white space left out.

    Needs no tokenizer, so it serves every script.

    Source: Popovic 2015, with sacrebleu's effective order; beta = 2, no word n-grams.
    """
    metric = CHRF(references=[[""]])

    def score(overlap: Overlap) -> float:
        orders = zip(
            overlap.hypothesis_ngrams, overlap.reference_ngrams, overlap.matches, strict=True
        )
        statistics = list(itertools.chain.from_iterable(orders))
        return float(metric._compute_score_from_stats(statistics).score)

    def characters(text: str) -> str:
        return "".join(text.split())

    signature = str(metric.get_signature())
    return SentenceSimilarity("sentence_chrf", signature, characters, metric.char_order, score)


SIMILARITIES: dict[str, Callable[[], SentenceSimilarity]] = {
    "smoothed_bleu": smoothed_bleu,
    "smoothed_bleu_of_tokens": smoothed_bleu_of_tokens,
    "sentence_bleu": sentence_bleu,
    "sentence_chrf": sentence_chrf,
}
"""Every similarity by its name, to be called for the similarity with its default settings."""
_OF_WORDS = {"smoothed_bleu": smoothed_bleu, "sentence_bleu": sentence_bleu}


def similarity_of(name: str, units: Units) -> SentenceSimilarity:
    """The similarity of that name, counting in the units of the references.

    Raises RecipeError for `smoothed_bleu_of_tokens` of a language without spaces: a sentence would
    be one token, like nothing but itself.
    """
    if name in _OF_WORDS:
        return _OF_WORDS[name](tokenize=units.bleu_tokenizer)
    if name == "smoothed_bleu_of_tokens" and units.unspaced:
        raise RecipeError(
            "sequences.similarity must be smoothed_bleu, sentence_bleu or sentence_chrf for "
            "targets that are written without spaces between tokens, got smoothed_bleu_of_tokens; "
            "take one of them"
        )
    return SIMILARITIES[name]()


def clipped_matches(
    hypotheses: Sequence[Sequence[str]], reference: Sequence[str], *, max_order: int
) -> Int[np.ndarray, "hypotheses orders"]:
    """How many n-grams of each hypothesis the reference has, for n = 1 .. max_order.

    An n-gram counts at most as often as the reference has it. All hypotheses are counted together:
    where an n-gram matches, the n-1 symbols before its last one match too, so each order only looks
    at the places that the order before has left.
    """
    numbers = {symbol: number for number, symbol in enumerate(dict.fromkeys(reference))}
    unknown = len(numbers)  # also stands after each hypothesis, so that no n-gram spans two
    known = np.asarray([numbers[symbol] for symbol in reference], dtype=np.int64)
    text = np.asarray(
        [
            number
            for hypothesis in hypotheses
            for number in (*(numbers.get(symbol, unknown) for symbol in hypothesis), unknown)
        ],
        dtype=np.int64,
    )
    owners = np.repeat(np.arange(len(hypotheses)), [len(symbols) + 1 for symbols in hypotheses])
    matches = np.zeros((len(hypotheses), max_order), dtype=np.int64)
    # An n-gram's code is its place among the reference's distinct n-grams, in sorted order.
    places = np.flatnonzero(text < unknown)
    codes, known_codes, num_codes = text[places], known, unknown
    for order in range(1, min(max_order, len(reference)) + 1):
        if order > 1:
            # (n-1)-gram and next symbol -> n-gram; a place left in `places` has a next symbol.
            distinct, known_codes = np.unique(
                known_codes[:-1] * (unknown + 1) + known[order - 1 :], return_inverse=True
            )
            num_codes = len(distinct)
            wanted = codes * (unknown + 1) + text[places + order - 1]
            codes = np.searchsorted(distinct, wanted)
            found = np.take(distinct, codes, mode="clip") == wanted
            places, codes = places[found], codes[found]
        if not places.size:
            break
        counts = np.bincount(
            owners[places] * num_codes + codes, minlength=len(hypotheses) * num_codes
        ).reshape(len(hypotheses), num_codes)
        limits = np.bincount(known_codes, minlength=num_codes)
        matches[:, order - 1] = np.minimum(counts, limits).sum(axis=1)
    return matches


def _halving_bleu(overlap: Overlap) -> float:
    if not overlap.hypothesis_length:
        return 0.0
    log_score = 1.0 - max(1.0, overlap.reference_length / overlap.hypothesis_length)
    smallest = 1.0
    for num_matches, num_ngrams in zip(overlap.matches, overlap.hypothesis_ngrams, strict=True):
        if not num_ngrams:
            break
        if not num_matches:
            smallest /= 2.0
        log_score += math.log((num_matches or smallest) / num_ngrams) / len(overlap.matches)
    return 100.0 * math.exp(log_score)


def _sacrebleu_bleu(tokenize: str) -> BLEU:
    # One (empty) reference, because sacrebleu learns their number, part of the signature, by
    # reading some.
    return BLEU(tokenize=tokenize, effective_order=True, references=[[""]])


def _words_of(metric: BLEU) -> Callable[[str], Sequence[str]]:
    # The underscored methods are the contract of sacrebleu's Metric base class: see `translation`.
    def words(text: str) -> list[str]:
        split: list[str] = metric._preprocess_segment(text).split()
        return split

    return words
