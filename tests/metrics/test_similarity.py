"""Similarities of sentences: sacrebleu's numbers, and the paper's formula by loops and by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.metrics.similarity import (
    SIMILARITIES,
    sentence_bleu,
    sentence_chrf,
    smoothed_bleu,
    smoothed_bleu_of_tokens,
)

REFERENCES = [
    "Click the button to open the file.",
    "the the the cat, the cat; the cat sat on 3.14 mats",
    "Der Befehl gibt den Namen der Datei aus.",
    "ファイルを開くにはボタンをクリックします。",
    "OK",
    "a b",
    "",
]


def hypotheses_for(reference: str, seed: int, number: int = 35) -> list[str]:
    """Copies with some words left out, doubled, swapped or taken from elsewhere."""
    generator = random.Random(seed)
    others = " ".join(REFERENCES).split()
    hypotheses = [reference, "", "nothing in common", reference[: len(reference) // 2]]
    while len(hypotheses) < number:
        words = reference.split()
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(words) + 1)
            words[place : place + generator.randint(0, 2)] = generator.sample(
                [*others, *words], generator.randint(0, 2)
            )
        hypotheses.append(" ".join(words))
    return hypotheses


def naive_matches(hypothesis: Sequence[str], reference: Sequence[str], order: int) -> int:
    """Strikes every n-gram of the hypothesis from a list of the reference's, if it is there."""
    left = [list(reference[i : i + order]) for i in range(len(reference) - order + 1)]
    matches = 0
    for i in range(len(hypothesis) - order + 1):
        ngram = list(hypothesis[i : i + order])
        if ngram in left:
            left.remove(ngram)
            matches += 1
    return matches


def naive_smoothed_bleu(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    if len(hypothesis) == 0:
        return 0.0
    product, halved = 1.0, 1.0
    for order in (1, 2, 3, 4):
        total = len(hypothesis) - order + 1
        if total > 0:
            matches: float = naive_matches(hypothesis, reference, order)
            if matches == 0:
                halved *= 0.5
                matches = halved
            product *= matches / total
    penalty = min(1.0, math.exp(1.0 - len(reference) / len(hypothesis)))
    return 100.0 * penalty * math.sqrt(math.sqrt(product))


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_papers_bleu_equals_naive_loops(reference: str) -> None:
    hypotheses = hypotheses_for(reference, seed=1)
    words = BLEU().tokenizer
    expected = [naive_smoothed_bleu(words(h).split(), words(reference).split()) for h in hypotheses]
    assert smoothed_bleu()(hypotheses, reference) == pytest.approx(expected, rel=1e-12)
    of_tokens = [naive_smoothed_bleu(h.split(), reference.split()) for h in hypotheses]
    assert smoothed_bleu_of_tokens()(hypotheses, reference) == pytest.approx(of_tokens, rel=1e-12)


@pytest.mark.parametrize("reference", REFERENCES)
def test_sentence_bleu_and_chrf_are_sacrebleus_to_the_last_bit(reference: str) -> None:
    hypotheses = hypotheses_for(reference, seed=2)
    for similarity, metric in (
        (sentence_bleu(), BLEU(effective_order=True)),
        (sentence_bleu(tokenize="char"), BLEU(effective_order=True, tokenize="char")),
        (sentence_chrf(), CHRF()),
    ):
        expected = [metric.sentence_score(text, [reference]).score for text in hypotheses]
        assert similarity(hypotheses, reference) == expected
        assert similarity.signature == str(metric.get_signature())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_values_run_from_nothing_to_the_reference_itself(name: str) -> None:
    similarity = SIMILARITIES[name]()
    assert similarity.name == name
    assert "nrefs:1|case:mixed" in similarity.signature
    assert sacrebleu.__version__ in similarity.signature
    for reference in filter(None, REFERENCES):
        values = similarity(hypotheses_for(reference, seed=4), reference)
        assert values[0] == pytest.approx(100.0, rel=1e-12)
        assert max(values) <= values[0]
        assert min(values) >= 0.0
    assert similarity(["", " "], "some words") == [0.0, 0.0]
    assert similarity([""], "") == [0.0]
    assert similarity([], "some words") == []
