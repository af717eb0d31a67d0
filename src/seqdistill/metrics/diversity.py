"""How unlike each other the samples of one prompt are, and how much one output repeats itself.

For outputs that were sampled; says nothing about whether they are good. Prompts weigh alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from sacrebleu.metrics import BLEU

from seqdistill.core.version import __version__
from seqdistill.metrics.score import Score
from seqdistill.metrics.scripts import pieces

OUTPUTS = ("completion_length", "eos_rate", "cut_fraction", "distinct_2", "repetition_4")
"""What `outputs_in_tokens` tells: no scores, but signs of collapse."""


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
    rates = [repeated_fraction(pieces(text), n=n) for text in texts]
    signature = f"n:{n}|tok:whitespace+unspaced-characters|mean:outputs|version:{__version__}"
    return Score(f"repetition_{n}", sum(rates) / len(rates), signature)


def repeated_fraction(output: Sequence[Hashable], *, n: int = 4) -> float:
    """The fraction of an output's n-grams that it has had before; 0 of one too short for any."""
    grams = _grams(output, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def token_sums(outputs: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, tuple[float, float]]:
    """Totals and counts by which token ids of outputs show a collapse; adds over batches.

    `outputs` has those of each prompt. `repetition_4` is the mean of `repeated_fraction`.
    `distinct_2` are the different bigrams of all bigrams, of the first output of each prompt: those
    of one prompt may well be alike. It falls as outputs get more, so only numbers of about as many
    tokens compare.

    Source: Li et al. 2016 (distinct-n), Welleck et al. 2020 (seq-rep-n).
    """
    every = [output for group in outputs.values() for output in group]
    grams = [gram for group in outputs.values() for gram in _grams(group[0], 2)]
    return {
        "distinct_2": (len(set(grams)), len(grams)),
        "repetition_4": (sum(map(repeated_fraction, every)), len(every)),
    }


def outputs_in_tokens(
    outputs: Sequence[Sequence[int]], finished: Sequence[bool]
) -> dict[str, float]:
    """Mean length, fractions with an end and cut off, `distinct_2` and `repetition_4`, of an output
    a prompt: token ids, their end included where they have one. Nothing of no output."""
    if not outputs:
        return {}
    ended = sum(finished) / len(outputs)
    sums = token_sums({str(place): [output] for place, output in enumerate(outputs)})
    return {
        "completion_length": sum(map(len, outputs)) / len(outputs),
        "eos_rate": ended,
        "cut_fraction": 1.0 - ended,
        **{name: total / count for name, (total, count) in sums.items() if count},
    }


def _grams(output: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(output[place : place + n]) for place in range(len(output) - n + 1)]
