"""The corpora keep their promises: nothing held out is in train, exactly or nearly."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from corpora.arithmetic import build as arithmetic
from corpora.arithmetic.problems import STEP, Problem
from corpora.debian_summaries import split as summaries
from corpora.debian_summaries.descriptions import Description
from corpora.duplicates import NearDuplicateIndex, character_grams, jaccard, normalize, word_runs
from corpora.en_de import split as en_de
from corpora.en_de.sentences import Pair
from corpora.g2p import build as g2p

from seqdistill.metrics.answers import final_answer
from seqdistill.metrics.arithmetic import evaluate

BUNDLED = Path(__file__).parents[2] / "src/seqdistill/bundled"
SIZES = {
    "arithmetic": {"train": 24_000, "dev": 500, "test": 1000, "new-templates": 500},
    "debian-summaries": {"train": 27_983, "dev": 1000, "test": 2000},
    "en-de": {"train": 79_050, "dev": 2000, "test": 2000},
}
SIDES = ("source", "target")
Row = dict[str, str]


@functools.cache
def rows_of(corpus: str) -> list[Row]:
    rows: list[Row] = pq.read_table(BUNDLED / corpus / "corpus.parquet").to_pylist()
    return rows


def parts_of(rows: list[Row], key: Callable[[Row], str]) -> dict[str, set[str]]:
    """Split -> what its rows have under the key."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["split"], set()).add(key(row))
    return found


def check_apart(parts: dict[str, set[str]]) -> None:
    assert not parts["train"] & parts["dev"]
    assert not parts["train"] & parts["test"]
    assert not parts["dev"] & parts["test"]


@pytest.mark.parametrize("corpus", list(SIZES))
def test_the_file_is_the_manifests_with_its_licences(corpus: str) -> None:
    content = (BUNDLED / corpus / "corpus.parquet").read_bytes()
    manifest = json.loads((BUNDLED / corpus / "corpus.json").read_text("utf-8"))
    assert hashlib.sha256(content).hexdigest() == manifest["sha256"]
    assert len(content) == manifest["bytes"]
    rows = rows_of(corpus)
    assert Counter(row["split"] for row in rows) == SIZES[corpus]
    assert len({row["id"] for row in rows}) == len(rows)
    assert (BUNDLED / corpus / "LICENSES.md").is_file()


def test_no_document_or_sentence_of_en_de_lies_in_two_parts() -> None:
    rows = rows_of("en-de")
    check_apart(parts_of(rows, lambda row: row["document"]))
    for side in SIDES:
        sentences = [{"split": row["split"], "text": normalize(row[side])} for row in rows]
        check_apart(parts_of(sentences, lambda row: row["text"]))


def test_no_source_package_or_summary_lies_in_two_parts() -> None:
    rows = rows_of("debian-summaries")
    check_apart(parts_of(rows, lambda row: row["source_package"]))
    summary_parts = parts_of(rows, lambda row: normalize(row["summary"]))
    assert not summary_parts["train"] & (summary_parts["dev"] | summary_parts["test"])
    held_out = Counter(row["source_package"] for row in rows if row["split"] != "train")
    assert max(held_out.values()) == 1


def test_no_held_out_document_has_a_near_duplicate_by_naive_sets() -> None:
    rows, draw = rows_of("debian-summaries"), random.Random(3)
    runs: dict[str, list[set[tuple[str, ...]]]] = {}
    for part, count in (("train", 5000), ("test", 15)):
        chosen = draw.sample([row["document"] for row in rows if row["split"] == part], count)
        words = [normalize(text).split() for text in chosen]
        runs[part] = [set(zip(w, w[1:], w[2:], strict=False)) for w in words]
    shared = 0
    for mine in runs["test"]:
        for other in runs["train"]:
            number = len(mine & other)
            shared += number
            assert number < summaries.NEAR_THRESHOLD * (len(mine) + len(other) - number)
    assert shared > 0


