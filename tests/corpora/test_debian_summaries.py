"""The bundled summaries keep their promises, and their extraction reads descriptions."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from corpora.debian_summaries.descriptions import (
    Description,
    clean,
    document_of,
    read_descriptions,
    reason_to_drop,
)
from corpora.debian_summaries.duplicates import (
    NEAR_THRESHOLD,
    NearDuplicateIndex,
    beginning_of,
    similarity,
    word_runs,
)
from corpora.debian_summaries.split import divide
from corpora.en_de.duplicates import normalize

from seqdistill.data.readers import read_examples

BUNDLE = Path(__file__).parents[2] / "src/seqdistill/bundled/debian-summaries"
Row = dict[str, str]
LONG = (
    "A viewer for images of many kinds that starts quickly and needs little memory. It shows whole "
    "folders, turns pictures and prints them on paper."
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    table: list[Row] = pq.read_table(BUNDLE / "corpus.parquet").to_pylist()
    return table


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BUNDLE / "corpus.json").read_text("utf-8"))
    return content


def described(package: str, source: str, document: str = LONG, summary: str = "view images") -> Any:
    return Description(package, source, document, summary)


# --- the bundled file ---------------------------------------------------------------------------


def test_manifest_names_checksum_size_and_counts(rows: list[Row], manifest: dict[str, Any]) -> None:
    content = (BUNDLE / "corpus.parquet").read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest["sha256"]
    assert len(content) == manifest["bytes"] < 6_000_000
    found = Counter(row["split"] for row in rows)
    assert {part: counts["pairs"] for part, counts in manifest["counts"].items()} == found
    assert (found["dev"], found["test"]) == (1000, 2000)


def test_a_recipe_can_read_every_split() -> None:
    examples = read_examples("bundled:debian-summaries", split="dev")
    assert len(examples) == 1000
    assert all(20 <= len(e.source.split()) <= 300 for e in examples)
    assert all(e.target is not None and 2 <= len(e.target.split()) <= 16 for e in examples)


def test_no_source_package_lies_in_two_parts_and_held_out_ones_have_one_row(
    rows: list[Row],
) -> None:
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["source_package"], set()).add(row["split"])
    assert [name for name, found in parts.items() if len(found) > 1] == []
    held_out = Counter(row["source_package"] for row in rows if row["split"] != "train")
    assert max(held_out.values()) == 1
    assert max(Counter(row["source_package"] for row in rows).values()) <= 5
    assert len({row["id"] for row in rows}) == len(rows)


def test_no_held_out_summary_is_in_train(rows: list[Row]) -> None:
    train = {normalize(row["summary"]) for row in rows if row["split"] == "train"}
    held_out = {normalize(row["summary"]) for row in rows if row["split"] != "train"}
    assert not train & held_out


def test_no_held_out_document_has_a_near_duplicate_by_naive_sets(rows: list[Row]) -> None:
    draw = random.Random(3)
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
            assert number < NEAR_THRESHOLD * (len(mine) + len(other) - number)
    assert shared > 0


def test_no_family_of_packages_dominates(rows: list[Row]) -> None:
    families = Counter(row["id"].split("/")[1].split("-")[0] for row in rows)
    assert families.most_common(1)[0][1] < 0.1 * len(rows)
    assert families["librust"] < 0.01 * len(rows), "templates of one sentence"


# --- extraction ---------------------------------------------------------------------------------


def test_a_document_is_running_text_without_tables_and_addresses() -> None:
    description = (
        "short\n Shows images. See https://example.org for\n more of it.\n .\n It can:\n"
        "  * turn pictures\n  * print them\n .\n   a table | here\n .\n The end."
    )
    assert document_of(description) == ("Shows images. It can: turn pictures; print them; The end.")


def test_descriptions_know_their_source_package() -> None:
    text = f"Package: eog-doc\nDescription-md5: x\nDescription-en: view images\n {LONG}\n\n"
    (found,) = read_descriptions(text, {"eog-doc": "eog"})
    assert found == described("eog-doc", "eog")
    assert found.identifier == "debian/eog-doc"


@pytest.mark.parametrize(
    ("document", "summary", "reason"),
    [
        (LONG, "view images", None),
        (LONG, "viewer", "length of the summary"),
        ("Too short a text.", "view images", "length of the document"),
        (LONG, "view images (dummy package)", "transitional, dummy or metapackage"),
        (LONG + " This is a metapackage.", "view images", "transitional, dummy or metapackage"),
        (LONG, "see <this> one", "markup in the summary"),
        (LONG + " Ã¼ber", "view images", "broken encoding"),
        (LONG + " 0.1.2.3" * 60, "view images", "mostly no words"),
    ],
)
def test_each_rule_names_its_reason(document: str, summary: str, reason: str | None) -> None:
    assert reason_to_drop(described("p", "p", document, summary)) == reason


def test_the_first_version_of_a_package_counts() -> None:
    kept, removed = clean(iter([described("p", "p"), described("p", "p", LONG + " More.")]))
    assert kept == [described("p", "p")]
    assert removed == {"another version of a package": 1}


# --- duplicates and split -----------------------------------------------------------------------


def random_documents(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    base = [" ".join(draw.choices("abcdefgh", k=25)) for _ in range(count // 3)]
    changed = []
    for text in base * 2:
        words = text.split()
        for place in draw.sample(range(25), draw.randint(0, 6)):
            words[place] = "x"
        changed.append(" ".join(words))
    return base + changed


def test_index_finds_exactly_the_near_duplicates_that_comparing_all_finds() -> None:
    documents = random_documents(150, seed=1)
    index = NearDuplicateIndex(documents)
    for text in documents[:70]:
        index.add(text)
    runs = [word_runs(text) for text in documents]
    outcomes = set()
    for text, mine in zip(documents[70:], runs[70:], strict=True):
        naive = {n for n in range(70) if similarity(mine, runs[n]) >= NEAR_THRESHOLD}
        found = index.find_near(text)
        assert (found in naive) if naive else (found is None)
        outcomes.add(bool(naive))
    assert outcomes == {True, False}


def test_families_begin_alike_whatever_the_name() -> None:
    counts = Counter(dict.fromkeys(["this", "package", "contains", "the", "crate"], 1000))
    first, second = (
        beginning_of(f"This package contains the {name} crate. More.", counts)
        for name in ("serde", "rand core")
    )
    assert first == second == "this package contains the X crate"


def many(count: int) -> list[Description]:
    draw = random.Random(5)
    found = []
    for number in range(count):
        text = " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(25))
        found.append(described(f"p{number}", f"s{number // 2}", text, f"summary of {text[:30]}"))
    return found


def test_split_keeps_source_packages_apart_and_does_not_depend_on_order() -> None:
    found = many(120)
    split = divide(found, num_dev=10, num_test=20, max_train=1000)
    packages = {part: {d.source_package for d in rows} for part, rows in split.parts.items()}
    assert (len(split.parts["dev"]), len(split.parts["test"])) == (10, 20)
    assert not packages["train"] & (packages["dev"] | packages["test"])
    assert not packages["dev"] & packages["test"]
    assert len(split.parts["train"]) + split.removed.total() == 120 - 30
    again = divide(found[::-1], num_dev=10, num_test=20, max_train=1000)
    assert again.parts == split.parts


def test_split_leaves_out_what_is_near_or_has_a_held_out_summary() -> None:
    found = many(60)
    test = divide(found, num_dev=0, num_test=1, max_train=1000).parts["test"][0]
    other = found[1] if test.source_package != found[1].source_package else found[3]
    same_summary = described("a", "za", other.document + " end of it all", test.summary)
    near = described("b", "zb", test.document + " end", "another summary")
    split = divide([*found, same_summary, near], num_dev=0, num_test=1, max_train=1000)
    assert split.parts["test"] in ([test], [near]), "the least hash is held out"
    assert split.removed["near duplicate of dev or test"] == 1
    train = {d.package for d in split.parts["train"]}
    assert not {"b", test.package} & train
    assert "a" not in train


def test_too_few_packages_are_refused() -> None:
    with pytest.raises(ValueError, match="only 5 source packages"):
        divide(many(10), num_dev=3, num_test=3, max_train=10)
