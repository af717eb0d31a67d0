"""How unlike each other the samples of one prompt are, and how much one output repeats itself.

For outputs that were sampled; says nothing about whether they are good. Prompts weigh alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics import BLEU

from seqdistill.core.version import __version__
from seqdistill.metrics.score import Score
from seqdistill.metrics.scripts import pieces


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
    sizes = sorted({len(group) for group in samples})
    if not sizes or sizes[0] < 2:
        raise ValueError(
            "diversity needs a prompt, and 2 samples or more of each, got "
            f"{len(samples)} prompts with {min(sizes, default=0)} samples at the fewest"
        )
    metric = BLEU(tokenize=tokenize, effective_order=True)
    values = [
        sum(
            metric.sentence_score(text, [*group[:place], *group[place + 1 :]]).score
            for place, text in enumerate(group)
        )
        / len(group)
        for group in samples
    ]
    signature = f"samples:{','.join(map(str, sizes))}|{metric.get_signature()}"
    return Score("self_bleu", sum(values) / len(values), signature)


def repetition_rate(texts: Sequence[str], *, n: int = 4) -> Score:
    """The mean share of an output's n-grams that the same output has had before, in [0, 1].

    1 - distinct / all; an output too short for an n-gram repeats nothing. Words stand between white
    space, and are characters in scripts without any.

    Raises ValueError if there is no output.

    Source: Welleck et al. 2020 (seq-rep-n).
    """
    if not texts:
        raise ValueError("a repetition rate needs at least one output, got none")
    rates = []
    for text in texts:
        words = pieces(text)
        grams = [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
        rates.append(1.0 - len(set(grams)) / len(grams) if grams else 0.0)
    signature = f"n:{n}|tok:whitespace+unspaced-characters|mean:outputs|version:{__version__}"
    return Score(f"repetition_{n}", sum(rates) / len(rates), signature)