def naive_similarity(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("side", SIDES)
def test_no_held_out_sentence_has_a_near_duplicate_by_a_naive_count(side: str) -> None:
    """Twenty test sentences of this side against a fourth of train, by character 5-grams."""

    def grams(text: str) -> set[str]:
        return {f" {text} "[k : k + 5] for k in range(len(text) - 2)}

    rows = rows_of("en-de")
    test = [grams(normalize(row[side])) for row in rows if row["split"] == "test"]
    chosen = random.Random(5).sample(test, 20)
    owners: dict[str, list[int]] = {}
    for number, mine in enumerate(chosen):
        for gram in mine:
            owners.setdefault(gram, []).append(number)
    nearest = 0.0
    train = [row for row in rows if row["split"] == "train"]
    for other in (grams(normalize(row[side])) for row in train[::4]):
        shared = Counter(number for gram in other for number in owners.get(gram, ()))
        for number, count in shared.items():
            nearest = max(nearest, count / (len(chosen[number]) + len(other) - count))
    assert 0.0 < nearest < en_de.NEAR_THRESHOLD
    near = [grams(text) for text in ("ein satz über xfce", "ein satz über xfce 0")]
    assert naive_similarity(*near) > en_de.NEAR_THRESHOLD


def test_held_out_templates_are_nowhere_else_and_no_numbers_come_twice() -> None:
    rows = rows_of("arithmetic")
    templates = parts_of(rows, lambda row: row["template"])
    assert not templates["new-templates"] & (templates["train"] | templates["test"])
    assert templates["test"] | templates["dev"] <= templates["train"]
    keys = Counter(Problem(r["template"], r["prompt"], r["completion"]).key for r in rows)
    assert keys.most_common(1)[0][1] == 1
    for row in rows[::25]:  # by an oracle: every step is right, the last one is the answer
        steps = STEP.findall(row["completion"])
        assert steps and all(evaluate(expression) == Fraction(r) for expression, r in steps)
        assert final_answer(row["completion"]) == Fraction(steps[-1][1])


@pytest.mark.parametrize(
    ("parts", "threshold"), [(character_grams, 0.6), (word_runs, 0.5)], ids=["grams", "runs"]
)
def test_the_index_finds_exactly_the_near_duplicates_that_comparing_all_finds(
    parts: Callable[[str], Any], threshold: float
) -> None:
    draw = random.Random(1)
    words = [*"abcdefghijklm"]
    base = [" ".join(draw.choices(words, k=draw.randint(2, 25))) for _ in range(100)]
    texts = base + [
        " ".join(w for w in text.split() if draw.random() < 0.9) or "x" for text in base
    ]
    draw.shuffle(texts)
    index = NearDuplicateIndex(texts, parts, threshold)
    for text in texts[:100]:
        index.add(text)
    outcomes = Counter[bool]()
    for text in texts[100:]:
        near = {n for n in range(100) if jaccard(parts(text), parts(texts[n])) >= threshold}
        found = index.find_near(text)
        assert (found in near) if near else (found is None)
        outcomes[bool(near)] += 1
    assert min(outcomes[True], outcomes[False]) > 5


def test_division_keeps_documents_apart_and_does_not_depend_on_order() -> None:
    draw = random.Random(2)

    def text(count: int) -> str:
        return " ".join("".join(draw.choices("abcdefghijklmnop", k=7)) for _ in range(count))

    pairs = [Pair(text(6), text(6), "ddtp", f"ddtp/{n // 4}", n % 4) for n in range(400)]
    divided = en_de.divide(pairs, 20)
    check_apart({part: {p.document for p in of} for part, of in divided.parts.items()})
    assert len(divided.parts["dev"]) == len(divided.parts["test"]) == 20
    assert set(en_de.divide(pairs[::-1], 20).parts["test"]) == set(divided.parts["test"])

    found = [Description(f"p{n}", f"s{n // 2}", text(25), text(3)) for n in range(120)]
    sizes = {"num_dev": 10, "num_test": 20, "max_train": 1000}
    split = summaries.divide(found, **sizes)
    check_apart({part: {d.source_package for d in of} for part, of in split.parts.items()})
    assert summaries.divide(found[::-1], **sizes).parts == split.parts
    test = split.parts["test"][0]
    near = Description("near", "z", test.document + " end", "another summary")
    same = Description("same", "y", text(25), test.summary)
    again = summaries.divide([*found, near, same], **sizes)
    train = {d.package for d in again.parts["train"]}
    assert not {"same", test.package} & train
    kept = {d.package for of in again.parts.values() for d in of}
    assert len({"near", test.package} & kept) == 1  # whichever has the lesser hash

    entries = [g2p.Entry("ab" + "c" * n, ("AH", "B")) for n in range(50)]
    words = g2p.divide(entries, num_dev=5, num_test=10)
    check_apart({part: {e.word for e in of} for part, of in words.items()})
    assert g2p.divide(entries[::-1], num_dev=5, num_test=10) == words

    makers = dict(list(arithmetic.makers_of_chains().items())[:5])
    counts = {"test": 12, "dev": 4, "train": 24, "new-templates": 5}
    problems, _ = arithmetic.divide(makers, sizes=counts)
    assert {part: len(of) for part, of in problems.items()} == counts
    keys = [problem.key for of in problems.values() for problem in of]
    assert len(set(keys)) == len(keys)
    new = {problem.template for problem in problems["new-templates"]}
    assert not new & {p.template for part in ("train", "dev", "test") for p in problems[part]}
    assert arithmetic.divide(dict(reversed(makers.items())), sizes=counts)[0] == problems
