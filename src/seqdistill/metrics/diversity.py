"""How unlike each other the samples of one prompt are, and how much one output repeats itself.

For outputs that were sampled; says nothing about whether they are good. Prompts weigh alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics import BLEU

from seqdistill.core.version import __version__
from seqdistill.metrics.score import Score


def self_bleu(samples: Sequence[Sequence[str]], *, tokenize: str = "13a") -> Score:
    """How alike the samples of a prompt are, 0 to 100; lower is more diverse.

    `samples` has the texts of each prompt. Each sample is the hypothesis once and the other samples
    of its prompt are its references; the BLEU values are averaged over samples, then over prompts.
    100 where all samples of every prompt are equal (and hold four words or more; sacrebleu's
    effective order serves shorter ones). Grows with the number of samples a prompt, so only equal
    numbers compare.

    Raises ValueError unless there is a prompt and each has two samples or more.

    Source: Zhu et al. 2018 (Texygen), who take the samples of a model as one such group.
    """
    _check_groups(samples, at_least=2)
    metric = BLEU(tokenize=tokenize, effective_order=True)
    values = [
        sum(
            metric.sentence_score(text, [*group[:place], *group[place + 1 :]]).score
            for place, text in enumerate(group)
        )
        / len(group)
        for group in samples
    ]
    sizes = sorted({len(group) for group in samples})
    signature = f"samples:{','.join(map(str, sizes))}|{metric.get_signature()}"
    return Score("self_bleu", sum(values) / len(values), signature)


def distinct_n(samples: Sequence[Sequence[str]], *, n: int) -> Score:
    """Distinct n-grams / all n-grams of a prompt's samples, in [0, 1], averaged over prompts.

    Words stand between white space. Prompts whose samples hold no n-gram are left out. Falls with
    the number and length of the samples.

    Raises ValueError if there is no prompt, or no n-gram anywhere.

    Source: Li et al. 2016, distinct-1 and distinct-2 (there over all outputs of a system at once).
    """
    _check_groups(samples, at_least=1)
    shares = []
    for group in samples:
        grams = [gram for text in group for gram in _ngrams(text, n)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    if not shares:
        raise ValueError(f"distinct-{n} needs an output of {n} words or more, got none")
    signature = f"n:{n}|tok:whitespace|mean:prompts|version:{__version__}"
    return Score(f"distinct_{n}", sum(shares) / len(shares), signature)


def repetition_rate(texts: Sequence[str], *, n: int = 4) -> Score:
    """The mean share of an output's n-grams that the same output has had before, in [0, 1].

    1 - distinct / all; an output too short for an n-gram repeats nothing. Words stand between white
    space.

    Raises ValueError if there is no output.

    Source: Welleck et al. 2020 (seq-rep-n).
    """
    if not texts:
        raise ValueError("a repetition rate needs at least one output, got none")
    rates = []
    for text in texts:
        grams = _ngrams(text, n)
        rates.append(1.0 - len(set(grams)) / len(grams) if grams else 0.0)
    signature = f"n:{n}|tok:whitespace|mean:outputs|version:{__version__}"
    return Score(f"repetition_{n}", sum(rates) / len(rates), signature)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    words = text.split()
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def _check_groups(samples: Sequence[Sequence[str]], *, at_least: int) -> None:
    if not samples or min(len(group) for group in samples) < at_least:
        fewest = min((len(group) for group in samples), default=0)
        raise ValueError(
            f"diversity needs a prompt, and {at_least} samples or more of each, got "
            f"{len(samples)} prompts with {fewest} samples at the fewest"
        )
