"""Interpolation: the output most like the reference, against a plain loop; ties and counts."""

from __future__ import annotations

import dataclasses
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from seqdistill.core.errors import DataError
from seqdistill.generation.decoding import Hypothesis
from seqdistill.metrics.similarity import (
    SIMILARITIES,
    SentenceSimilarity,
    sentence_chrf,
    smoothed_bleu,
)
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources.interpolation import InterpolationSummary, interpolate
from seqdistill.sources.labelling import Labelling, label
from seqdistill.sources.shards import Prompt, TeacherOutput
from seqdistill.sources.teacher_corpus import (
    CorpusRecord,
    CorpusSettings,
    TeacherCorpus,
)

END = 1
WORDS = dict(enumerate(["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"], start=2))
IDS = {word: number for number, word in WORDS.items()}
REFERENCES = {"one": "aa bb cc dd ee", "two": "ff gg hh", "three": "bb bb aa dd"}
SETTINGS = CorpusSettings("t", "k", "s", Decoding(beam_size=3, n_best=3))


def spell(token_ids: Sequence[int]) -> str:
    return " ".join(WORDS[token_id] for token_id in token_ids if token_id != END)


def output(example_id: str, rank: int, text: str, log_prob: float = -1.0) -> TeacherOutput:
    token_ids = (*(IDS[word] for word in text.split()), END)
    return TeacherOutput(example_id, rank, token_ids, text, log_prob)


def random_outputs(seed: int) -> list[TeacherOutput]:
    """Likelihoods come twice and do not fall with the rank; some texts come twice."""
    generator = random.Random(seed)
    outputs: list[TeacherOutput] = []
    for example_id in REFERENCES:
        texts: list[str] = []
        for rank in range(generator.randint(2, 12)):
            words = generator.choices(list(IDS), k=generator.randint(1, 6))
            texts.append(generator.choice([" ".join(words), REFERENCES[example_id], *texts]))
            outputs.append(output(example_id, rank, texts[-1], -0.5 * generator.randint(1, 3)))
    return outputs


@dataclasses.dataclass(frozen=True)
class FakeCorpus(TeacherCorpus):
    """Outputs in memory, as a corpus of examples in the references' order gives them."""

    outputs: Sequence[TeacherOutput]

    def by_example(self) -> Iterator[tuple[str, list[TeacherOutput]]]:
        for name in REFERENCES:
            yield name, [output for output in self.outputs if output.id == name]


Kept = tuple[Iterator[tuple[str, list[TeacherOutput]]], InterpolationSummary]
Found = tuple[dict[str, TeacherOutput], InterpolationSummary]


def chosen(found: Kept) -> Found:
    return {name: one for name, outputs in found[0] for one in outputs}, found[1]


def choose(
    outputs: Sequence[TeacherOutput],
    name: str = "smoothed_bleu",
    *,
    references: Mapping[str, str] = REFERENCES,
    decode: Callable[[Sequence[int]], str] = spell,
) -> Found:
    similarity = SIMILARITIES[name]()
    with tempfile.TemporaryDirectory() as folder:
        record = CorpusRecord(SETTINGS, len(REFERENCES), 5)
        corpus = FakeCorpus(Path(folder), record, outputs)
        return chosen(
            interpolate(corpus, [*references.items()], similarity=similarity, decode=decode)
        )


def kept(output: TeacherOutput) -> tuple[str, int, tuple[int, ...]]:
    return output.id, output.rank, output.token_ids


def loses(found: tuple[float, TeacherOutput], other: tuple[float, TeacherOutput]) -> bool:
    """Whether `other` is to be chosen before `found`."""
    if other[0] != found[0]:
        return other[0] > found[0]
    if other[1].log_prob != found[1].log_prob:
        return other[1].log_prob > found[1].log_prob
    return other[1].rank < found[1].rank


@pytest.mark.parametrize("name", list(SIMILARITIES))
@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_that_of_a_plain_loop(name: str, seed: int) -> None:
    outputs = random_outputs(seed)
    found, summary = choose(outputs, name)
    similarity = SIMILARITIES[name]()
    best: dict[str, tuple[float, TeacherOutput]] = {}
    firsts: list[float] = []
    for candidate in outputs:
        (value,) = similarity([candidate.text], REFERENCES[candidate.id])
        if candidate.rank == 0:
            firsts.append(value)
        if candidate.id not in best or loses(best[candidate.id], (value, candidate)):
            best[candidate.id] = (value, candidate)
    assert {n: kept(one) for n, one in found.items()} == {n: kept(o) for n, (_, o) in best.items()}
    ranks = [candidate.rank for _, candidate in best.values()]
    num_ranks = 1 + max(candidate.rank for candidate in outputs)
    assert summary.mean_similarity == pytest.approx(sum(value for value, _ in best.values()) / 3)
    assert summary.mean_first_similarity == pytest.approx(sum(firsts) / 3)
    assert summary.mean_similarity >= summary.mean_first_similarity
    assert summary.mean_rank == pytest.approx(sum(ranks) / 3)
    assert summary.rank_counts == tuple(ranks.count(rank) for rank in range(num_ranks))
    assert (summary.num_examples, summary.num_hypotheses) == (3, len(outputs))
    equal = sum(REFERENCES[name] == candidate.text for name, (_, candidate) in best.items())
    assert summary.exact_match_share == pytest.approx(equal / 3)


