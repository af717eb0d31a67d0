"""Interpolation: the output most like the reference, against a plain loop; ties and counts."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seqdistill.core.errors import DataError
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.decoding import Decoding, Hypothesis
from seqdistill.metrics.similarity import SIMILARITIES, sentence_chrf, smoothed_bleu
from seqdistill.sources.corpus_settings import CorpusSettings
from seqdistill.sources.corpus_shards import TeacherOutput
from seqdistill.sources.interpolation import Interpolation, interpolate
from seqdistill.sources.stored import with_teacher_targets
from seqdistill.sources.teacher_corpus import TeacherCorpus, label

END = 1
WORDS = dict(enumerate(["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"], start=2))
IDS = {word: number for number, word in WORDS.items()}
REFERENCES = {"one": "aa bb cc dd ee", "two": "ff gg hh", "three": "bb bb aa dd"}


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
            texts.append(generator.choice([" ".join(words), *texts]))
            outputs.append(output(example_id, rank, texts[-1], -0.5 * generator.randint(1, 3)))
    return outputs


def choose(outputs: Sequence[TeacherOutput], name: str = "smoothed_bleu") -> Interpolation:
    return interpolate(outputs, REFERENCES, similarity=SIMILARITIES[name](), decode=spell)


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
    found = choose(outputs, name)
    similarity = SIMILARITIES[name]()
    best: dict[str, tuple[float, TeacherOutput]] = {}
    firsts: list[float] = []
    for candidate in outputs:
        (value,) = similarity([candidate.text], REFERENCES[candidate.id])
        if candidate.rank == 0:
            firsts.append(value)
        if candidate.id not in best or loses(best[candidate.id], (value, candidate)):
            best[candidate.id] = (value, candidate)
    assert found.outputs == {name: candidate for name, (_, candidate) in best.items()}
    ranks = [candidate.rank for _, candidate in best.values()]
    num_ranks = 1 + max(candidate.rank for candidate in outputs)
    summary = found.summary
    assert summary.mean_similarity == pytest.approx(sum(value for value, _ in best.values()) / 3)
    assert summary.mean_first_similarity == pytest.approx(sum(firsts) / 3)
    assert summary.mean_similarity >= summary.mean_first_similarity
    assert summary.mean_rank == pytest.approx(sum(ranks) / 3)
    assert summary.rank_counts == tuple(ranks.count(rank) for rank in range(num_ranks))
    assert (summary.num_examples, summary.num_hypotheses) == (3, len(outputs))


def test_an_output_that_is_the_reference_is_chosen_and_counted_as_equal() -> None:
    found = choose(
        [
            output("one", 0, "aa bb cc dd", -0.1),
            output("one", 1, "aa bb cc dd ee", -9.0),
            output("two", 0, "gg hh", -0.1),
            output("three", 0, "bb bb aa dd", -0.1),
        ]
    )
    assert found.outputs["one"].rank == 1
    assert found.targets["one"] == ((2, 3, 4, 5, 6, END),)
    assert found.summary.exact_match_share == pytest.approx(2 / 3)
    assert found.summary.rank_counts == (2, 1)
    only = interpolate(
        [output("one", 0, "aa bb cc dd ee")],
        {"one": "aa  bb cc dd ee "},
        similarity=smoothed_bleu(),
        decode=spell,
    )
    assert (only.summary.mean_similarity, only.summary.exact_match_share) == (100.0, 1.0)


def test_ties_go_to_the_likelier_output_and_then_to_the_lower_rank() -> None:
    # All have one word of five: beam search's length penalty may rank the less likely one higher.
    words = ["aa ff ff ff ff", "bb gg gg gg gg", "cc hh hh hh hh", "dd ff gg hh ff"]
    likelier = choose(
        [output("one", rank, words[rank], [-4.0, -3.0, -2.0, -2.5][rank]) for rank in range(4)]
    )
    assert likelier.outputs["one"].rank == 2
    same = choose([output("one", rank, words[rank], -3.0) for rank in (3, 1, 2)])
    assert same.outputs["one"].rank == 1
    better = choose([output("one", 0, words[0], -1.0), output("one", 1, "aa bb gg gg gg", -8.0)])
    assert better.outputs["one"].rank == 1


def test_the_order_of_the_outputs_within_an_example_does_not_count() -> None:
    for seed in range(5):
        outputs = sorted(random_outputs(seed), key=lambda output: output.id)
        turned = sorted(outputs, key=lambda output: (output.id, -output.rank))
        assert choose(turned).outputs == choose(outputs).outputs
        assert choose(turned).summary == choose(outputs).summary


def test_the_decoder_handed_in_makes_the_text_that_is_compared() -> None:
    outputs = [output("one", 0, "aa bb cc dd ff"), output("one", 1, "aa aa")]

    def shouted(token_ids: Sequence[int]) -> str:
        return "aa bb cc dd ee" if len(token_ids) == 3 else spell(token_ids).upper()

    found = interpolate(outputs, REFERENCES, similarity=smoothed_bleu(), decode=shouted)
    assert found.outputs["one"].rank == 1
    assert found.summary.exact_match_share == 1.0
    assert choose(outputs).outputs["one"].rank == 0


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
    sources = [(i, [IDS[word] for word in text.split()]) for i, text in REFERENCES.items()]
    settings = CorpusSettings("t", "d", "k", Decoding(beam_size=3, n_best=3))
    return label(
        sources,
        HalfFinished(),
        settings,
        folder,
        decode=spell,
        source_texts=REFERENCES,
    )


def test_examples_without_a_finished_output_are_left_out_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = corpus_of_halves(tmp_path)
    assert corpus.manifest.unfinished_ids == ("two",)
    done: list[int] = []
    with caplog.at_level(logging.INFO):
        found = interpolate(
            corpus, REFERENCES, similarity=smoothed_bleu(), decode=spell, on_progress=done.append
        )
    # Ranks count finished outputs: rank 0 is the source less its last word.
    assert {name: (o.rank, o.text) for name, o in found.outputs.items()} == {
        "one": (0, "aa bb cc dd"),
        "three": (0, "bb bb aa"),
    }
    assert (found.summary.num_examples, found.summary.num_without_hypothesis) == (2, 1)
    assert (found.summary.num_hypotheses, found.summary.rank_counts) == (4, (2, 0))
    assert "left out 1 of 3 references" in caplog.text
    assert found.summary.signature in caplog.text
    assert sum(done) == len(REFERENCES)


def test_a_part_of_the_references_asks_for_a_part_of_the_corpus(tmp_path: Path) -> None:
    corpus = corpus_of_halves(tmp_path)
    references = {"three": REFERENCES["three"]}
    found = interpolate(corpus, references, similarity=sentence_chrf(), decode=spell)
    assert list(found.outputs) == ["three"]
    assert (found.summary.num_without_hypothesis, found.summary.num_without_reference) == (0, 1)


def test_the_targets_become_training_data_as_they_are() -> None:
    found = choose([output("one", 0, "aa"), output("one", 1, "aa bb cc"), output("two", 0, "ff")])
    examples = [EncodedExample(name, (7, END), (9, END)) for name in REFERENCES]
    assert with_teacher_targets(examples, found.targets) == [
        EncodedExample("one", (7, END), (2, 3, 4, END)),
        EncodedExample("two", (7, END), (7, END)),
    ]


def test_the_summary_can_be_written_as_json() -> None:
    summary = choose([output("one", 0, "aa bb")]).summary
    read = json.loads(json.dumps(dataclasses.asdict(summary)))
    assert read["similarity"] == "smoothed_bleu"
    assert read["rank_counts"] == [1]


def test_a_corpus_without_anything_to_choose_is_refused() -> None:
    with pytest.raises(DataError, match=r"none for the 3 references given .* 1 other examples"):
        choose([output("four", 0, "aa")])
    with pytest.raises(DataError, match="none for the 3 references"):
        choose([])


def test_outputs_of_an_example_that_lie_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="those of 'one' lie apart"):
        choose([output("one", 0, "aa"), output("two", 0, "ff"), output("one", 1, "bb")])
