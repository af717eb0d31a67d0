"""Choices that were made before are read, equal to those made anew; other ones are never taken."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.sources.test_interpolation import REFERENCES, corpus_of_halves, spell

from seqdistill.core.errors import DataError
from seqdistill.metrics.similarity import SentenceSimilarity, sentence_chrf, smoothed_bleu
from seqdistill.sources.interpolation import Interpolation, interpolate
from seqdistill.sources.kept_choices import kept_interpolation
from seqdistill.sources.teacher_corpus import TeacherCorpus


class Compared:
    """A decoder that counts how many outputs it was asked to spell, so how many were compared."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, token_ids: Sequence[int]) -> str:
        self.count += 1
        return spell(token_ids)


def kept(
    corpus: TeacherCorpus,
    compared: Compared,
    references: dict[str, str] = REFERENCES,
    similarity: SentenceSimilarity | None = None,
) -> Interpolation:
    found = similarity or smoothed_bleu()
    return kept_interpolation(corpus, references, similarity=found, decode=compared)


def test_the_second_time_nothing_is_compared_and_the_choice_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, compared, done = corpus_of_halves(tmp_path), Compared(), list[int]()
    expected = interpolate(corpus, REFERENCES, similarity=smoothed_bleu(), decode=spell)
    assert kept(corpus, compared) == expected
    assert compared.count > 0
    again = Compared()
    with caplog.at_level(logging.INFO):
        found = kept_interpolation(
            TeacherCorpus.open(tmp_path, expected=None),
            dict(reversed(REFERENCES.items())),
            similarity=smoothed_bleu(),
            decode=again,
            on_progress=done.append,
        )
    assert found == expected
    assert again.count == 0
    assert sum(done) == len(REFERENCES)
    assert expected.summary.signature in caplog.text


def test_other_references_and_other_similarities_are_chosen_for_anew(tmp_path: Path) -> None:
    corpus = corpus_of_halves(tmp_path)
    kept(corpus, Compared())
    changed = {**REFERENCES, "three": "aa aa"}
    for references, similarity in ((changed, smoothed_bleu()), (REFERENCES, sentence_chrf())):
        compared = Compared()
        found = kept(corpus, compared, references, similarity)
        assert compared.count > 0
        assert found == interpolate(corpus, references, similarity=similarity, decode=spell)


def test_a_corpus_of_other_content_does_not_take_the_choices(tmp_path: Path) -> None:
    corpus = corpus_of_halves(tmp_path)
    kept(corpus, Compared())
    shards = tuple(dataclasses.replace(s, sha256="0" * 64) for s in corpus.manifest.shards)
    other = dataclasses.replace(
        corpus, manifest=dataclasses.replace(corpus.manifest, shards=shards)
    )
    compared = Compared()
    kept(other, compared)
    assert compared.count > 0


def test_a_damaged_file_is_refused_and_labelled_outputs_stay(tmp_path: Path) -> None:
    corpus = corpus_of_halves(tmp_path)
    kept(corpus, Compared())
    (path,) = tmp_path.glob("choices-*.json")
    path.write_text(path.read_text("utf-8")[:-20], encoding="utf-8")
    with pytest.raises(DataError, match="delete this file"):
        kept(corpus, Compared())
    assert len(list(TeacherCorpus.open(tmp_path, expected=None))) > 0
