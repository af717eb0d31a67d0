"""The bundled English-German corpus keeps its promises, and its extraction reads the formats."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from corpora.en_de import ddtp, gnomehelp, lohelp
from corpora.en_de.clean import reason_to_drop, strip_debris
from corpora.en_de.duplicates import (
    NEAR_THRESHOLD,
    NearDuplicateIndex,
    character_grams,
    jaccard,
    normalize,
    template_of,
)
from corpora.en_de.fetch import Locked, describe_changes
from corpora.en_de.sentences import GAP, Pair, align_unit, split_sentences
from corpora.en_de.split import divide

BUNDLE = Path(__file__).parents[2] / "src/seqdistill/bundled/en-de"
SIDES = ("source", "target")
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    table: list[Row] = pq.read_table(BUNDLE / "corpus.parquet").to_pylist()
    return table


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BUNDLE / "corpus.json").read_text("utf-8"))
    return content


@pytest.fixture(scope="module")
def normalized(rows: list[Row]) -> dict[str, dict[str, list[str]]]:
    """Split -> side -> normalized sentences."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for side in SIDES:
            sentences = found.setdefault(row["split"], {}).setdefault(side, [])
            sentences.append(normalize(row[side]))
    return found


def make_pair(source: str, target: str, document: str = "ddtp/x", number: int = 1) -> Pair:
    return Pair(source, target, "ddtp", document, number)


# --- the bundled file ---------------------------------------------------------------------------


def test_manifest_names_the_checksum_of_the_file(manifest: dict[str, Any]) -> None:
    content = (BUNDLE / "corpus.parquet").read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest["sha256"]
    assert len(content) == manifest["bytes"] < 12_000_000


def test_manifest_counts_what_is_there(rows: list[Row], manifest: dict[str, Any]) -> None:
    found = Counter((row["split"], row["origin"]) for row in rows)
    for part, origins in manifest["counts"].items():
        assert origins["all"]["pairs"] == sum(row["split"] == part for row in rows)
        for origin in ("ddtp", "gnomehelp", "lohelp"):
            assert origins[origin]["pairs"] == found[part, origin] > 0


def test_identifiers_are_unique_and_held_out_parts_have_their_size(rows: list[Row]) -> None:
    assert len({row["id"] for row in rows}) == len(rows)
    sizes = Counter(row["split"] for row in rows)
    assert sizes["dev"] == sizes["test"] == 2000
    assert set(sizes) == {"train", "dev", "test"}


def test_no_document_lies_in_two_parts(rows: list[Row]) -> None:
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["document"], set()).add(row["split"])
    assert [name for name, found in parts.items() if len(found) > 1] == []


def test_held_out_sentences_are_sentences_and_no_document_dominates(rows: list[Row]) -> None:
    held_out = [row for row in rows if row["split"] != "train"]
    assert min(len(row["source"].split()) for row in held_out) >= 4
    assert max(Counter(row["document"] for row in held_out).values()) <= 20


@pytest.mark.parametrize("side", SIDES)
def test_no_normalized_sentence_is_shared(
    normalized: dict[str, dict[str, list[str]]], side: str
) -> None:
    train, dev, test = (set(normalized[part][side]) for part in ("train", "dev", "test"))
    assert not train & dev
    assert not train & test
    assert not dev & test


def gram_hashes(text: str) -> npt.NDArray[np.uint32]:
    """A hash of 20 bits for every character 5-gram of the text, in plain numpy."""
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    hashes = np.zeros(len(letters) - 4, np.uint32)
    for shift in range(5):
        hashes = (hashes + letters[shift : shift + len(hashes)]) * np.uint32(0x9E3779B1)
    return hashes >> np.uint32(12)