def test_ties_go_to_the_likelier_output_and_then_to_the_lower_rank() -> None:
    # All have one word of five: beam search's length penalty may rank the less likely one higher.
    words = ["aa ff ff ff ff", "bb gg gg gg gg", "cc hh hh hh hh", "dd ff gg hh ff"]
    likelier, _ = choose(
        [output("one", rank, words[rank], [-4.0, -3.0, -2.0, -2.5][rank]) for rank in range(4)]
    )
    assert likelier["one"].rank == 2
    same, _ = choose([output("one", rank, words[rank], -3.0) for rank in (3, 1, 2)])
    assert same["one"].rank == 1
    better, _ = choose([output("one", 0, words[0], -1.0), output("one", 1, "aa bb gg gg gg", -8.0)])
    assert better["one"].rank == 1


def test_the_decoder_handed_in_makes_the_text_that_is_compared() -> None:
    outputs = [output("one", 0, "aa bb cc dd ff"), output("one", 1, "aa aa")]

    def shouted(token_ids: Sequence[int]) -> str:
        return "aa bb cc dd ee" if len(token_ids) == 3 else spell(token_ids).upper()

    found, summary = choose(outputs, decode=shouted)
    assert found["one"].rank == 1
    assert summary.exact_match_share == 1.0
    assert choose(outputs)[0]["one"].rank == 0


class HalfFinished:
    """Writes the source, unfinished, then shorter parts; finishes none of a source without `aa`."""

    def generate(
        self,
        sources: Sequence[Any],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: object = None,
    ) -> list[list[Hypothesis]]:
        return [
            [
                Hypothesis((*source[: len(source) - cut], END), -1.0 - cut, IDS["aa"] in source)
                if cut
                else Hypothesis(tuple(source), -0.5, False)
                for cut in range(decoding.n_best)
            ]
            for source in sources
        ]


def corpus_of_halves(folder: Path) -> TeacherCorpus:
    sources = [
        Prompt(name, [IDS[word] for word in text.split()], text)
        for name, text in REFERENCES.items()
    ]
    return label(Labelling(sources, HalfFinished, SETTINGS, folder, decode=spell))


class Compared:
    """A decoder that counts how many outputs it was asked to spell, so how many were compared."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, token_ids: Sequence[int]) -> str:
        self.count += 1
        return spell(token_ids)


def of_corpus(
    corpus: TeacherCorpus,
    references: Mapping[str, str] = REFERENCES,
    similarity: SentenceSimilarity | None = None,
    done: list[int] | None = None,
) -> tuple[Found, int]:
    compared = Compared()
    found = interpolate(
        corpus,
        [*references.items()],
        similarity=similarity or smoothed_bleu(),
        decode=compared,
        on_progress=None if done is None else done.append,
    )
    return chosen(found), compared.count


def test_examples_without_a_finished_output_are_left_out_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = corpus_of_halves(tmp_path)
    assert corpus.record.counts.num_unfinished == 1
    done: list[int] = []
    with caplog.at_level(logging.INFO):
        (found, summary), _ = of_corpus(corpus, done=done)
    # Ranks count finished outputs: rank 0 is the source less its last word.
    assert {name: (o.rank, o.text) for name, o in found.items()} == {
        "one": (0, "aa bb cc dd"),
        "three": (0, "bb bb aa"),
    }
    assert (summary.num_examples, summary.num_without_hypothesis) == (2, 1)
    assert (summary.num_hypotheses, summary.rank_counts) == (4, (2, 0))
    assert "left out 1 of 3 references" in caplog.text
    assert summary.signature in caplog.text
    assert sum(done) == len(REFERENCES)


def test_a_part_of_the_references_asks_for_a_part_of_the_corpus(tmp_path: Path) -> None:
    references = {"three": REFERENCES["three"]}
    (found, summary), _ = of_corpus(corpus_of_halves(tmp_path), references, sentence_chrf())
    assert list(found) == ["three"]
    assert (summary.num_without_hypothesis, summary.num_without_reference) == (0, 2)


def test_the_second_time_nothing_is_compared_and_what_differs_is_chosen_for_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, count = of_corpus(corpus_of_halves(tmp_path))
    assert count > 0
    corpus = TeacherCorpus.open(tmp_path, expected=None)
    with caplog.at_level(logging.INFO):
        assert of_corpus(corpus) == (first, 0)
    assert first[1].signature in caplog.text
    checksums = dict.fromkeys(corpus.record.checksums, "0" * 64)
    record = dataclasses.replace(corpus.record, checksums=checksums)
    assert of_corpus(corpus, {**REFERENCES, "three": "aa aa"})[1] > 0
    assert of_corpus(corpus, similarity=sentence_chrf())[1] > 0
    assert of_corpus(dataclasses.replace(corpus, record=record))[1] > 0


@pytest.mark.parametrize("place", [None, 60])
def test_damaged_choices_are_refused_and_labelled_outputs_stay(
    tmp_path: Path, place: int | None
) -> None:
    """Cut, or with another byte in a page."""
    corpus = corpus_of_halves(tmp_path)
    of_corpus(corpus)
    (path,) = tmp_path.glob("choices-*.parquet")
    content = bytearray(path.read_bytes())
    if place is not None:
        content[place] ^= 1
    path.write_bytes(content if place else content[:-20])
    with pytest.raises(DataError, match=r"choose again|made again"):
        of_corpus(corpus)
    assert TeacherCorpus.open(tmp_path, expected=None).record.counts.num_hypotheses > 0


def test_references_without_any_output_or_in_another_order_are_refused() -> None:
    outputs = [output(name, 0, "aa") for name in REFERENCES]
    with pytest.raises(DataError, match="none for the 3 references"):
        choose([])
    for names in (["one", "four"], ["two", "one"]):
        with pytest.raises(DataError, match=f"none {names[1]!r} at its place"):
            choose(outputs, references=dict.fromkeys(names, "aa"))
