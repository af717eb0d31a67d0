"""Debian package descriptions and their German translations (DDTP).

The English and the German list are joined on the checksum of the English description, so a
translation is used only where it belongs to exactly this English text. Verbatim lines (tables,
commands) are counted for the alignment but never become pairs.
"""

import re
from collections.abc import Iterable, Iterator

from corpora.en_de.sentences import Pair, align_unit

BULLET = re.compile(r"^(\s*)(?:[*+•·o]|-{1,2})\s+(?=\S)")
UNTRANSLATED = "<trans>"

Unit = tuple[str, str]


def read_stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of an apt list; continuation lines keep their leading space."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in block.split("\n"):
            if line.startswith((" ", "\t")) and key:
                fields[key] += "\n" + line
            elif ":" in line:
                key, value = line.split(":", 1)
                fields[key] = value.strip()
        if fields:
            yield fields


def source_packages(packages_list: str) -> dict[str, str]:
    """Binary package name -> source package name, from the text of a Packages list."""
    sources = {}
    for match in re.finditer(
        r"^Package: (\S+)\n(?:(?!Package: ).+\n)*", packages_list, flags=re.MULTILINE
    ):
        found = re.search(r"^Source: (\S+)", match.group(0), flags=re.MULTILINE)
        sources[match.group(1)] = found.group(1) if found else match.group(1)
    return sources


def parse_block(lines: Iterable[str]) -> list[Unit]:
    """The units (kind, text) of one paragraph block: "text", "item" or "verbatim"."""
    units: list[Unit] = []
    last_length = 0
    for line in lines:
        body = line[1:]
        bullet = BULLET.match(body)
        kind, previous = "text", units[-1][0] if units else ""
        if bullet:
            units.append(("item", body[bullet.end() :]))
        elif body.startswith(" ") and previous != "item":
            units.append(("verbatim", body.strip()))
        elif previous == "item":
            # Some authors do not indent the rest of an item: believe a full or lower-case line.
            if body.startswith(" ") or body[:1].islower() or last_length >= 60:
                units[-1] = ("item", units[-1][1] + " " + body.strip())
            else:
                units.append((kind, body))
        elif previous == kind:
            units[-1] = (kind, units[-1][1] + " " + body)
        else:
            units.append((kind, body))
        last_length = len(body)
    return units


def parse_description(description: str) -> list[list[Unit]]:
    """The blocks of a description, the short description first, split at the " ." lines."""
    first, *lines = description.split("\n")
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == ".":
            blocks.append([])
        else:
            blocks[-1].append(line)
    return [[("title", first)], *(parse_block(block) for block in blocks if block)]


def align_descriptions(english: str, german: str) -> Iterator[tuple[str, str]]:
    """Sentence pairs of two descriptions; blocks of different shape are left out."""
    sources, targets = parse_description(english), parse_description(german)
    if len(sources) != len(targets):
        sources, targets = sources[:1], targets[:1]
    for source_block, target_block in zip(sources, targets, strict=True):
        kinds = [kind for kind, _ in source_block]
        if kinds != [kind for kind, _ in target_block]:
            continue
        for (kind, source), (_, target) in zip(source_block, target_block, strict=True):
            if kind != "verbatim" and UNTRANSLATED not in source + target:
                yield from align_unit(source, target)


def extract(english_list: str, german_list: str, packages_list: str) -> Iterator[Pair]:
    """Pairs of all translated descriptions; the document is the Debian source package."""
    sources = source_packages(packages_list)
    english = {
        stanza["Description-md5"]: stanza["Description-en"]
        for stanza in read_stanzas(english_list)
        if "Description-en" in stanza
    }
    numbers: dict[str, int] = {}
    seen: set[str] = set()
    for stanza in read_stanzas(german_list):
        checksum = stanza.get("Description-md5", "")
        if checksum not in english or checksum in seen:
            continue
        seen.add(checksum)
        document = "ddtp/" + sources.get(stanza["Package"], stanza["Package"])
        for source, target in align_descriptions(english[checksum], stanza["Description-de"]):
            numbers[document] = numbers.get(document, 0) + 1
            yield Pair(source, target, "ddtp", document, numbers[document])