def naive_similarity(first: str, second: str) -> float:
    """Shared character 5-grams over all, with one space around each sentence."""
    grams = [{f" {text} "[k : k + 5] for k in range(len(text) - 2)} for text in (first, second)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


@pytest.mark.parametrize("side", SIDES)
def test_no_near_duplicate_by_a_naive_count(
    normalized: dict[str, dict[str, list[str]]], side: str
) -> None:
    """A hundred test sentences of this side against every train sentence.

    Whoever shares fewer than the threshold's share of a sentence's grams cannot be near to it;
    hash collisions only add candidates. All others are compared.
    """
    train = normalized["train"][side]
    owners = np.repeat(np.arange(len(train)), [len(sentence) + 1 for sentence in train])
    hashes = gram_hashes(" " + " ".join(train) + " ")
    owners = owners[: len(hashes)]
    num_compared = 0
    for sentence in random.Random(5).sample(normalized["test"][side], 100):
        mine = np.unique(gram_hashes(f" {sentence} "))
        wanted = np.zeros(2**20, bool)
        wanted[mine] = True
        shared = np.bincount(owners[wanted[hashes]], minlength=len(train))
        for candidate in np.flatnonzero(shared >= NEAR_THRESHOLD * len(mine) - 1):
            num_compared += 1
            other = train[candidate]
            assert naive_similarity(sentence, other) < NEAR_THRESHOLD, f"{sentence!r} ~ {other!r}"
    assert num_compared > 0


def test_naive_similarity_sees_a_planted_near_duplicate() -> None:
    sentence = "dieses paket enthält das plugin für xfce"
    assert naive_similarity(sentence, sentence) == 1.0
    assert naive_similarity(sentence, sentence + " 0") > NEAR_THRESHOLD
    assert naive_similarity(sentence, "ein ganz anderer satz über schriften") < 0.1


# --- extraction ---------------------------------------------------------------------------------

ENGLISH_LIST = """Package: gkrellm
Description-md5: abc
Description-en: GNU monitors
 With one process it shows many
 monitors. It has themes.
 .
  * shows the load of
    the processor
   | table |

Package: other
Description-md5: def
Description-en: not translated
"""
GERMAN_LIST = """Package: gkrellm
Description-md5: abc
Description-de: GNU-Monitore
 Mit einem Prozess zeigt es viele Monitore. Es
 kennt Themen.
 .
  * zeigt die Last
    des Prozessors
   | Tabelle |

Package: other
Description-md5: def
Description-de: <trans>
"""
PACKAGES_LIST = "Package: gkrellm-data\nVersion: 1\nSource: gkrellm (2)\n\nPackage: other\n"


def test_ddtp_joins_on_the_checksum_and_aligns_units() -> None:
    pairs = list(ddtp.extract(ENGLISH_LIST, GERMAN_LIST, PACKAGES_LIST))
    assert [(pair.source, pair.target) for pair in pairs[:3]] == [
        ("GNU monitors", "GNU-Monitore"),
        ("With one process it shows many monitors.", "Mit einem Prozess zeigt es viele Monitore."),
        ("It has themes.", "Es kennt Themen."),
    ]
    assert pairs[3].source.startswith("shows the load of the processor")
    assert pairs[0].identifier == "ddtp-gkrellm-0001"
    assert all("trans" not in pair.target for pair in pairs)


def test_ddtp_knows_source_packages() -> None:
    assert ddtp.source_packages(PACKAGES_LIST) == {"gkrellm-data": "gkrellm", "other": "other"}


def test_ddtp_leaves_out_blocks_of_another_shape() -> None:
    english = "title\n one text\n .\n last text"
    german = "Titel\n * ein Punkt\n .\n letzter Text"
    found = list(ddtp.align_descriptions(english, german))
    assert found == [("title", "Titel"), ("last text", "letzter Text")]


def test_lohelp_pairs_by_id_and_leaves_out_the_mac() -> None:
    html = (
        '<p id="par_id1" class="paragraph">{press} <span class="switchinline">'
        '<span hidden="true" id="MACx" class="MAC">X</span>'
        '<span hidden="true" id="defaultx">{key}</span></span>+Z<br>.</p>'
        '<p id="par_id2" class="code">{key} = 1</p><h2 id="hd_id3">{press}</h2>'
    )
    english = html.format(press="Press", key="Ctrl")
    german = html.format(press="Drücken Sie", key="Strg")
    found = list(lohelp.align_pages(english, german))
    assert found == [("Press Ctrl+Z.", "Drücken Sie Strg+Z."), ("Press", "Drücken Sie")]


def test_lohelp_marks_variants_of_applications() -> None:
    html = '<p id="par_1">a <span hidden="true" class="DRAW">page</span></p>'
    assert GAP in lohelp.read_paragraphs(html)[0][1]


def test_gnomehelp_reads_leaf_blocks_and_marks_gaps() -> None:
    page = """<page xmlns="http://projectmallard.org/1.0/"><info><desc>Save a file.</desc>
    <license><p>CC</p></license><title type="sort">x</title></info><title>Saving</title>
    <p>Press <keyseq><key>Ctrl</key> <key>S</key></keyseq> in
    <guiseq><gui>File</gui><gui>Save</gui></guiseq>, see <link xref="other"/>.</p></page>"""
    blocks = gnomehelp.read_page(page)
    assert [(tag, " ".join(text.split())) for tag, text in blocks] == [
        ("desc", "Save a file."),
        ("title", "Saving"),
        ("p", f"Press Ctrl+S in File ▸ Save, see {GAP}."),
    ]
    assert list(gnomehelp.align_blocks(blocks, blocks[1:])) == []


def test_guide_drops_navigation_code_and_heading_numbers() -> None:
    html = (
        '<body><div class="navheader"><p>next</p></div><h2>2.1. Hardware</h2>'
        "<p>Some <span>text</span>.</p><pre>ls</pre></body>"
    )
    assert gnomehelp.read_guide_page(html) == [("h2", "Hardware"), ("p", "Some text.")]


# --- sentences, cleaning, duplicates, split -----------------------------------------------------


def test_abbreviations_and_ordinals_do_not_end_a_sentence() -> None:
    text = "Es liest z.B. Bilder. Am 3. Mai (vgl. Abb. 2) kam es."
    assert split_sentences(text) == ["Es liest z.B. Bilder.", "Am 3. Mai (vgl. Abb. 2) kam es."]


def test_units_with_other_sentence_counts_stay_whole() -> None:
    assert list(align_unit("One. Two it is.", "Eins und zwei.")) == [
        ("One. Two it is.", "Eins und zwei.")
    ]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("This is fine.", "Das ist gut.", None),
        ("Word", "Wort hier", "length"),
        ("Use <b> here", "Hier <b> nutzen", "markup or placeholder"),
        ("Shows %s files", "Zeigt %s Dateien", "markup or placeholder"),
        ("See www.example now", "Siehe www.example jetzt", "markup or placeholder"),
        ("Same thing", "same thing", "identical"),
        ("One two", "eins zwei drei vier fünf sechs", "ratio"),
        ("It was (broken", "Es war (kaputt", "fragment"),
        ("A tool for the list of files.", "A tool for the lists of the files.", "untranslated"),
        ("It has 12 tools.", "Es hat 13 Werkzeuge.", "numbers differ"),
        ("For Ã¼ber here", "Für Ã¼ber hier", "broken encoding"),
    ],
)
def test_each_rule_names_its_reason(source: str, target: str, reason: str | None) -> None:
    assert reason_to_drop(make_pair(source, target)) == reason


def test_debris_in_front_goes() -> None:
    assert strip_debris(" *  Eine   Liste\n hier ,") == "Eine Liste hier,"


def test_index_finds_exactly_the_near_duplicates_that_comparing_all_finds() -> None:
    generator = random.Random(1)
    text = "this package contains the header files of a small library for gnome kde"
    words = text.split()
    corpus = [" ".join(generator.choices(words, k=generator.randint(2, 9))) for _ in range(300)]
    index = NearDuplicateIndex(corpus)
    for sentence in corpus[:150]:
        index.add(sentence)
    grams = [character_grams(sentence) for sentence in corpus]
    for sentence, mine in zip(corpus[150:], grams[150:], strict=True):
        naive = any(jaccard(mine, other) >= NEAR_THRESHOLD for other in grams[:150])
        assert index.has_near(sentence) == naive


def test_templates_mask_rare_words() -> None:
    counts = Counter(dict.fromkeys(["this", "package", "contains", "the"], 1000))
    assert template_of("this package contains the foo bar", counts) == "this package contains the X"
    assert template_of("foo bar package", counts) is None


def test_split_keeps_documents_apart_and_does_not_depend_on_order() -> None:
    generator = random.Random(2)
    letters = "abcdefghijklmnop"
    pairs = []
    for number in range(400):
        words = ["".join(generator.choices(letters, k=7)) for _ in range(12)]
        document = f"ddtp/{number // 4}"
        pairs.append(make_pair(" ".join(words[:6]), " ".join(words[6:]), document, number % 4))
    split = divide(pairs, 20)
    documents = {part: {pair.document for pair in found} for part, found in split.parts.items()}
    assert len(split.parts["dev"]) == len(split.parts["test"]) == 20
    assert not documents["train"] & (documents["dev"] | documents["test"])
    assert not documents["dev"] & documents["test"]
    again = divide(pairs[::-1], 20)
    assert set(again.parts["test"]) == set(split.parts["test"])


def test_changed_packages_are_named_with_their_direction() -> None:
    locked = {"eog": Locked("eog", "43.2-1", "a")}
    same = {"eog": Locked("eog", "43.2-1", "b")}
    assert "same version but other contents" in describe_changes(locked, same)[0]
    gone = describe_changes(locked, {})
    assert gone == ["eog is in the lock, but the build no longer uses it"]
